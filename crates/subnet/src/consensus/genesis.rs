//! The keys of a subnet: who its nodes are and how they share its signing key.
//!
//! # Design
//!
//! A trusted dealer makes everything from one 32-byte seed: an Ed25519 identity per node (peer
//! authentication and votes), a separate Ed25519 seed per node for signing query responses, and a
//! Feldman sharing of the subnet's BLS12-381 key in which any `n - f` of the `n` nodes sign, where
//! `f = (n - 1) / 3`. The dealer knows the whole key; operators who do not trust each other hold a
//! [`ceremony`] instead.
//!
//! On disk `subnet.json` is public and `node-<index>.json` is one node's secret (mode 0600). Nodes
//! are numbered by the order of their public identities. What is public stands in one file, so that
//! an operator brings two files to a machine and no more.
use super::certification::IcVariant;
use commonware_codec::{Copying, DecodeExt as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::{dkg::feldman_desmedt, primitives::sharing::Mode},
    ed25519::{PrivateKey, PublicKey},
};
use commonware_utils::{N3f1, TryCollect as _, ordered::Set, sys_rng};
use rand_core::{Rng as _, TryCryptoRng, TryRng};
use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
};
use thiserror::Error;

mod address;
pub mod ceremony;
mod files;
mod keys;
mod subnet;

pub use address::PeerAddress;
pub use files::check_private;
pub use keys::NodeKeys;
pub use subnet::{SUBNET_FILE, Subnet};

pub use crate::members::NODE_COUNT_MAX;

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
    /// What should be a node's address is none.
    #[error("not an address HOST:PORT that peers can connect to: {text}")]
    Address {
        /// What was given.
        text: String,
    },
    /// There is not one address of its own for each node.
    #[error("{node_count} nodes need as many different addresses")]
    Addresses {
        /// How many nodes there are.
        node_count: usize,
    },
    /// Everybody on the machine can read a secret.
    #[error("everybody on this machine can read the secret key file: {}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
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
                let identity = identity(&derive(IDENTITY_CONTEXT, seed, number));
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
                NodeKeys::new(index, identity, query_seed, share)
            })
            .collect::<Vec<_>>();
        let query_keys = node_keys.iter().map(NodeKeys::query_key).collect();
        let subnet = Subnet::new(nodes, query_keys, output.public().clone());
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

fn identity(seed: &[u8; 32]) -> PrivateKey {
    PrivateKey::decode(Copying(seed)).expect("any 32 bytes are an Ed25519 secret")
}

fn derive(context: &str, seed: &[u8; 32], number: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(seed).update(&number.to_be_bytes());
    *hasher.finalize().as_bytes()
}

/// The dealer's randomness: BLAKE3's output stream over a seed.
struct SeedStream(blake3::OutputReader);

impl SeedStream {
    fn new(context: &str, seed: &[u8]) -> Self {
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
