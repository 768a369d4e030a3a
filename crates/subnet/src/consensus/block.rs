//! The block that consensus orders: a payload, its height, and its parent.
//!
//! # Encoding
//!
//! `parent (32) | height (8) | time_ns (8) | count (2) | count x (length (4) | bytes) | count (1) | count x
//! (height (8) | signature (48)) | switch (1) [| epoch (8) | protocol version (8) | length (4) | members]`, all integers
//! big-endian. One block has one encoding; the digest is SHA-256 of a domain separator and the encoding.
//!
//! # Units and bounds
//!
//! At most [`MESSAGE_COUNT_MAX`] messages of together at most [`MESSAGE_BYTES_MAX`] bytes, and at most
//! [`BEACON_COUNT_MAX`] signatures, whose heights increase and are below the block's; the members of the epoch that it
//! orders, if it does, have at most [`MEMBERS_BYTES_MAX`]. The decoder checks this before it allocates.
use crate::{
    application::{Beacon, FinalizedBlock, Payload, Switch},
    members::{MEMBERS_BYTES_MAX, Members},
};
use bytes::{Buf as _, BufMut};
use commonware_codec::{Buf, EncodeSize, Error, FixedSize, Read, ReadExt as _, Write};
use commonware_consensus::{BoundedBlock, Heightable, types::Height};
use commonware_cryptography::{Digest as _, Digestible, Hasher, Sha256, sha256::Digest};
use std::sync::Arc;

/// The most messages that a block carries.
pub const MESSAGE_COUNT_MAX: usize = 1_000;

/// The most bytes that a block's messages have together.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The most signatures of earlier heights that a block brings.
pub(crate) const BEACON_COUNT_MAX: usize = 16;

const HEADER_BYTES: usize = Digest::SIZE + 8 + 8 + 2 + 1 + 1;
const SWITCH_HEADER_BYTES: usize = 8 + 8 + 4;
const BEACON_BYTES: usize = 8 + 48;
const MESSAGE_HEADER_BYTES: usize = 4;
const DIGEST_DOMAIN: &[u8] = b"\x10lockstep-block-3";

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

    /// The block after `parent`. Messages from the first that exceeds a bound on are left out, and so are
    /// beacons, and beacons of heights that are not below it.
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
        payload
            .beacons
            .retain(|beacon| beacon.height <= parent.height);
        payload.beacons.truncate(BEACON_COUNT_MAX);
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
        HEADER_BYTES
            + MESSAGE_COUNT_MAX * MESSAGE_HEADER_BYTES
            + MESSAGE_BYTES_MAX
            + BEACON_COUNT_MAX * BEACON_BYTES
            + SWITCH_HEADER_BYTES
            + MEMBERS_BYTES_MAX
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        let messages = self.payload.messages.iter();
        HEADER_BYTES
            + messages
                .map(|message| MESSAGE_HEADER_BYTES + message.len())
                .sum::<usize>()
            + self.payload.beacons.len() * BEACON_BYTES
            + self.payload.switch.as_ref().map_or(0, |switch| {
                SWITCH_HEADER_BYTES + switch.members.encode().len()
            })
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
        buffer.put_u8(u8::try_from(self.payload.beacons.len()).expect("bounded at creation"));
        for beacon in &self.payload.beacons {
            buffer.put_u64(beacon.height);
            buffer.put_slice(&beacon.signature);
        }
        buffer.put_u8(u8::from(self.payload.switch.is_some()));
        if let Some(switch) = &self.payload.switch {
            buffer.put_u64(switch.epoch);
            buffer.put_u64(switch.protocol_version);
            let members = switch.members.encode();
            buffer.put_u32(u32::try_from(members.len()).expect("at most MEMBERS_BYTES_MAX"));
            buffer.put_slice(&members);
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
        let beacons = read_beacons(buffer, height)?;
        let switch = read_switch(buffer)?.map(Arc::new);
        Ok(Self {
            parent,
            height,
            payload: Payload {
                time_ns,
                messages,
                beacons,
                switch,
            },
        })
    }
}

fn read_switch(buffer: &mut impl Buf) -> Result<Option<Switch>, Error> {
    match u8::read(buffer)? {
        0 => return Ok(None),
        1 => {}
        tag => return Err(Error::InvalidEnum(tag)),
    }
    let epoch = u64::read(buffer)?;
    let protocol_version = u64::read(buffer)?;
    let length = u32::read(buffer)? as usize;
    if length > MEMBERS_BYTES_MAX {
        return Err(Error::InvalidLength(length));
    }
    if buffer.remaining() < length {
        return Err(Error::EndOfBuffer);
    }
    let members = Members::decode(&buffer.copy_to_bytes(length));
    Ok(Some(Switch {
        epoch,
        protocol_version,
        members: members.ok_or(Error::Invalid("block", "these are no members"))?,
    }))
}

fn read_beacons(buffer: &mut impl Buf, height: u64) -> Result<Vec<Beacon>, Error> {
    let count = usize::from(u8::read(buffer)?);
    if count > BEACON_COUNT_MAX {
        return Err(Error::InvalidLength(count));
    }
    let mut beacons: Vec<Beacon> = Vec::with_capacity(count);
    for _ in 0..count {
        let beacon = Beacon {
            height: u64::read(buffer)?,
            signature: <[u8; 48]>::read(buffer)?,
        };
        let after = beacons.last().map_or(0, |beacon| beacon.height);
        if beacon.height <= after || beacon.height >= height {
            return Err(Error::Invalid(
                "block",
                "heights of beacons do not increase to its own",
            ));
        }
        beacons.push(beacon);
    }
    Ok(beacons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::Member;
    use bytes::Bytes;
    use commonware_codec::{DecodeExt as _, Encode as _};
    use proptest::prelude::*;

    fn beacon(height: u64) -> Beacon {
        Beacon {
            height,
            signature: [height as u8; 48],
        }
    }

    fn switch() -> impl Strategy<Value = Arc<Switch>> {
        let sharing = proptest::collection::vec(any::<u8>(), 0..40);
        (any::<[u64; 2]>(), sharing).prop_map(|([epoch, protocol_version], sharing)| {
            let node = Member {
                identity: [1; 32],
                query_key: [2; 32],
                address: "host:1".to_owned(),
            };
            let nodes = vec![node];
            Arc::new(Switch {
                epoch,
                protocol_version,
                members: Members { nodes, sharing },
            })
        })
    }

    fn block(messages: Vec<Bytes>) -> Block {
        let genesis = Block::genesis();
        Block::child(
            &genesis,
            genesis.digest(),
            Payload {
                time_ns: 7,
                messages,
                ..Payload::default()
            },
        )
    }

    proptest! {
        #[test]
        fn a_block_has_one_encoding(
            time_ns: u64,
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            heights in proptest::collection::btree_set(1..1_000_u64, 0..20),
            switch in proptest::option::of(switch()),
        ) {
            let parent = Block { height: 1_000, ..Block::genesis() };
            let messages = messages.into_iter().map(Bytes::from).collect();
            let beacons = heights.into_iter().map(beacon).collect();
            let block = Block::child(&parent, parent.digest(), Payload { time_ns, messages, beacons, switch });
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
        let mut lit = base.clone();
        lit.payload.beacons.push(beacon(1));
        let mut switches = base.clone();
        switches.payload.switch = Some(Arc::new(Switch {
            epoch: 1,
            protocol_version: 2,
            members: Members {
                nodes: Vec::new(),
                sharing: Vec::new(),
            },
        }));
        for other in [moved, later, higher, orphan, lit, switches] {
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
                ..Payload::default()
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
                ..Payload::default()
            },
            ..Block::genesis()
        };
        assert!(matches!(
            Block::decode(large.encode()),
            Err(Error::InvalidLength(_))
        ));
    }

    #[test]
    fn beacons_are_few_and_of_heights_below_in_order() {
        let refused = |heights: &[u64]| {
            let block = Block {
                height: 100,
                payload: Payload {
                    beacons: heights.iter().copied().map(beacon).collect(),
                    ..Payload::default()
                },
                ..Block::genesis()
            };
            Block::decode(block.encode()).is_err()
        };
        let many: Vec<u64> = (1..=BEACON_COUNT_MAX as u64 + 1).collect();
        assert!(!refused(&many[1..]) && !refused(&[1, 99]));
        for heights in [&many[..], &[0], &[100], &[3, 3], &[4, 3]] {
            assert!(refused(heights), "{heights:?}");
        }
    }
}
