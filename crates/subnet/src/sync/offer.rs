//! What a replica says of a checkpoint: enough to check everything that is fetched of it.
//!
//! # Encoding
//! `height u64 | count u16 | summary of the manifest (count x 32) | certificate`: the certificate is the Internet
//! Computer's, in CBOR, of any later state, and shows `/lockstep/checkpoint`.
use super::{
    OFFER_BYTES_MAX, SyncError,
    codec::Reader,
    manifest::{self, SUMMARY_MAX},
};
use crate::{
    application::Height,
    tree::{state::number, witness::Certificate},
};
use ic_certification::LookupResult;

/// An offer whose parts agree with each other. Whether the subnet has signed [`Self::root`] is still to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    height: Height,
    summary: Vec<[u8; 32]>,
    root: [u8; 32],
    signature: [u8; 48],
}

/// The paths that the certificate of an offer shows.
pub(super) fn paths() -> Vec<Vec<Vec<u8>>> {
    vec![vec![b"lockstep".to_vec(), b"checkpoint".to_vec()]]
}

impl Offer {
    pub(super) fn encode(height: Height, summary: &[[u8; 32]], certificate: &[u8]) -> Vec<u8> {
        let count = u16::try_from(summary.len()).expect("a summary is short");
        [
            &height.to_be_bytes()[..],
            &count.to_be_bytes(),
            summary.as_flattened(),
            certificate,
        ]
        .concat()
    }

    /// The height that the bytes of an offer claim, which is not checked.
    #[must_use]
    pub fn claimed_height(bytes: &[u8]) -> Option<Height> {
        Reader::new(bytes).u64()
    }

    /// Reads an offer.
    ///
    /// # Errors
    /// [`SyncError::Offer`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SyncError> {
        Self::read(bytes).map_err(|reason| SyncError::Offer { reason })
    }

    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() > OFFER_BYTES_MAX {
            return Err("it is too long");
        }
        let mut reader = Reader::new(bytes);
        let header = (reader.u64(), reader.array().map(u16::from_be_bytes));
        let (Some(height), Some(count)) = header else {
            return Err("it is too short");
        };
        let count = usize::from(count);
        if count == 0 || count > SUMMARY_MAX {
            return Err("its summary has an impossible length");
        }
        let summary = reader.bytes(count * 32).ok_or("it is too short")?;
        let summary = summary.as_chunks().0.to_vec();
        let certificate = Certificate::decode(reader.rest()).ok_or("it has no certificate")?;
        let tree = certificate.tree.0;
        let shown =
            |label: &[u8]| match tree.lookup_path([b"lockstep".as_slice(), b"checkpoint", label]) {
                LookupResult::Found(value) => value.to_vec(),
                _ => Vec::new(),
            };
        if shown(b"height") != number(height) || shown(b"manifest") != manifest::digest(&summary) {
            return Err("its certificate is of another checkpoint");
        }
        let signature = certificate.signature.as_slice().try_into();
        Ok(Self {
            height,
            summary,
            root: tree.digest(),
            signature: signature.map_err(|_| "its signature has another length")?,
        })
    }

    /// The height of the checkpoint.
    #[must_use]
    pub fn height(&self) -> Height {
        self.height
    }

    /// The root of the state tree that the subnet must have signed.
    #[must_use]
    pub fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// The signature.
    #[must_use]
    pub fn signature(&self) -> &[u8; 48] {
        &self.signature
    }

    pub(super) fn summary(&self) -> &[[u8; 32]] {
        &self.summary
    }
}
