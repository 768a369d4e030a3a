//! Snapshots of canisters.
//!
//! # Design
//! A snapshot shares heap, stable memory and chunks with the canister it was taken of, so that it costs
//! what either changes afterwards. One that is made by upload begins with zeros, and its module is a
//! memory until it is loaded.
use super::{Cached, Chunks, LowMemory};
use ic_principal::Principal;
use lockstep_canister::{
    engine::Module,
    heap::{Heap, PAGE_BYTES},
    memory::{Paged, PagedMemory},
    state::GlobalValue,
};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Most snapshots of a canister.
pub const SNAPSHOTS_MAX: usize = 10;
/// Bytes of a canister's id.
const CANISTER_BYTES: usize = 10;

/// Names a snapshot: its canister's id, then a number in eight bytes, big-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotId([u8; CANISTER_BYTES + 8]);

impl SnapshotId {
    /// The snapshot of a canister with a number.
    ///
    /// # Panics
    /// When `canister` does not have the form of a canister's id.
    #[must_use]
    pub fn new(canister: &Principal, number: u64) -> Self {
        let mut bytes = [0; CANISTER_BYTES + 8];
        bytes[..CANISTER_BYTES].copy_from_slice(canister.as_slice());
        bytes[CANISTER_BYTES..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// The id in these bytes, if they are one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The canister it belongs to.
    #[must_use]
    pub fn canister(&self) -> Principal {
        Principal::from_slice(&self.0[..CANISTER_BYTES])
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SnapshotId({self})")
    }
}

/// Where a snapshot comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotSource {
    /// Taken of the canister.
    Canister,
    /// Made by upload.
    Upload,
}

/// A snapshot's module.
#[derive(Debug, Clone)]
pub enum SnapshotCode {
    /// The one that was installed.
    Module(Arc<Module>),
    /// One that is being uploaded.
    Upload {
        /// Its bytes, with zeros behind to the end of the page.
        bytes: PagedMemory,
        /// How many they are.
        size: u64,
    },
}

/// A snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was made, nanoseconds since 1970.
    pub taken_at_ns: u64,
    /// The canister's version then.
    pub canister_version: u64,
    /// The module; it says where the snapshot comes from.
    pub code: SnapshotCode,
    /// Mutable globals, in the module's order.
    pub globals: Vec<GlobalValue>,
    /// The Wasm heap.
    pub heap: Heap,
    /// Stable memory.
    pub stable: PagedMemory,
    /// The chunk store.
    pub chunks: Chunks,
    /// Certified data.
    pub certified_data: Vec<u8>,
    /// The global timer's deadline, 0 when off; `None`: not given.
    pub global_timer_ns: Option<u64>,
    /// Where `canister_on_low_wasm_memory` stands; `None`: not given.
    pub low_memory: Option<LowMemory>,
    /// Computed once.
    pub digest: Cached<[u8; 32]>,
}

/// A snapshot without the contents of memories, module and chunks.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) taken_at_ns: u64,
    pub(crate) canister_version: u64,
    /// Hash of the module that was installed.
    pub(crate) module: Option<[u8; 32]>,
    /// Bytes of the module that is uploaded.
    pub(crate) upload_size: u64,
    pub(crate) globals: Vec<GlobalValue>,
    pub(crate) heap_pages: u64,
    pub(crate) stable_pages: u64,
    pub(crate) chunks: Vec<[u8; 32]>,
    #[serde(with = "serde_bytes")]
    pub(crate) certified_data: Vec<u8>,
    pub(crate) global_timer_ns: Option<u64>,
    pub(crate) low_memory: Option<LowMemory>,
}

impl SnapshotCode {
    /// Bytes of the module.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Module(module) => module.wasm().len() as u64,
            Self::Upload { size, .. } => *size,
        }
    }
}

impl Snapshot {
    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> SnapshotSource {
        match self.code {
            SnapshotCode::Module(_) => SnapshotSource::Canister,
            SnapshotCode::Upload { .. } => SnapshotSource::Upload,
        }
    }

    /// Bytes that are charged, whatever it shares.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let pages = self.heap.size_pages() + self.stable.size_pages();
        pages * PAGE_BYTES as u64
            + self.code.size()
            + self.chunks.bytes()
            + self.certified_data.len() as u64
            + globals_bytes(&self.globals)
    }

    pub(crate) fn record(&self) -> SnapshotRecord {
        let (module, upload_size) = match &self.code {
            SnapshotCode::Module(module) => (Some(module.hash()), 0),
            SnapshotCode::Upload { size, .. } => (None, *size),
        };
        SnapshotRecord {
            taken_at_ns: self.taken_at_ns,
            canister_version: self.canister_version,
            module,
            upload_size,
            globals: self.globals.clone(),
            heap_pages: self.heap.size_pages(),
            stable_pages: self.stable.size_pages(),
            chunks: self.chunks.entries().keys().copied().collect(),
            certified_data: self.certified_data.clone(),
            global_timer_ns: self.global_timer_ns,
            low_memory: self.low_memory,
        }
    }

    /// BLAKE3 over the tag `lockstep snapshot 1`, the digests of heap, stable memory and, if it is
    /// uploaded, the module, and the CBOR of everything else, hashes of module and chunks included.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"lockstep snapshot 1");
            hasher.update(&self.heap.digest());
            hasher.update(&self.stable.digest());
            if let SnapshotCode::Upload { bytes, .. } = &self.code {
                hasher.update(&bytes.digest());
            }
            ciborium::into_writer(&self.record(), &mut hasher).expect("a hash takes every byte");
            *hasher.finalize().as_bytes()
        })
    }
}

/// Bytes that globals are charged as.
pub(crate) fn globals_bytes(globals: &[GlobalValue]) -> u64 {
    let sizes = globals.iter().map(|global| match global {
        GlobalValue::V128(_) => 16,
        _ => 8,
    });
    sizes.sum()
}
