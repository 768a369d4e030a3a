//! What the store writes besides blocks of memories, modules and envelopes.
use super::StoreError;
use crate::state::{Canister, Ledger, ReplicatedState, Schedule};
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

/// Kind of the blocks of a heap.
pub(super) const HEAP: u8 = 0;
/// Kind of the blocks of stable memory.
pub(super) const STABLE: u8 = 1;

/// The fields of a state that have no table.
#[derive(Serialize, Deserialize)]
pub(super) struct StateRecord {
    digest: [u8; 32],
    height: u64,
    time_ns: u64,
    next_session: u64,
    next_queue_key: u64,
    next_canister_index: u64,
    schedule: Schedule,
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
            schedule: state.schedule,
        }
    }

    /// Sets the fields and returns the digest that the whole state must have.
    pub(super) fn restore(&self, state: &mut ReplicatedState) -> [u8; 32] {
        state.height = self.height;
        state.time_ns = self.time_ns;
        state.sessions.next_id = self.next_session;
        state.next_queue_key = self.next_queue_key;
        state.next_canister_index = self.next_canister_index;
        state.schedule = self.schedule;
        self.digest
    }
}

/// A canister without its memories' blocks and its module's bytes.
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
            ledger: canister.ledger.clone(),
        }
    }

    /// The canister; `None` when its id is none or its module is missing.
    pub(super) fn restore(
        self,
        id: &[u8],
        modules: &BTreeMap<Vec<u8>, Arc<Module>>,
        heap: impl Fn(u64) -> Result<Heap, StoreError>,
        stable: impl Fn(u64) -> Result<PagedMemory, StoreError>,
    ) -> Result<Option<Canister>, StoreError> {
        let Ok(id) = Principal::try_from_slice(id) else {
            return Ok(None);
        };
        let mut installed = None;
        if let Some(record) = self.installed {
            let Some(module) = modules.get(&record.module) else {
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
        Ok(Some(Canister::restore(state, self.ledger)))
    }
}

/// The modules in use, by hash.
pub(super) fn modules(state: &ReplicatedState) -> BTreeMap<[u8; 32], Arc<Module>> {
    let installed = state
        .canisters()
        .values()
        .filter_map(|canister| canister.state.installed.as_ref());
    installed
        .map(|installed| (installed.module.hash(), Arc::clone(&installed.module)))
        .collect()
}

/// The memories, by canister and kind.
pub(super) fn memories(
    state: &ReplicatedState,
) -> (super::Memories<'_, Heap>, super::Memories<'_, PagedMemory>) {
    let canisters = state.canisters().iter();
    let heaps = canisters.clone().filter_map(|(id, canister)| {
        let installed = canister.state.installed.as_ref()?;
        Some((id.as_slice(), &installed.heap))
    });
    let stable = canisters.map(|(id, canister)| (id.as_slice(), &canister.state.stable));
    (heaps.collect(), stable.collect())
}
