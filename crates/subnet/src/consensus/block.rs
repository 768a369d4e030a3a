//! The block that consensus orders: a payload, its height, and its parent.
//!
//! # Encoding
//!
//! `parent (32) | height (8) | time_ns (8) | count (2) | count x (length (4) | bytes)`, all
//! integers big-endian. One block has one encoding; the digest is SHA-256 of a domain separator
//! and the encoding.
//!
//! # Units and bounds
//!
//! At most [`MESSAGE_COUNT_MAX`] messages of together at most [`MESSAGE_BYTES_MAX`] bytes. The
//! decoder checks both before it allocates.
use crate::application::{FinalizedBlock, Payload};
use bytes::{Buf as _, BufMut};
use commonware_codec::{Buf, EncodeSize, Error, FixedSize, Read, ReadExt as _, Write};
use commonware_consensus::{BoundedBlock, Heightable, types::Height};
use commonware_cryptography::{Digest as _, Digestible, Hasher, Sha256, sha256::Digest};

/// The most messages that a block carries.
pub const MESSAGE_COUNT_MAX: usize = 1_000;

/// The most bytes that a block's messages have together.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

const HEADER_BYTES: usize = Digest::SIZE + 8 + 8 + 2;
const MESSAGE_HEADER_BYTES: usize = 4;
const DIGEST_DOMAIN: &[u8] = b"\x0dlockstep-block";

/// A block of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    parent: Digest,
    height: u64,
    payload: Payload,
}

impl Block {
    /// The agreed start of every chain: height 0, time 0, empty. It is never executed.
    pub(crate) fn genesis() -> Self {
        Self {
            parent: Digest::EMPTY,
            height: 0,
            payload: Payload::default(),
        }
    }

    /// The block after `parent`. Messages from the first that exceeds a bound on are left out.
    pub(crate) fn child(parent: &Self, parent_digest: Digest, mut payload: Payload) -> Self {
        let mut bytes = 0;
        let fitting = payload
            .messages
            .iter()
            .take(MESSAGE_COUNT_MAX)
            .take_while(|message| {
                bytes += message.len();
                bytes <= MESSAGE_BYTES_MAX
            })
            .count();
        payload.messages.truncate(fitting);
        Self {
            parent: parent_digest,
            height: parent.height + 1,
            payload,
        }
    }

    pub(crate) fn payload(&self) -> &Payload {
        &self.payload
    }

    /// What the application executes.
    pub(crate) fn finalized(&self, digest: Digest) -> FinalizedBlock {
        FinalizedBlock {
            height: self.height,
            digest: digest.0,
            payload: self.payload.clone(),
        }
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.height)
    }
}

impl Digestible for Block {
    type Digest = Digest;

    fn digest(&self) -> Digest {
        let mut encoded = Vec::with_capacity(self.encode_size());
        self.write(&mut encoded);
        Sha256::hash(&[DIGEST_DOMAIN, &encoded])
    }
}

impl commonware_consensus::Block for Block {
    fn parent(&self) -> Digest {
        self.parent
    }
}

impl BoundedBlock for Block {
    fn max_encode_size((): &Self::Cfg) -> usize {
        HEADER_BYTES + MESSAGE_COUNT_MAX * MESSAGE_HEADER_BYTES + MESSAGE_BYTES_MAX
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        let messages = self.payload.messages.iter();
        HEADER_BYTES
            + messages
                .map(|message| MESSAGE_HEADER_BYTES + message.len())
                .sum::<usize>()
    }
}

impl Write for Block {
    fn write(&self, buffer: &mut impl BufMut) {
        self.parent.write(buffer);
        buffer.put_u64(self.height);
        buffer.put_u64(self.payload.time_ns);
        buffer.put_u16(u16::try_from(self.payload.messages.len()).expect("bounded at creation"));
        for message in &self.payload.messages {
            buffer.put_u32(u32::try_from(message.len()).expect("bounded at creation"));
            buffer.put_slice(message);
        }
    }
}

impl Read for Block {
    type Cfg = ();

    fn read_cfg(buffer: &mut impl Buf, (): &Self::Cfg) -> Result<Self, Error> {
        let parent = Digest::read(buffer)?;
        let height = u64::read(buffer)?;
        let time_ns = u64::read(buffer)?;
        let count = usize::from(u16::read(buffer)?);
        if count > MESSAGE_COUNT_MAX {
            return Err(Error::InvalidLength(count));
        }
        let mut messages = Vec::with_capacity(count.min(buffer.remaining() / MESSAGE_HEADER_BYTES));
        let mut bytes_left = MESSAGE_BYTES_MAX;
        for _ in 0..count {
            let size = u32::read(buffer)? as usize;
            bytes_left = bytes_left
                .checked_sub(size)
                .ok_or(Error::InvalidLength(size))?;
            if buffer.remaining() < size {
                return Err(Error::EndOfBuffer);
            }
            messages.push(buffer.copy_to_bytes(size));
        }
        Ok(Self {
            parent,
            height,
            payload: Payload { time_ns, messages },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use commonware_codec::{DecodeExt as _, Encode as _};
    use proptest::prelude::*;

    fn block(messages: Vec<Bytes>) -> Block {
        let genesis = Block::genesis();
        Block::child(
            &genesis,
            genesis.digest(),
            Payload {
                time_ns: 7,
                messages,
            },
        )
    }

    proptest! {
        #[test]
        fn a_block_has_one_encoding(
            time_ns: u64,
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let genesis = Block::genesis();
            let messages = messages.into_iter().map(Bytes::from).collect();
            let block = Block::child(&genesis, genesis.digest(), Payload { time_ns, messages });
            let encoded = block.encode();
            prop_assert_eq!(encoded.len(), block.encode_size());
            let decoded = Block::decode(encoded.clone()).unwrap();
            prop_assert_eq!(&decoded, &block);
            prop_assert_eq!(decoded.digest(), block.digest());
            prop_assert!(Block::decode(encoded.slice(..encoded.len() - 1)).is_err());
        }

        #[test]
        fn arbitrary_bytes_decode_to_themselves_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(block) = Block::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(block.encode(), bytes);
            }
        }
    }

    #[test]
    fn the_digest_covers_every_field() {
        let base = block(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"c")]);
        let moved = block(vec![Bytes::from_static(b"a"), Bytes::from_static(b"bc")]);
        let later = Block {
            payload: Payload {
                time_ns: 8,
                ..base.payload.clone()
            },
            ..base.clone()
        };
        let higher = Block {
            height: 2,
            ..base.clone()
        };
        let orphan = Block {
            parent: base.digest(),
            ..base.clone()
        };
        for other in [moved, later, higher, orphan] {
            assert_ne!(other.digest(), base.digest());
        }
    }

    #[test]
    fn a_proposal_keeps_the_messages_that_fit() {
        let many = block(vec![Bytes::from_static(b"x"); MESSAGE_COUNT_MAX + 5]);
        assert_eq!(many.payload.messages.len(), MESSAGE_COUNT_MAX);
        let half = Bytes::from(vec![0; MESSAGE_BYTES_MAX / 2]);
        let large = block(vec![half.clone(), half, Bytes::from_static(b"x")]);
        assert_eq!(large.payload.messages.len(), 2);
        assert!(large.encode_size() <= Block::max_encode_size(&()));
        assert!(Block::decode(large.encode()).is_ok());
    }

    #[test]
    fn the_decoder_refuses_more_than_the_bounds() {
        let many = Block {
            payload: Payload {
                time_ns: 0,
                messages: vec![Bytes::new(); MESSAGE_COUNT_MAX + 1],
            },
            ..Block::genesis()
        };
        assert!(matches!(
            Block::decode(many.encode()),
            Err(Error::InvalidLength(_))
        ));
        let large = Block {
            payload: Payload {
                time_ns: 0,
                messages: vec![Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])],
            },
            ..Block::genesis()
        };
        assert!(matches!(
            Block::decode(large.encode()),
            Err(Error::InvalidLength(_))
        ));
    }
}
