//! Certificates and their pruned hash trees, as others send them.
//!
//! # Design
//! The interface specification's "Encoding of certificates": arrays that begin with the kind of a node.
//! `ic_certification` decodes them only where bytes can be borrowed from what is decoded.
//!
//! # Units and bounds
//! The decoder of CBOR bounds how deep a tree is, and so the stack that whoever walks it takes.
use ic_certification::{HashTree, empty, fork, labeled, leaf, pruned};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, SeqAccess, Visitor},
};
use serde_bytes::ByteBuf;
use std::fmt;

/// Tag 55799, with which self-described CBOR begins.
pub(crate) const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

/// A certificate whose signature is still to be checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Certificate {
    pub(crate) tree: Witness,
    pub(crate) signature: ByteBuf,
    pub(crate) delegation: Option<IgnoredAny>,
}

impl Certificate {
    /// Decodes a certificate that nothing follows.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.strip_prefix(&SELF_DESCRIBED).unwrap_or(bytes);
        let certificate = ciborium::from_reader(&mut bytes).ok()?;
        bytes.is_empty().then_some(certificate)
    }
}

/// A pruned hash tree.
pub(crate) struct Witness(pub(crate) HashTree);

impl<'de> Deserialize<'de> for Witness {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Node).map(Self)
    }
}

struct Node;

impl<'de> Visitor<'de> for Node {
    type Value = HashTree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a hash tree")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<HashTree, A::Error> {
        let tree = match next::<u8, A>(&mut parts)? {
            0 => empty(),
            1 => {
                let Witness(left) = next(&mut parts)?;
                let Witness(right) = next(&mut parts)?;
                fork(left, right)
            }
            2 => {
                let label: ByteBuf = next(&mut parts)?;
                let Witness(below) = next(&mut parts)?;
                labeled(label.into_vec(), below)
            }
            3 => leaf(next::<ByteBuf, A>(&mut parts)?.into_vec()),
            4 => {
                let digest: ByteBuf = next(&mut parts)?;
                let digest = <[u8; 32]>::try_from(digest.into_vec());
                pruned(digest.map_err(|_| A::Error::custom("a digest has 32 bytes"))?)
            }
            kind => return Err(A::Error::custom(format!("no kind of node: {kind}"))),
        };
        match parts.next_element::<IgnoredAny>()? {
            None => Ok(tree),
            Some(_) => Err(A::Error::custom("a node has too many parts")),
        }
    }
}

fn next<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(parts: &mut A) -> Result<T, A::Error> {
    let part = parts.next_element()?;
    part.ok_or_else(|| A::Error::custom("a node has too few parts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Option<HashTree> {
        let tree: Option<Witness> = ciborium::from_reader(bytes).ok();
        tree.map(|Witness(tree)| tree)
    }

    #[test]
    fn every_kind_of_node_is_read_as_it_is_written() {
        let tree = fork(
            labeled("a", fork(leaf("value"), empty())),
            labeled(vec![0xff], pruned([7; 32])),
        );
        let mut bytes = Vec::new();
        ciborium::into_writer(&tree, &mut bytes).expect("a vector takes every byte");
        assert_eq!(decode(&bytes), Some(tree));
    }

    #[test]
    fn what_is_no_node_is_refused() {
        // The leaf `a`, to which something is done.
        assert!(decode(&[0x82, 3, 0x41, b'a']).is_some());
        for bytes in [
            &[0x80][..],
            &[0x81, 1],
            &[0x81, 3],
            &[0x82, 0, 0],
            &[0x83, 3, 0x41, b'a', 0],
            &[0x82, 5, 0x41, b'a'],
            &[0x82, 4, 0x41, b'a'],
            &[0x82, 2, 0x41],
            &[0x82, 0x20, 0x41, b'a'],
            &[0xa0],
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
