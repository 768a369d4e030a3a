//! What the store writes besides blocks of memories, modules and envelopes.
use super::{
    StoreError,
    tables::{Memories, cbor},
};
use crate::state::{
    Cached, Canister, Chunks, Epochs, Ledger, Randomness, ReplicatedState, Schedule, Snapshot,
    SnapshotCode, SnapshotId, SnapshotRecord, Stored, SubnetMetrics,
};
use crate::sync::CheckpointId;
use ic_principal::Principal;
use lockstep_canister::{
    engine::Module,
    heap::Heap,
    memory::{Paged, PagedMemory},
    state::{CanisterState, GlobalValue, Installed, RunState, Settings},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What a memory is for. The numbers are part of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemoryKind {
    /// A heap.
    Heap = 0,
    /// Stable memory.
    Stable = 1,
    /// A module that is being uploaded.
    Module = 2,
}

impl MemoryKind {
    /// The kind with a number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        [Self::Heap, Self::Stable, Self::Module]
            .get(usize::from(number))
            .copied()
    }
}

/// Kind of the blocks of a heap.
pub(super) const HEAP: u8 = MemoryKind::Heap as u8;
/// Kind of the blocks of stable memory.
pub(super) const STABLE: u8 = MemoryKind::Stable as u8;
/// Kind of the pages of a module that is being uploaded.
pub(super) const MODULE: u8 = MemoryKind::Module as u8;

/// The fields of a state that have no table.
#[derive(Serialize, Deserialize)]
pub(super) struct StateRecord {
    digest: [u8; 32],
    height: u64,
    time_ns: u64,
    next_session: u64,
    next_queue_key: u64,
    next_canister_index: u64,
    deleted: BTreeSet<Principal>,
    schedule: Schedule,
    randomness: Randomness,
    metrics: SubnetMetrics,
    checkpoint: Option<CheckpointId>,
    epochs: Epochs,
}

impl StateRecord {
    pub(super) fn of(state: &ReplicatedState) -> Self {
        Self {
            digest: state.digest(),
            height: state.height,
            time_ns: state.time_ns,
            next_session: state.sessions.next_id,
            next_queue_key: state.next_queue_key,
            next_canister_index: state.next_canister_index,
            deleted: state.deleted.clone(),
            schedule: state.schedule,
            randomness: state.randomness.clone(),
            metrics: state.metrics,
            checkpoint: state.checkpoint,
            epochs: Epochs::clone(&state.epochs),
        }
    }

    /// Sets the fields and returns the digest that the whole state must have.
    pub(super) fn restore(self, state: &mut ReplicatedState) -> [u8; 32] {
        state.height = self.height;
        state.time_ns = self.time_ns;
        state.sessions.next_id = self.next_session;
        state.next_queue_key = self.next_queue_key;
        state.next_canister_index = self.next_canister_index;
        state.deleted = self.deleted;
        state.schedule = self.schedule;
        state.randomness = self.randomness;
        state.metrics = self.metrics;
        state.checkpoint = self.checkpoint;
        state.epochs = Arc::new(self.epochs);
        self.digest
    }
}

/// What is named by its hash.
pub(super) struct Named {
    pub(super) modules: BTreeMap<Vec<u8>, Arc<Module>>,
    pub(super) chunks: BTreeMap<Vec<u8>, Arc<Vec<u8>>>,
}

impl Named {
    /// The chunks with these hashes; `None` when one is missing.
    fn chunks(&self, hashes: &[[u8; 32]]) -> Option<Chunks> {
        let chunk = |hash: &[u8; 32]| Some((*hash, Arc::clone(self.chunks.get(&hash[..])?)));
        let chunks: Option<BTreeMap<_, _>> = hashes.iter().map(chunk).collect();
        chunks.map(Chunks::restore)
    }
}

/// A canister without its memories' blocks, its module's bytes, its chunks and its snapshots.
#[derive(Serialize, Deserialize)]
pub(super) struct CanisterRecord {
    controllers: BTreeSet<Principal>,
    settings: Settings,
    run_state: RunState,
    cycles: u128,
    version: u64,
    #[serde(with = "serde_bytes")]
    certified_data: Vec<u8>,
    global_timer_ns: u64,
    other_bytes: u64,
    stable_pages: u64,
    installed: Option<InstalledRecord>,
    chunks: Vec<[u8; 32]>,
    next_snapshot: u64,
    ledger: Ledger,
}

#[derive(Serialize, Deserialize)]
struct InstalledRecord {
    #[serde(with = "serde_bytes")]
    module: Vec<u8>,
    heap_pages: u64,
    globals: Vec<GlobalValue>,
}

impl CanisterRecord {
    pub(super) fn of(canister: &Canister) -> Self {
        let state = &canister.state;
        Self {
            controllers: state.controllers.clone(),
            settings: state.settings.clone(),
            run_state: state.run_state,
            cycles: state.cycles,
            version: state.version,
            certified_data: state.certified_data.clone(),
            global_timer_ns: state.global_timer_ns,
            other_bytes: state.other_bytes,
            stable_pages: state.stable.size_pages(),
            installed: state.installed.as_ref().map(|installed| InstalledRecord {
                module: installed.module.hash().to_vec(),
                heap_pages: installed.heap.size_pages(),
                globals: installed.globals.clone(),
            }),
            chunks: canister.stored.chunks.entries().keys().copied().collect(),
            next_snapshot: canister.stored.next_snapshot,
            ledger: canister.ledger.clone(),
        }
    }

    /// The canister without its snapshots; `None` when its id is none or a part is missing.
    pub(super) fn restore(
        self,
        id: &[u8],
        parts: &Named,
        heap: impl Fn(u64) -> Result<Heap, StoreError>,
        stable: impl Fn(u64) -> Result<PagedMemory, StoreError>,
    ) -> Result<Option<Canister>, StoreError> {
        let Ok(id) = Principal::try_from_slice(id) else {
            return Ok(None);
        };
        let Some(chunks) = parts.chunks(&self.chunks) else {
            return Ok(None);
        };
        let mut installed = None;
        if let Some(record) = self.installed {
            let Some(module) = parts.modules.get(&record.module) else {
                return Ok(None);
            };
            installed = Some(Installed {
                module: Arc::clone(module),
                heap: heap(record.heap_pages)?,
                globals: record.globals,
            });
        }
        let state = CanisterState {
            id,
            controllers: self.controllers,
            settings: self.settings,
            run_state: self.run_state,
            cycles: self.cycles,
            version: self.version,
            certified_data: self.certified_data,
            global_timer_ns: self.global_timer_ns,
            other_bytes: self.other_bytes,
            stable: stable(self.stable_pages)?,
            installed,
        };
        let stored = Stored {
            chunks,
            snapshots: BTreeMap::new(),
            next_snapshot: self.next_snapshot,
        };
        Ok(Some(Canister::restore(state, self.ledger, stored)))
    }
}

/// A snapshot; `None` when a part is missing.
pub(super) fn restore_snapshot(
    record: SnapshotRecord,
    parts: &Named,
    heap: Heap,
    stable: PagedMemory,
    module: PagedMemory,
) -> Option<Snapshot> {
    let code = match record.module {
        Some(hash) => SnapshotCode::Module(Arc::clone(parts.modules.get(&hash[..])?)),
        None => SnapshotCode::Upload {
            bytes: module,
            size: record.upload_size,
        },
    };
    Some(Snapshot {
        taken_at_ns: record.taken_at_ns,
        canister_version: record.canister_version,
        code,
        globals: record.globals,
        heap,
        stable,
        chunks: parts.chunks(&record.chunks)?,
        certified_data: record.certified_data,
        global_timer_ns: record.global_timer_ns,
        low_memory: record.low_memory,
        digest: Cached::default(),
    })
}

/// The modules in use, by hash.
pub(crate) fn modules(state: &ReplicatedState) -> BTreeMap<[u8; 32], Arc<Module>> {
    let mut modules = BTreeMap::new();
    let mut add = |module: &Arc<Module>| {
        modules.insert(module.hash(), Arc::clone(module));
    };
    for canister in state.canisters().values() {
        if let Some(installed) = &canister.state.installed {
            add(&installed.module);
        }
        for snapshot in canister.stored.snapshots.values() {
            if let SnapshotCode::Module(module) = &snapshot.code {
                add(module);
            }
        }
    }
    modules
}

/// The chunks in use, by hash.
pub(crate) fn chunks(state: &ReplicatedState) -> BTreeMap<[u8; 32], Arc<Vec<u8>>> {
    let mut chunks = BTreeMap::new();
    for canister in state.canisters().values() {
        let snapshots = canister.stored.snapshots.values();
        let stores = snapshots.map(|snapshot| &snapshot.chunks);
        for store in stores.chain([&canister.stored.chunks]) {
            let entries = store.entries().iter();
            chunks.extend(entries.map(|(hash, chunk)| (*hash, Arc::clone(chunk))));
        }
    }
    chunks
}

/// The snapshots, by id.
pub(crate) fn snapshots(state: &ReplicatedState) -> BTreeMap<SnapshotId, Arc<Snapshot>> {
    let canisters = state.canisters().values();
    let snapshots = canisters.flat_map(|canister| &canister.stored.snapshots);
    snapshots
        .map(|(id, snapshot)| (*id, Arc::clone(snapshot)))
        .collect()
}

/// The memories, by kind.
#[derive(Default)]
pub(crate) struct AllMemories<'state> {
    pub(crate) heaps: Memories<'state, Heap>,
    pub(crate) stable: Memories<'state, PagedMemory>,
    pub(crate) modules: Memories<'state, PagedMemory>,
}

/// The memories of canisters and snapshots.
pub(crate) fn memories(state: &ReplicatedState) -> AllMemories<'_> {
    let mut memories = AllMemories::default();
    for (id, canister) in state.canisters() {
        if let Some(installed) = &canister.state.installed {
            memories.heaps.insert(id.as_slice(), &installed.heap);
        }
        memories
            .stable
            .insert(id.as_slice(), &canister.state.stable);
        for (id, snapshot) in &canister.stored.snapshots {
            memories.heaps.insert(id.as_bytes(), &snapshot.heap);
            memories.stable.insert(id.as_bytes(), &snapshot.stable);
            if let SnapshotCode::Upload { bytes, .. } = &snapshot.code {
                memories.modules.insert(id.as_bytes(), bytes);
            }
        }
    }
    memories
}

/// The row of the fields that have no table.
pub(crate) fn state_row(state: &ReplicatedState) -> (Vec<u8>, Vec<u8>) {
    (b"state".to_vec(), cbor(&StateRecord::of(state)))
}

/// The value of the row of a canister.
pub(crate) fn canister_row(canister: &Canister) -> Vec<u8> {
    cbor(&CanisterRecord::of(canister))
}
