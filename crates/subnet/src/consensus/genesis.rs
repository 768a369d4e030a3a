//! The keys of a subnet: who its nodes are and how they share its signing key.
//!
//! # Design
//!
//! A trusted dealer makes everything from one 32-byte seed: an Ed25519 identity per node (peer
//! authentication and votes), a separate Ed25519 seed per node for signing query responses, and a
//! Feldman sharing of the subnet's BLS12-381 key in which any `n - f` of the `n` nodes sign, where
//! `f = (n - 1) / 3`. The dealer knows the whole key; a deployment whose operators do not trust
//! each other needs a distributed key generation instead.
//!
//! On disk `subnet.json` is public and `node-<index>.json` is one node's secret (mode 0600). Nodes
//! are numbered by the order of their public identities.
use super::certification::IcVariant;
use commonware_codec::{Copying, Decode as _, DecodeExt as _, Encode as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::{
        dkg::feldman_desmedt,
        primitives::{
            group::Share,
            sharing::{Mode, ModeVersion, Sharing},
        },
    },
    ed25519::{PrivateKey, PublicKey},
};
use commonware_utils::{N3f1, Participant, TryCollect as _, ordered::Set, sys_rng};
use rand_core::{Rng as _, TryCryptoRng, TryRng};
use std::{
    convert::Infallible,
    fmt, fs, io,
    num::NonZeroU32,
    path::{Path, PathBuf},
};
use thiserror::Error;

mod files;

use files::{
    FORMAT_VERSION, NodeFile, SubnetFile, check_version, decode_hex, malformed, node_path,
    read_json, write_json,
};

/// The most nodes that a subnet has.
pub const NODE_COUNT_MAX: u32 = 128;

const IDENTITY_CONTEXT: &str = "lockstep 2026 subnet genesis: node identity";
const QUERY_CONTEXT: &str = "lockstep 2026 subnet genesis: query response key";
const SHARING_CONTEXT: &str = "lockstep 2026 subnet genesis: threshold key";

/// Why keys cannot be dealt, written, or read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// A subnet needs at least one node and at most [`NODE_COUNT_MAX`].
    #[error("a subnet has 1 to {NODE_COUNT_MAX} nodes, asked for: {node_count}")]
    NodeCount {
        /// How many were asked for.
        node_count: u32,
    },
    /// A file cannot be read or written.
    #[error("cannot access key file: {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not what this version writes.
    #[error("malformed key file {}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// What everybody may know of a subnet.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnet {
    nodes: Set<PublicKey>,
    sharing: Sharing<IcVariant>,
}

impl Subnet {
    /// How many nodes it has.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The key that verifies its certificates: a compressed point of BLS12-381 G2.
    #[must_use]
    pub fn public_key(&self) -> [u8; 96] {
        self.sharing
            .public()
            .encode()
            .as_ref()
            .try_into()
            .expect("a compressed G2 point has 96 bytes")
    }

    /// The Ed25519 identity of node `index`.
    #[must_use]
    pub fn node_identity(&self, index: usize) -> Option<[u8; 32]> {
        self.nodes.get(index)?.as_ref().try_into().ok()
    }

    /// Reads it from `directory`.
    ///
    /// # Errors
    ///
    /// If `subnet.json` is missing or malformed.
    pub fn read(directory: &Path) -> Result<Self, GenesisError> {
        let path = directory.join("subnet.json");
        let file: SubnetFile = read_json(&path)?;
        check_version(&path, file.version)?;
        let nodes: Set<PublicKey> = file
            .nodes
            .iter()
            .map(|node| decode_hex(&path, node))
            .collect::<Result<Vec<PublicKey>, _>>()?
            .into_iter()
            .try_collect()
            .map_err(|_| malformed(&path, "a node appears twice"))?;
        let node_count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let bytes = hex::decode(&file.sharing).map_err(|error| malformed(&path, error))?;
        let bound = NonZeroU32::new(NODE_COUNT_MAX).expect("not zero");
        let sharing = Sharing::decode_cfg(bytes::Bytes::from(bytes), &(bound, ModeVersion::v0()))
            .map_err(|error| malformed(&path, error))?;
        let subnet = Self { nodes, sharing };
        let quorum = node_count - node_count.saturating_sub(1) / 3;
        if subnet.sharing.total().get() != node_count || subnet.sharing.required() != quorum {
            return Err(malformed(
                &path,
                "the sharing is for another number of nodes",
            ));
        }
        if file.public_key != hex::encode(subnet.public_key()) {
            return Err(malformed(&path, "the public key is not the sharing's"));
        }
        Ok(subnet)
    }

    pub(crate) fn participants(&self) -> &Set<PublicKey> {
        &self.nodes
    }

    pub(crate) fn sharing(&self) -> &Sharing<IcVariant> {
        &self.sharing
    }

    fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        let file = SubnetFile {
            version: FORMAT_VERSION,
            public_key: hex::encode(self.public_key()),
            sharing: hex::encode(self.sharing.encode()),
            nodes: self.nodes.iter().map(hex::encode).collect(),
        };
        write_json(&directory.join("subnet.json"), &file, 0o644)
    }
}

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

impl NodeKeys {
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

    /// Reads the keys of node `index` of `subnet` from `directory`.
    ///
    /// # Errors
    ///
    /// If `node-<index>.json` is missing, malformed, or of another subnet.
    pub fn read(directory: &Path, subnet: &Subnet, index: usize) -> Result<Self, GenesisError> {
        let path = node_path(directory, index);
        let file: NodeFile = read_json(&path)?;
        check_version(&path, file.version)?;
        let identity: PrivateKey = decode_hex(&path, &file.identity)?;
        let share: Share = decode_hex(&path, &file.share)?;
        if subnet.nodes.get(index) != Some(&identity.public_key()) {
            return Err(malformed(
                &path,
                "the identity is not that of this node of the subnet",
            ));
        }
        let public = subnet
            .sharing
            .partial_public(Participant::from_usize(index));
        if share.index != Participant::from_usize(index)
            || public.ok() != Some(share.public::<IcVariant>())
        {
            return Err(malformed(&path, "the share is not of the subnet's key"));
        }
        let mut query_seed = [0; 32];
        hex::decode_to_slice(&file.query_seed, &mut query_seed)
            .map_err(|error| malformed(&path, error))?;
        Ok(Self {
            index,
            identity,
            query_seed,
            share,
        })
    }

    pub(crate) fn identity(&self) -> &PrivateKey {
        &self.identity
    }

    pub(crate) fn share(&self) -> &Share {
        &self.share
    }

    fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        let file = NodeFile {
            version: FORMAT_VERSION,
            identity: hex::encode(self.identity.encode()),
            query_seed: hex::encode(self.query_seed),
            share: hex::encode(self.share.encode()),
        };
        write_json(&node_path(directory, self.index), &file, 0o600)
    }
}

/// A subnet with the secrets of all its nodes, as the dealer holds it.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// The public part.
    pub subnet: Subnet,
    /// The secrets by node index.
    pub nodes: Vec<NodeKeys>,
}

impl Genesis {
    /// Deals a subnet of `node_count` nodes. The same seed deals the same keys.
    ///
    /// # Errors
    ///
    /// If `node_count` is 0 or more than [`NODE_COUNT_MAX`].
    ///
    /// # Panics
    ///
    /// If the dealt keys do not fit each other, which no seed can cause.
    pub fn deal(node_count: u32, seed: &[u8; 32]) -> Result<Self, GenesisError> {
        if node_count == 0 || node_count > NODE_COUNT_MAX {
            return Err(GenesisError::NodeCount { node_count });
        }
        let mut secrets: Vec<(PublicKey, PrivateKey, [u8; 32])> = (0..node_count)
            .map(|number| {
                let identity = PrivateKey::decode(Copying(&derive(IDENTITY_CONTEXT, seed, number)))
                    .expect("any 32 bytes are an Ed25519 secret");
                (
                    identity.public_key(),
                    identity,
                    derive(QUERY_CONTEXT, seed, number),
                )
            })
            .collect();
        secrets.sort_by(|left, right| left.0.cmp(&right.0));
        let nodes: Set<PublicKey> = secrets
            .iter()
            .map(|(public, ..)| public.clone())
            .try_collect()
            .expect("derived identities differ");
        let mut stream = SeedStream::new(SHARING_CONTEXT, seed);
        let (output, shares) = feldman_desmedt::deal::<IcVariant, _, N3f1>(
            &mut stream,
            Mode::NonZeroCounter,
            nodes.clone(),
        )
        .expect("there is at least one node");
        let node_keys = secrets
            .into_iter()
            .enumerate()
            .map(|(index, (public, identity, query_seed))| {
                let share = shares
                    .get_value(&public)
                    .expect("every node has a share")
                    .clone();
                NodeKeys {
                    index,
                    identity,
                    query_seed,
                    share,
                }
            })
            .collect();
        let subnet = Subnet {
            nodes,
            sharing: output.public().clone(),
        };
        Ok(Self {
            subnet,
            nodes: node_keys,
        })
    }

    /// Deals a subnet from the operating system's entropy.
    ///
    /// # Errors
    ///
    /// As [`Self::deal`].
    pub fn deal_random(node_count: u32) -> Result<Self, GenesisError> {
        let mut seed = [0; 32];
        sys_rng().fill_bytes(&mut seed);
        Self::deal(node_count, &seed)
    }

    /// Writes `subnet.json` and every `node-<index>.json` into `directory`, which it makes.
    ///
    /// # Errors
    ///
    /// If a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        fs::create_dir_all(directory).map_err(|source| GenesisError::File {
            path: directory.to_owned(),
            source,
        })?;
        for node in &self.nodes {
            node.write(directory)?;
        }
        // Last, so that a directory with a public part is complete.
        self.subnet.write(directory)
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    ///
    /// If a file is missing or malformed.
    pub fn read(directory: &Path) -> Result<Self, GenesisError> {
        let subnet = Subnet::read(directory)?;
        let nodes = (0..subnet.node_count())
            .map(|index| NodeKeys::read(directory, &subnet, index))
            .collect::<Result<_, _>>()?;
        Ok(Self { subnet, nodes })
    }
}

fn derive(context: &str, seed: &[u8; 32], number: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(seed).update(&number.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// The dealer's randomness: BLAKE3's output stream over a seed.
struct SeedStream(blake3::OutputReader);

impl SeedStream {
    fn new(context: &str, seed: &[u8; 32]) -> Self {
        Self(
            blake3::Hasher::new_derive_key(context)
                .update(seed)
                .finalize_xof(),
        )
    }
}

impl TryRng for SeedStream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for SeedStream {}

#[cfg(test)]
mod tests;
