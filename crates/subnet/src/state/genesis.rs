//! What a subnet's replicas agree on before the first block.
use crate::execution::protocol;
use ic_principal::Principal;
use lockstep_canister::{models::Work, prices::Prices, session::ModelDigest};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    num::{NonZeroU32, NonZeroU64},
};

/// DER header of a BLS12-381 public key as the Internet Computer writes it.
const ROOT_KEY_DER_PREFIX: [u8; 37] = *b"\x30\x81\x82\x30\x1d\x06\x0d\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x01\x02\x01\x06\x0c\x2b\x06\x01\x04\x01\x82\xdc\x7c\x05\x03\x02\x01\x03\x61\x00";
/// Bytes of a root key in DER.
pub const ROOT_KEY_DER_BYTES: usize = 133;
/// Bytes of a node's Ed25519 key in DER.
pub const NODE_KEY_DER_BYTES: usize = 44;
/// Multiply-accumulates that all sessions together get at each height.
const SESSION_WORK_PER_HEIGHT: Work = 600_000_000;
/// Instructions after which a height starts no further message.
const ROUND_INSTRUCTIONS: u64 = 4_000_000_000;
/// Instructions that a message gets at a height; one that takes more goes on at the next.
const SLICE_INSTRUCTIONS: NonZeroU64 = NonZeroU64::new(2_000_000_000).unwrap();

/// Tasks of a fork that count as running side by side: the cores of a small replica.
const FORK_LANES: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// Canisters whose turns count as running side by side.
const SCHEDULER_LANES: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// The size of subnet whose published prices hold.
const PRICED_AS_NODES: u32 = 13;

/// From a checkpoint to the next: some two minutes of an idle subnet.
const CHECKPOINT_INTERVAL: NonZeroU64 = NonZeroU64::new(256).unwrap();

/// Why a genesis makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// The root key is not a BLS12-381 key in G2.
    #[error("the root key is not a BLS12-381 public key: {bytes} bytes, expected 96")]
    RootKey {
        /// Its length.
        bytes: usize,
    },
    /// A node's key is not a point on the curve.
    #[error("node key {index} is not an Ed25519 public key")]
    NodeKey {
        /// Its place in the list.
        index: usize,
    },
    /// No node.
    #[error("a subnet has at least one node")]
    NoNodes,
}

/// What is fixed at the start of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Genesis {
    /// Hash of the root key: the subnet's principal.
    pub subnet_id: Principal,
    /// The subnet's public key, DER, [`ROOT_KEY_DER_BYTES`] long.
    #[serde(with = "serde_bytes")]
    pub root_key: Vec<u8>,
    /// Public keys of the nodes by their ids, DER, [`NODE_KEY_DER_BYTES`] long each.
    pub nodes: BTreeMap<Principal, Vec<u8>>,
    /// Models that sessions may open, by name.
    pub models: BTreeMap<String, ModelDigest>,
    /// Work that all sessions together get at each height.
    pub session_work_per_height: Work,
    /// Instructions of the time after which a height starts no further message.
    pub round_instructions: u64,
    /// Instructions of the time after which a message goes on at the next height.
    pub slice_instructions: NonZeroU64,
    /// How many tasks of a fork count as running side by side.
    pub fork_lanes: NonZeroU32,
    /// Over how many lanes canisters are spread, to take their turns side by side.
    pub scheduler_lanes: NonZeroU32,
    /// Prices are those of a subnet with so many nodes.
    pub priced_as_nodes: u32,
    /// Every so many heights others can go on from the state.
    pub checkpoint_interval: NonZeroU64,
    /// The version of the rules by which blocks change the state at first.
    pub protocol_version: u64,
}

impl Genesis {
    /// A subnet with the threshold public key `root_key` (96 bytes, compressed G2) and nodes with
    /// these Ed25519 public keys, whose sessions may open `models`.
    ///
    /// # Errors
    /// [`GenesisError`] names the key that is none.
    pub fn new(
        root_key: &[u8],
        node_keys: &[[u8; 32]],
        models: BTreeMap<String, ModelDigest>,
    ) -> Result<Self, GenesisError> {
        if root_key.len() != ROOT_KEY_DER_BYTES - ROOT_KEY_DER_PREFIX.len() {
            return Err(GenesisError::RootKey {
                bytes: root_key.len(),
            });
        }
        if node_keys.is_empty() {
            return Err(GenesisError::NoNodes);
        }
        let root_key = [&ROOT_KEY_DER_PREFIX[..], root_key].concat();
        let mut nodes = BTreeMap::new();
        for (index, key) in node_keys.iter().enumerate() {
            let key = ic_ed25519::PublicKey::deserialize_raw(key)
                .map_err(|_| GenesisError::NodeKey { index })?
                .serialize_rfc8410_der();
            nodes.insert(Principal::self_authenticating(&key), key);
        }
        Ok(Self {
            subnet_id: Principal::self_authenticating(&root_key),
            root_key,
            nodes,
            models,
            session_work_per_height: SESSION_WORK_PER_HEIGHT,
            round_instructions: ROUND_INSTRUCTIONS,
            slice_instructions: SLICE_INSTRUCTIONS,
            fork_lanes: FORK_LANES,
            scheduler_lanes: SCHEDULER_LANES,
            priced_as_nodes: PRICED_AS_NODES,
            checkpoint_interval: CHECKPOINT_INTERVAL,
            protocol_version: protocol::NEWEST,
        })
    }

    /// What canisters pay.
    #[must_use]
    pub fn prices(&self) -> Prices {
        Prices::new(self.priced_as_nodes)
    }

    /// BLAKE3 over every field: the tag `lockstep genesis 6`, then the fields but the subnet id in
    /// the order of the declaration; integers are little-endian u64, maps and byte strings are
    /// preceded by their length.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        bytes(b"lockstep genesis 6");
        bytes(&self.root_key);
        bytes(&(self.nodes.len() as u64).to_le_bytes());
        for key in self.nodes.values() {
            bytes(key);
        }
        bytes(&(self.models.len() as u64).to_le_bytes());
        for (name, digest) in &self.models {
            bytes(name.as_bytes());
            bytes(&digest.0);
        }
        bytes(&self.session_work_per_height.to_le_bytes());
        bytes(&self.round_instructions.to_le_bytes());
        bytes(&self.slice_instructions.get().to_le_bytes());
        bytes(&u64::from(self.fork_lanes.get()).to_le_bytes());
        bytes(&u64::from(self.scheduler_lanes.get()).to_le_bytes());
        bytes(&u64::from(self.priced_as_nodes).to_le_bytes());
        bytes(&self.checkpoint_interval.get().to_le_bytes());
        bytes(&self.protocol_version.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}
