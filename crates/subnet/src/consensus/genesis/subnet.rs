//! What everybody may know of a subnet, and its file.
use super::{
    GenesisError, NODE_COUNT_MAX, PeerAddress,
    files::{check_version, decode_hex, malformed, read_json, write_json},
};
use crate::{
    consensus::certification::IcVariant,
    execution::protocol,
    members::{Member, Members},
};
use commonware_codec::{Copying, Decode as _, DecodeExt as _, Encode as _};
use commonware_cryptography::{
    bls12381::primitives::sharing::{ModeVersion, Sharing},
    ed25519::PublicKey,
};
use commonware_utils::{TryCollect as _, ordered::Set};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::Path,
};

/// The name of the public file in a directory of keys.
pub const SUBNET_FILE: &str = "subnet.json";

/// Context of the digest.
const DIGEST_CONTEXT: &str = "lockstep 2026 subnet: public part";

/// Version 1 had neither the keys that verify query responses nor addresses nor models: a node alone
/// could not make the state before the first block from it. Version 2 had neither an epoch nor a version of the protocol.
const VERSION: u32 = 3;

/// What everybody may know of a subnet in an epoch. The next one may have other nodes, with another sharing of the same
/// key; models stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Subnet {
    epoch: u64,
    nodes: Set<PublicKey>,
    query_keys: Vec<[u8; 32]>,
    sharing: Sharing<IcVariant>,
    /// By node index; none at all where the nodes' places are not fixed.
    addresses: Vec<PeerAddress>,
    models: BTreeMap<String, [u8; 32]>,
    /// Of the genesis.
    protocol_version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubnetFile {
    version: u32,
    epoch: u64,
    public_key: String,
    sharing: String,
    nodes: Vec<NodeEntry>,
    models: BTreeMap<String, String>,
    protocol_version: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    identity: String,
    query_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

impl Subnet {
    pub(super) fn new(
        nodes: Set<PublicKey>,
        query_keys: Vec<[u8; 32]>,
        sharing: Sharing<IcVariant>,
    ) -> Self {
        Self {
            epoch: 0,
            nodes,
            query_keys,
            sharing,
            addresses: Vec::new(),
            models: BTreeMap::new(),
            protocol_version: protocol::NEWEST,
        }
    }

    /// With `addresses[i]` as the place where peers reach node `i`.
    ///
    /// # Errors
    ///
    /// If there is not one address of its own for each node.
    pub fn with_addresses(mut self, addresses: Vec<PeerAddress>) -> Result<Self, GenesisError> {
        let different: BTreeSet<_> = addresses.iter().collect();
        if addresses.len() != self.node_count() || different.len() != self.node_count() {
            return Err(GenesisError::Addresses {
                node_count: self.node_count(),
            });
        }
        self.addresses = addresses;
        Ok(self)
    }

    /// With models that its canisters may use: BLAKE3 digests by name.
    #[must_use]
    pub fn with_models(mut self, models: BTreeMap<String, [u8; 32]>) -> Self {
        self.models = models;
        self
    }

    /// As it is in the epoch of a number.
    #[must_use]
    pub(crate) fn in_epoch(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The number of the epoch: 0 is the genesis.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its nodes, as blocks and the state have them.
    #[must_use]
    pub fn members(&self) -> Members {
        let nodes = self.nodes.iter().zip(&self.query_keys).enumerate();
        let nodes = nodes.map(|(index, (identity, query_key))| Member {
            identity: identity.as_ref().try_into().expect("32 bytes"),
            query_key: *query_key,
            address: self
                .addresses
                .get(index)
                .map(ToString::to_string)
                .unwrap_or_default(),
        });
        Members {
            nodes: nodes.collect(),
            sharing: self.sharing.encode().to_vec(),
        }
    }

    /// This subnet with other nodes in a later epoch; `None`: these are not the nodes of one with this key.
    #[must_use]
    pub fn with_members(&self, epoch: u64, members: &Members) -> Option<Self> {
        let decode = |node: &Member| PublicKey::decode(Copying(&node.identity[..])).ok();
        let nodes: Vec<PublicKey> = members.nodes.iter().map(decode).collect::<Option<_>>()?;
        let nodes: Set<PublicKey> = nodes.into_iter().try_collect().ok()?;
        let query_keys = members.nodes.iter().map(|node| node.query_key).collect();
        let sharing = decode_sharing(&members.sharing, nodes.len()).ok()?;
        if sharing.public() != self.sharing.public() {
            return None;
        }
        let subnet = Self::new(nodes, query_keys, sharing)
            .with_models(self.models.clone())
            .with_protocol_version(self.protocol_version)
            .in_epoch(epoch);
        if members.nodes.iter().all(|node| node.address.is_empty()) {
            return Some(subnet);
        }
        let addresses = members.nodes.iter().map(|node| node.address.parse().ok());
        subnet
            .with_addresses(addresses.collect::<Option<_>>()?)
            .ok()
    }

    /// With the version of the protocol by which its first blocks are executed.
    #[must_use]
    pub fn with_protocol_version(mut self, version: u64) -> Self {
        self.protocol_version = version;
        self
    }

    /// The version of the protocol by which its first blocks are executed.
    #[must_use]
    pub fn protocol_version(&self) -> u64 {
        self.protocol_version
    }

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

    /// The Ed25519 keys that verify the nodes' query responses, by node index.
    #[must_use]
    pub fn query_keys(&self) -> &[[u8; 32]] {
        &self.query_keys
    }

    /// Where peers reach the nodes, by node index; empty if that is not fixed.
    #[must_use]
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// The models that its canisters may use: BLAKE3 digests by name.
    #[must_use]
    pub fn models(&self) -> &BTreeMap<String, [u8; 32]> {
        &self.models
    }

    /// What operators compare: BLAKE3 over everything but the addresses, by derivation. The encoding: the epoch, for each
    /// node its identity and its query key, then the sharing, names and digests of the models, the protocol's version; each
    /// part is preceded by its length, a little-endian u64, and lists by their counts.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&self.epoch.to_le_bytes());
        add(&(self.nodes.len() as u64).to_le_bytes());
        for (identity, query_key) in self.nodes.iter().zip(&self.query_keys) {
            add(identity.as_ref());
            add(query_key);
        }
        add(&self.sharing.encode());
        add(&(self.models.len() as u64).to_le_bytes());
        for (name, digest) in &self.models {
            add(name.as_bytes());
            add(digest);
        }
        add(&self.protocol_version.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Reads it from a directory.
    ///
    /// # Errors
    ///
    /// If `subnet.json` is missing or malformed.
    pub fn read(directory: &Path) -> Result<Self, GenesisError> {
        Self::read_file(&directory.join(SUBNET_FILE))
    }

    /// Reads it from a file.
    ///
    /// # Errors
    ///
    /// If the file is missing, of another version, or malformed.
    pub fn read_file(path: &Path) -> Result<Self, GenesisError> {
        let document: serde_json::Value = read_json(path)?;
        check_version(path, &document, VERSION)?;
        let file: SubnetFile =
            serde_json::from_value(document).map_err(|error| malformed(path, error))?;
        let nodes: Set<PublicKey> = file
            .nodes
            .iter()
            .map(|node| decode_hex(path, &node.identity))
            .collect::<Result<Vec<PublicKey>, _>>()?
            .into_iter()
            .try_collect()
            .map_err(|_| malformed(path, "a node appears twice"))?;
        // The order of the file is that of the nodes' numbers, by which the rest is found.
        let in_order = nodes
            .iter()
            .zip(&file.nodes)
            .all(|(node, entry)| hex::encode(node) == entry.identity);
        if !in_order {
            return Err(malformed(path, "the nodes are not in order"));
        }
        let query_keys = file
            .nodes
            .iter()
            .map(|node| decode_bytes(path, &node.query_key))
            .collect::<Result<Vec<[u8; 32]>, _>>()?;
        if query_keys.iter().collect::<BTreeSet<_>>().len() != query_keys.len() {
            return Err(malformed(path, "two nodes have one key for queries"));
        }
        let sharing = hex::decode(&file.sharing).map_err(|error| malformed(path, error))?;
        let sharing =
            decode_sharing(&sharing, file.nodes.len()).map_err(|reason| malformed(path, reason))?;
        let subnet = Self::new(nodes, query_keys, sharing).in_epoch(file.epoch);
        if file.public_key != hex::encode(subnet.public_key()) {
            return Err(malformed(path, "the public key is not the sharing's"));
        }
        let models = file.models.into_iter();
        let models = models
            .map(|(name, digest)| Ok((name, decode_bytes(path, &digest)?)))
            .collect::<Result<_, GenesisError>>()?;
        let subnet = subnet
            .with_models(models)
            .with_protocol_version(file.protocol_version);
        let addresses = file.nodes.into_iter().filter_map(|node| node.address);
        let addresses = addresses
            .map(|address| address.parse())
            .collect::<Result<Vec<PeerAddress>, _>>()
            .map_err(|error| malformed(path, error))?;
        if addresses.is_empty() {
            return Ok(subnet);
        }
        subnet
            .with_addresses(addresses)
            .map_err(|error| malformed(path, error))
    }

    pub(crate) fn participants(&self) -> &Set<PublicKey> {
        &self.nodes
    }

    pub(crate) fn sharing(&self) -> &Sharing<IcVariant> {
        &self.sharing
    }

    /// Writes it to a directory.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), GenesisError> {
        let nodes = self.nodes.iter().zip(&self.query_keys).enumerate();
        let file = SubnetFile {
            version: VERSION,
            epoch: self.epoch,
            public_key: hex::encode(self.public_key()),
            sharing: hex::encode(self.sharing.encode()),
            nodes: nodes
                .map(|(index, (identity, query_key))| NodeEntry {
                    identity: hex::encode(identity),
                    query_key: hex::encode(query_key),
                    address: self.addresses.get(index).map(ToString::to_string),
                })
                .collect(),
            models: self
                .models
                .iter()
                .map(|(name, digest)| (name.clone(), hex::encode(digest)))
                .collect(),
            protocol_version: self.protocol_version,
        };
        write_json(&directory.join(SUBNET_FILE), &file, 0o644)
    }
}

fn decode_bytes(path: &Path, text: &str) -> Result<[u8; 32], GenesisError> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|error| malformed(path, error))?;
    Ok(bytes)
}

fn decode_sharing(bytes: &[u8], node_count: usize) -> Result<Sharing<IcVariant>, String> {
    let node_count = u32::try_from(node_count).unwrap_or(u32::MAX);
    let quorum = node_count - node_count.saturating_sub(1) / 3;
    let bound = NonZeroU32::new(NODE_COUNT_MAX).expect("not zero");
    let sharing: Sharing<IcVariant> =
        Sharing::decode_cfg(Copying(bytes), &(bound, ModeVersion::v0()))
            .map_err(|error| error.to_string())?;
    if sharing.total().get() != node_count || sharing.required() != quorum {
        return Err("the sharing is for another number of nodes".to_owned());
    }
    Ok(sharing)
}
