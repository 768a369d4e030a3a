//! Distributed generation of a subnet's keys: nobody ever has the whole key.
//!
//! # Design
//!
//! Joint Feldman generation, carried by files. Every operator makes a [`Candidate`] and gives its
//! [`Entry`] to all. The entries are a [`Plan`], whose digest all compare. By the plan every node
//! deals a sharing of a random key of its own: a [`Dealing`] for each node, confidential. Whoever
//! finds the dealings for it in order gives [`Acknowledgements`] of them to all; with those of all
//! nodes a dealer signs its [`Log`]. The sum of the dealings of the first `n - f` nodes, of which one
//! at least is honest, is the subnet's key, and a node's share of it the sum of what they dealt to it.
//!
//! Later epochs have other nodes and the same key: those who have a share deal a sharing of that share, to the nodes
//! that will be; the rest is the same, but that what is dealt is weighed, so that the shares of shares make shares.
//! A quorum of the nodes before must take part; those who leave deal and get nothing. Whoever keeps an old share
//! keeps it: as many as made a quorum once can sign for ever, so those who leave delete it, and nodes that are
//! replaced should not have been corrupted together.
//!
//! # Invariants
//!
//! Every step needs the files of all who take part: a ceremony without one of them is begun anew. A log that not all have
//! acknowledged is refused, so that none has shares in it and all nodes add up the same dealings; whoever
//! acknowledges two dealings of one dealer gives it the choice between two keys. Dealings are derived from a candidate's
//! secret and the plan, so that a step can be repeated, and another plan has others.
use super::{
    GenesisError, NodeKeys, PeerAddress,
    files::{check_private, check_version, decode_hex, malformed, read_json, write_json},
    keys::query_key,
};
use commonware_codec::Encode as _;
use commonware_cryptography::{
    Signer as _, bls12381::primitives::group::Share, ed25519::PrivateKey,
};
use commonware_utils::sys_rng;
use rand_core::Rng as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, path::Path};
use thiserror::Error;

mod alone;
mod plan;

pub use plan::{Plan, Roles};

const VERSION: u32 = 2;
const NAMESPACE: &[u8] = b"lockstep/ceremony";
const PLAN_CONTEXT: &str = "lockstep 2026 subnet ceremony: plan";
const DEALING_CONTEXT: &str = "lockstep 2026 subnet ceremony: dealing";

/// Why a step of a ceremony cannot be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CeremonyError {
    /// The entries make no subnet.
    #[error("the entries make no subnet: {reason}")]
    Plan {
        /// What is wrong with them.
        reason: String,
    },
    /// The candidate is not in the plan.
    #[error("the plan has no entry of this candidate")]
    Stranger,
    /// It has no share to deal.
    #[error("this node joins: it has nothing to deal or conclude")]
    NoDealer,
    /// It gets no share.
    #[error("this node leaves: it has nothing to acknowledge")]
    Leaver,
    /// A file was made by another plan.
    #[error("{what} of node {node} is of another plan")]
    OtherPlan {
        /// What the file holds.
        what: &'static str,
        /// Whose it is.
        node: usize,
    },
    /// There is not one file of each node.
    #[error("{what} of every node is needed, once: {problem} node {node}")]
    Incomplete {
        /// What the file holds.
        what: &'static str,
        /// Whether it lacks or is there twice.
        problem: &'static str,
        /// Whose.
        node: usize,
    },
    /// A file does not hold what it should.
    #[error("{what} of node {node} is wrong: {reason}")]
    Wrong {
        /// What the file holds.
        what: &'static str,
        /// Whose it is.
        node: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// The secrets of a node before it has a share of the subnet's key, or for the next share.
#[derive(Clone)]
pub struct Candidate {
    identity: PrivateKey,
    query_seed: [u8; 32],
    dealing_seed: [u8; 32],
    /// The share that it has.
    share: Option<Share>,
    /// Where it will be; `None`: it leaves.
    address: Option<PeerAddress>,
}

impl fmt::Debug for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Candidate")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CandidateFile {
    version: u32,
    identity: String,
    query_seed: String,
    dealing_seed: String,
    share: Option<String>,
    address: Option<String>,
}

/// What everybody may know of a node that takes part.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its Ed25519 identity, hexadecimal.
    pub identity: String,
    /// The Ed25519 key that verifies its query responses, hexadecimal.
    pub query_key: String,
    /// Where its peers reach it; empty if it leaves.
    pub address: String,
    /// Whether it is none of the nodes any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
}

impl Candidate {
    /// New secrets for a node at `address`.
    #[must_use]
    pub fn generate(address: PeerAddress) -> Self {
        Self {
            identity: super::identity(&random_seed()),
            query_seed: random_seed(),
            dealing_seed: random_seed(),
            share: None,
            address: Some(address),
        }
    }

    /// A node that has these keys, and will be at `address`, or leaves.
    #[must_use]
    pub fn of(keys: &NodeKeys, address: Option<PeerAddress>) -> Self {
        Self {
            identity: keys.identity().clone(),
            query_seed: keys.query_signing_seed(),
            dealing_seed: random_seed(),
            share: Some(keys.share().clone()),
            address,
        }
    }

    /// Whether it has a share of a subnet's key.
    #[must_use]
    pub fn has_share(&self) -> bool {
        self.share.is_some()
    }

    fn leaves(&self) -> bool {
        self.address.is_none()
    }

    /// The public part.
    #[must_use]
    pub fn entry(&self) -> Entry {
        Entry {
            identity: hex::encode(self.identity.public_key()),
            query_key: hex::encode(query_key(&self.query_seed)),
            address: self
                .address
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            leaves: self.leaves(),
        }
    }

    /// Reads the secrets from a file.
    ///
    /// # Errors
    ///
    /// If the file is missing, can be read by everybody, or is malformed.
    pub fn read(path: &Path) -> Result<Self, GenesisError> {
        check_private(path)?;
        let document: serde_json::Value = read_json(path)?;
        check_version(path, &document, VERSION)?;
        let file: CandidateFile =
            serde_json::from_value(document).map_err(|error| malformed(path, error))?;
        let seed = |text: &str| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).map_err(|error| malformed(path, error))?;
            Ok::<_, GenesisError>(bytes)
        };
        Ok(Self {
            identity: decode_hex(path, &file.identity)?,
            query_seed: seed(&file.query_seed)?,
            dealing_seed: seed(&file.dealing_seed)?,
            share: file
                .share
                .map(|share| decode_hex(path, &share))
                .transpose()?,
            address: file
                .address
                .map(|address| address.parse())
                .transpose()
                .map_err(|error| malformed(path, error))?,
        })
    }

    /// Writes the secrets to a file that only its owner can read.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), GenesisError> {
        let file = CandidateFile {
            version: VERSION,
            identity: hex::encode(self.identity.encode()),
            query_seed: hex::encode(self.query_seed),
            dealing_seed: hex::encode(self.dealing_seed),
            share: self.share.as_ref().map(|share| hex::encode(share.encode())),
            address: self.address.as_ref().map(ToString::to_string),
        };
        write_json(path, &file, 0o600)
    }
}

fn random_seed() -> [u8; 32] {
    let mut bytes = [0; 32];
    sys_rng().fill_bytes(&mut bytes);
    bytes
}

/// What one node dealt to another. Secret: only the two may know it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dealing {
    plan: String,
    from: usize,
    to: usize,
    commitment: String,
    share: String,
}

/// A node's signatures that its dealings are in order, by dealer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acknowledgements {
    plan: String,
    from: usize,
    signatures: Vec<String>,
}

/// A dealer's signed word that all nodes have acknowledged its dealings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    plan: String,
    from: usize,
    log: String,
}

impl fmt::Debug for Dealing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Dealing")
            .field("from", &self.from)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// What one node makes by a plan, and gives to others in a file.
trait Piece {
    const WHAT: &'static str;
    fn plan(&self) -> &str;
    fn from(&self) -> usize;
}

macro_rules! piece {
    ($type:ty, $what:literal) => {
        impl Piece for $type {
            const WHAT: &'static str = $what;
            fn plan(&self) -> &str {
                &self.plan
            }
            fn from(&self) -> usize {
                self.from
            }
        }
    };
}

piece!(Dealing, "the dealing");
piece!(Acknowledgements, "the acknowledgement");
piece!(Log, "the log");

impl Dealing {
    /// Who dealt.
    #[must_use]
    pub fn dealer(&self) -> usize {
        self.from
    }

    /// To whom.
    #[must_use]
    pub fn receiver(&self) -> usize {
        self.to
    }
}

/// Reads an entry or a piece from a file.
///
/// # Errors
///
/// If the file is missing or malformed.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, GenesisError> {
    read_json(path)
}

/// Reads a secret piece from a file.
///
/// # Errors
///
/// As [`read`], and if everybody on the machine can read the file.
pub fn read_secret<T: DeserializeOwned>(path: &Path) -> Result<T, GenesisError> {
    check_private(path)?;
    read_json(path)
}

/// Writes an entry or a piece to a file: one that only its owner can read if it is secret.
///
/// # Errors
///
/// If it cannot be written.
pub fn write(path: &Path, content: &impl Serialize, is_secret: bool) -> Result<(), GenesisError> {
    write_json(path, content, if is_secret { 0o600 } else { 0o644 })
}

#[cfg(test)]
mod tests;
