//! What nodes say to each other to bring one to a state without executing the chain.
//!
//! # Encoding
//! A tag and what it has: `0`: any offer? `1 | offer`, `2 | height u64 | index u32`: that part? `3 | height | index |
//! present u8 | part`, `4 | height`: the newest finalization of that height or below, with its block? `5 | length u32 |
//! finalization | block`, `6 | digest (32)`: that switch to another epoch is installed here. Integers are big-endian.
//!
//! # Units and bounds
//! Offers and parts have the bounds of [`crate::sync`], blocks and finalizations those of the engine; a longer message is
//! none.
use crate::{
    application::Height,
    sync::{OFFER_BYTES_MAX, PART_BYTES_MAX, Reader},
};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    AskOffer,
    Offer(Vec<u8>),
    AskPart {
        height: Height,
        index: u32,
    },
    Part {
        height: Height,
        index: u32,
        /// `None`: the sender does not have it.
        bytes: Option<Vec<u8>>,
    },
    AskAnchor {
        height: Height,
    },
    Anchor {
        finalization: Vec<u8>,
        block: Vec<u8>,
    },
    Ready {
        switch: [u8; 32],
    },
}

/// Bytes of a message besides an offer, a part, or a finalization with its block, at most; of one without, too.
const HEADER_BYTES_MAX: usize = 33;

/// Bytes of a message at most, when a finalization with its block has so many.
pub(super) fn message_bytes_max(anchor_bytes_max: usize) -> usize {
    HEADER_BYTES_MAX + OFFER_BYTES_MAX.max(PART_BYTES_MAX).max(anchor_bytes_max)
}

impl Message {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::AskOffer => vec![0],
            Self::Offer(offer) => [&[1], offer.as_slice()].concat(),
            Self::AskPart { height, index } => {
                [&[2][..], &height.to_be_bytes(), &index.to_be_bytes()].concat()
            }
            Self::Part {
                height,
                index,
                bytes,
            } => [
                &[3][..],
                &height.to_be_bytes(),
                &index.to_be_bytes(),
                &[u8::from(bytes.is_some())],
                bytes.as_deref().unwrap_or_default(),
            ]
            .concat(),
            Self::AskAnchor { height } => [&[4][..], &height.to_be_bytes()].concat(),
            Self::Anchor {
                finalization,
                block,
            } => {
                let length = u32::try_from(finalization.len()).expect("it is small");
                [&[5][..], &length.to_be_bytes(), finalization, block].concat()
            }
            Self::Ready { switch } => [&[6][..], switch].concat(),
        }
    }

    /// The message in these bytes, if they are one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let message = match reader.u8()? {
            0 => Self::AskOffer,
            1 => {
                let offer = reader.rest();
                (offer.len() <= OFFER_BYTES_MAX).then_some(())?;
                Self::Offer(offer.to_vec())
            }
            2 => Self::AskPart {
                height: reader.u64()?,
                index: reader.u32()?,
            },
            3 => {
                let (height, index) = (reader.u64()?, reader.u32()?);
                let bytes = match reader.u8()? {
                    0 => None,
                    1 => Some(reader.rest().to_vec()),
                    _ => return None,
                };
                if bytes
                    .as_ref()
                    .is_some_and(|part| part.len() > PART_BYTES_MAX)
                {
                    return None;
                }
                Self::Part {
                    height,
                    index,
                    bytes,
                }
            }
            4 => Self::AskAnchor {
                height: reader.u64()?,
            },
            5 => {
                let length = reader.u32()? as usize;
                Self::Anchor {
                    finalization: reader.bytes(length)?.to_vec(),
                    block: reader.rest().to_vec(),
                }
            }
            6 => Self::Ready {
                switch: reader.array()?,
            },
            _ => return None,
        };
        reader.is_at_end().then_some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..40)
    }

    fn message() -> impl Strategy<Value = Message> {
        prop_oneof![
            Just(Message::AskOffer),
            bytes().prop_map(Message::Offer),
            any::<(u64, u32)>().prop_map(|(height, index)| Message::AskPart { height, index }),
            (any::<(u64, u32)>(), proptest::option::of(bytes())).prop_map(
                |((height, index), bytes)| Message::Part {
                    height,
                    index,
                    bytes,
                }
            ),
            any::<u64>().prop_map(|height| Message::AskAnchor { height }),
            any::<[u8; 32]>().prop_map(|switch| Message::Ready { switch }),
            (bytes(), bytes()).prop_map(|(finalization, block)| Message::Anchor {
                finalization,
                block,
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_has_one_encoding(message in message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Some(message));
        }

        #[test]
        fn arbitrary_bytes_decode_to_themselves_or_not_at_all(mut bytes in bytes(), tag in 0..8_u8) {
            bytes.insert(0, tag);
            if let Some(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }

    #[test]
    fn what_is_too_long_is_no_message() {
        let part = |length| Message::Part {
            height: 1,
            index: 2,
            bytes: Some(vec![0; length]),
        };
        assert!(Message::decode(&part(PART_BYTES_MAX).encode()).is_some());
        assert!(Message::decode(&part(PART_BYTES_MAX + 1).encode()).is_none());
        let offer = Message::Offer(vec![0; OFFER_BYTES_MAX + 1]);
        assert!(Message::decode(&offer.encode()).is_none());
    }
}
