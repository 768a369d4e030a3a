//! What nodes tell each other about certificates.
//!
//! # Encoding
//!
//! A share: `0 (1) | height (8) | root (32) | signature (48) | lacks (1)`. A certificate: `1 (1) | height (8) | root (32) |
//! signature (48)`. Integers are big-endian; one message has one encoding. Signatures are not decoded here: whether they are
//! points is looked at when they are needed.
use super::{Certificate, Root, Signature};
use crate::application::Height;
use bytes::BufMut;
use commonware_codec::{Buf, EncodeSize, Error, Read, ReadExt as _, Write};

/// The most bytes of a message.
pub(crate) const MESSAGE_BYTES_MAX: usize = COMMON_BYTES + 1;

const COMMON_BYTES: usize = 1 + 8 + 32 + 48;

const SHARE: u8 = 0;
const CERTIFICATE: u8 = 1;

/// A node's share of a height's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) height: Height,
    pub(crate) root: Root,
    /// With the sender's share of the key.
    pub(crate) signature: Signature,
    /// Whether the sender has waited for the certificate in vain.
    pub(crate) lacks: bool,
}

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Share(Share),
    Certificate(Certificate),
}

impl EncodeSize for Message {
    fn encode_size(&self) -> usize {
        match self {
            Self::Share(_) => COMMON_BYTES + 1,
            Self::Certificate(_) => COMMON_BYTES,
        }
    }
}

impl Write for Message {
    fn write(&self, buffer: &mut impl BufMut) {
        let (kind, height, root, signature) = match self {
            Self::Share(share) => (SHARE, share.height, &share.root, &share.signature),
            Self::Certificate(certificate) => (
                CERTIFICATE,
                certificate.height,
                &certificate.root,
                &certificate.signature,
            ),
        };
        buffer.put_u8(kind);
        buffer.put_u64(height);
        buffer.put_slice(root);
        buffer.put_slice(signature);
        if let Self::Share(share) = self {
            share.lacks.write(buffer);
        }
    }
}

impl Read for Message {
    type Cfg = ();

    fn read_cfg(buffer: &mut impl Buf, (): &()) -> Result<Self, Error> {
        let kind = u8::read(buffer)?;
        let height = u64::read(buffer)?;
        let root = Root::read(buffer)?;
        let signature = Signature::read(buffer)?;
        match kind {
            SHARE => Ok(Self::Share(Share {
                height,
                root,
                signature,
                lacks: bool::read(buffer)?,
            })),
            CERTIFICATE => Ok(Self::Certificate(Certificate {
                height,
                root,
                signature,
            })),
            kind => Err(Error::InvalidEnum(kind)),
        }
    }
}
