//! What only one node may know, and its file.
use super::{
    GenesisError, Subnet,
    files::{
        check_private, check_version, decode_hex, malformed, node_path, read_json, write_json,
    },
};
use crate::consensus::certification::IcVariant;
use commonware_codec::Encode as _;
use commonware_cryptography::{
    Signer as _, bls12381::primitives::group::Share, ed25519::PrivateKey,
};
use commonware_utils::Participant;
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

const VERSION: u32 = 1;

/// The secrets of one node.
#[derive(Clone)]
pub struct NodeKeys {
    index: usize,
    identity: PrivateKey,
    query_seed: [u8; 32],
    share: Share,
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NodeKeys")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    version: u32,
    identity: String,
    query_seed: String,
    share: String,
}

impl NodeKeys {
    pub(super) fn new(
        index: usize,
        identity: PrivateKey,
        query_seed: [u8; 32],
        share: Share,
    ) -> Self {
        Self {
            index,
            identity,
            query_seed,
            share,
        }
    }

    /// The node's number in its subnet.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The secret seed of the Ed25519 key that signs this node's query responses. It is not the
    /// node's identity and signs nothing else.
    #[must_use]
    pub fn query_signing_seed(&self) -> [u8; 32] {
        self.query_seed
    }

    /// The key that verifies this node's query responses.
    #[must_use]
    pub fn query_key(&self) -> [u8; 32] {
        query_key(&self.query_seed)
    }

    /// Whether these are the keys of this number in `subnet`.
    #[must_use]
    pub fn are_of(&self, subnet: &Subnet) -> bool {
        let public = subnet
            .sharing()
            .partial_public(Participant::from_usize(self.index));
        subnet.participants().get(self.index) == Some(&self.identity.public_key())
            && subnet.query_keys().get(self.index) == Some(&self.query_key())
            && self.share.index == Participant::from_usize(self.index)
            && public.ok() == Some(self.share.public::<IcVariant>())
    }

    /// Reads the keys of node `index` of `subnet` from `directory`.
    ///
    /// # Errors
    ///
    /// As [`Self::read_file`], and if they are of another number.
    pub fn read(directory: &Path, subnet: &Subnet, index: usize) -> Result<Self, GenesisError> {
        let path = node_path(directory, index);
        let keys = Self::read_file(&path, subnet)?;
        if keys.index != index {
            let reason = format!("these are the keys of node {}", keys.index);
            return Err(malformed(&path, reason));
        }
        Ok(keys)
    }

    /// Reads the keys of a node of `subnet`; which one is told by its identity.
    ///
    /// # Errors
    ///
    /// If the file is missing, can be read by everybody, is malformed, or of another subnet.
    pub fn read_file(path: &Path, subnet: &Subnet) -> Result<Self, GenesisError> {
        check_private(path)?;
        let document: serde_json::Value = read_json(path)?;
        check_version(path, &document, VERSION)?;
        let file: NodeFile =
            serde_json::from_value(document).map_err(|error| malformed(path, error))?;
        let identity: PrivateKey = decode_hex(path, &file.identity)?;
        let share: Share = decode_hex(path, &file.share)?;
        let mut query_seed = [0; 32];
        hex::decode_to_slice(&file.query_seed, &mut query_seed)
            .map_err(|error| malformed(path, error))?;
        let public = identity.public_key();
        let index = subnet
            .participants()
            .iter()
            .position(|node| *node == public);
        let index = index.ok_or_else(|| malformed(path, "the subnet has no such node"))?;
        let keys = Self::new(index, identity, query_seed, share);
        if !keys.are_of(subnet) {
            return Err(malformed(
                path,
                "the share or the query key is not this node's",
            ));
        }
        Ok(keys)
    }

    pub(crate) fn identity(&self) -> &PrivateKey {
        &self.identity
    }

    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    /// Writes them to a directory, as a file that only its owner can read.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        let file = NodeFile {
            version: VERSION,
            identity: hex::encode(self.identity.encode()),
            query_seed: hex::encode(self.query_seed),
            share: hex::encode(self.share.encode()),
        };
        write_json(&node_path(directory, self.index), &file, 0o600)
    }
}

/// The public key of a seed for query responses.
pub(super) fn query_key(seed: &[u8; 32]) -> [u8; 32] {
    ic_ed25519::PrivateKey::deserialize_raw_32(seed)
        .public_key()
        .serialize_raw()
}
