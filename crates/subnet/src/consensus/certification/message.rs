//! What nodes tell each other about certificates.
//!
//! # Encoding
//!
//! A share: `0 (1) | height (8) | root (32) | lacks (1) | index (varint) | signature (48)`. A certificate:
//! `1 (1) | height (8) | root (32) | signature (48)`. Integers are big-endian; one message has one encoding.
use super::{Certificate, Partial, Root, Signature};
use crate::application::Height;
use bytes::BufMut;
use commonware_codec::{Buf, EncodeSize, Error, Read, ReadExt as _, Write};

/// The most bytes of a message.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1 + 8 + 32 + 1 + 5 + 48;

const SHARE: u8 = 0;
const CERTIFICATE: u8 = 1;

/// A node's share of a height's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) height: Height,
    pub(crate) root: Root,
    /// Whether the sender has waited for the certificate in vain.
    pub(crate) lacks: bool,
    pub(crate) partial: Partial,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Share(Share),
    Certificate(Certificate),
}

impl EncodeSize for Message {
    fn encode_size(&self) -> usize {
        match self {
            Self::Share(share) => 1 + 8 + 32 + 1 + share.partial.encode_size(),
            Self::Certificate(_) => 1 + 8 + 32 + 48,
        }
    }
}

impl Write for Message {
    fn write(&self, buffer: &mut impl BufMut) {
        match self {
            Self::Share(share) => {
                buffer.put_u8(SHARE);
                buffer.put_u64(share.height);
                buffer.put_slice(&share.root);
                share.lacks.write(buffer);
                share.partial.write(buffer);
            }
            Self::Certificate(certificate) => {
                buffer.put_u8(CERTIFICATE);
                buffer.put_u64(certificate.height);
                buffer.put_slice(&certificate.root);
                buffer.put_slice(&certificate.signature);
            }
        }
    }
}

impl Read for Message {
    type Cfg = ();

    fn read_cfg(buffer: &mut impl Buf, (): &()) -> Result<Self, Error> {
        let kind = u8::read(buffer)?;
        let height = u64::read(buffer)?;
        let root = Root::read(buffer)?;
        match kind {
            SHARE => Ok(Self::Share(Share {
                height,
                root,
                lacks: bool::read(buffer)?,
                partial: Partial::read(buffer)?,
            })),
            CERTIFICATE => Ok(Self::Certificate(Certificate {
                height,
                root,
                signature: Signature::read(buffer)?,
            })),
            kind => Err(Error::InvalidEnum(kind)),
        }
    }
}
