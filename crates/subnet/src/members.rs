//! Who the nodes of a subnet are: what a block says of an epoch's members, and the state keeps.
//!
//! # Encoding
//! `count u8 | count x (identity (32) | query key (32) | length u16 | address) | length u16 | sharing`, integers
//! big-endian. Members have one encoding.
//!
//! # Units and bounds
//! 1 to [`NODE_COUNT_MAX`] nodes; all of it at most [`MEMBERS_BYTES_MAX`].
use crate::sync::Reader;
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most nodes that a subnet has.
pub const NODE_COUNT_MAX: u32 = 128;
/// The most bytes of an encoding.
pub const MEMBERS_BYTES_MAX: usize = 64 << 10;

/// A node of a subnet, as everybody may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its Ed25519 identity: it connects and votes with it.
    pub identity: [u8; 32],
    /// The Ed25519 key that verifies its answers to queries.
    pub query_key: [u8; 32],
    /// Where its peers reach it; empty where that is not fixed.
    pub address: String,
}

/// The nodes of a subnet in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// By their numbers: in the order of their identities.
    pub nodes: Vec<Member>,
    /// How they share the subnet's key, as consensus encodes it.
    #[serde(with = "serde_bytes")]
    pub sharing: Vec<u8>,
}

impl Members {
    /// See the module.
    ///
    /// # Panics
    /// If a bound is exceeded, which consensus does not do.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(self.nodes.len()).expect("at most NODE_COUNT_MAX")];
        for node in &self.nodes {
            bytes.extend_from_slice(&node.identity);
            bytes.extend_from_slice(&node.query_key);
            append(&mut bytes, node.address.as_bytes());
        }
        append(&mut bytes, &self.sharing);
        bytes
    }

    /// The members in these bytes, if they are an encoding of some.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MEMBERS_BYTES_MAX).then_some(())?;
        let mut reader = Reader::new(bytes);
        let count = reader.u8()?;
        (1..=NODE_COUNT_MAX)
            .contains(&u32::from(count))
            .then_some(())?;
        let mut nodes: Vec<Member> = Vec::new();
        for _ in 0..count {
            let identity = reader.array()?;
            let query_key = reader.array()?;
            let address = String::from_utf8(prefixed(&mut reader)?).ok()?;
            let is_next = nodes.last().is_none_or(|last| last.identity < identity);
            is_next.then_some(())?;
            nodes.push(Member {
                identity,
                query_key,
                address,
            });
        }
        let sharing = prefixed(&mut reader)?;
        reader.is_at_end().then_some(Self { nodes, sharing })
    }

    /// The keys that verify answers to queries, DER, by the nodes' ids. A key that is no point has none.
    #[must_use]
    pub fn node_keys(&self) -> BTreeMap<Principal, Vec<u8>> {
        let keys = self.nodes.iter().filter_map(|node| {
            let key = ic_ed25519::PublicKey::deserialize_raw(&node.query_key).ok()?;
            let key = key.serialize_rfc8410_der();
            Some((Principal::self_authenticating(&key), key))
        });
        keys.collect()
    }
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).expect("at most MEMBERS_BYTES_MAX");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(part);
}

fn prefixed(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let length = u16::from_be_bytes(reader.array()?);
    Some(reader.bytes(usize::from(length))?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members() -> impl Strategy<Value = Members> {
        let node = (any::<[u8; 32]>(), ".{0,20}");
        let nodes = proptest::collection::btree_map(any::<[u8; 32]>(), node, 1..9);
        let sharing = proptest::collection::vec(any::<u8>(), 0..200);
        (nodes, sharing).prop_map(|(nodes, sharing)| Members {
            nodes: nodes
                .into_iter()
                .map(|(identity, (query_key, address))| Member {
                    identity,
                    query_key,
                    address,
                })
                .collect(),
            sharing,
        })
    }

    proptest! {
        #[test]
        fn members_have_one_encoding(members in members(), at: proptest::sample::Index) {
            let encoded = members.encode();
            prop_assert_eq!(Members::decode(&encoded), Some(members));
            prop_assert_eq!(Members::decode(&encoded[..at.index(encoded.len())]), None);
            prop_assert_eq!(Members::decode(&[&encoded[..], &[0]].concat()), None);
        }

        #[test]
        fn changed_bytes_decode_to_themselves_or_not_at_all(
            members in members(), at: proptest::sample::Index, to: u8,
        ) {
            let mut bytes = members.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Some(members) = Members::decode(&bytes) {
                prop_assert_eq!(members.encode(), bytes);
            }
        }
    }

    #[test]
    fn nodes_are_in_order_and_few() {
        let node = |first| Member {
            identity: [first; 32],
            query_key: [0; 32],
            address: String::new(),
        };
        let decoded = |nodes: Vec<Member>| {
            let sharing = Vec::new();
            Members::decode(&Members { nodes, sharing }.encode())
        };
        assert!(decoded(vec![node(1), node(2)]).is_some());
        assert!(decoded(vec![node(2), node(1)]).is_none());
        assert!(decoded(vec![node(1), node(1)]).is_none());
        assert!(decoded(Vec::new()).is_none());
        assert!(decoded((0..129).map(node).collect()).is_none());
    }
}
