//! A canister's replicated state.
use crate::{
    engine::{Cycles, Effects, Module},
    heap::{Heap, PAGE_BYTES},
    memory::{Paged, PagedMemory},
    prices::Prices,
};
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The bits of a mutable Wasm global between messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GlobalValue {
    /// An `i32`.
    I32(i32),
    /// An `i64`.
    I64(i64),
    /// An `f32`, by its bits.
    F32(u32),
    /// An `f64`, by its bits.
    F64(u64),
    /// A `v128`.
    V128(u128),
}

/// Code and memories of an installed canister.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The compiled module; its source bytes and their SHA-256 are part of it.
    pub module: Arc<Module>,
    /// The Wasm heap.
    pub heap: Heap,
    /// Mutable globals, in the module's order.
    pub globals: Vec<GlobalValue>,
}

impl Installed {
    /// Code whose `Init` or `PostUpgrade` has yet to run: empty heap, no globals.
    #[must_use]
    pub fn new(module: Arc<Module>) -> Self {
        Self {
            module,
            heap: Heap::default(),
            globals: Vec::new(),
        }
    }
}

/// Who may see something of a canister besides its controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Visibility {
    /// Nobody.
    #[default]
    Controllers,
    /// Everybody.
    Public,
    /// These.
    Allowed(BTreeSet<Principal>),
}

/// What controllers can set, but for the controllers themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Percent of a core that is kept for the canister.
    pub compute_allocation: u8,
    /// Bytes that are kept for the canister, paid whether used or not; 0: none.
    pub memory_allocation: u64,
    /// Seconds for which the balance must pay storage before the canister freezes.
    pub freezing_threshold_s: u64,
    /// Most cycles that may be set aside for storage.
    pub reserved_cycles_limit: Cycles,
    /// Bytes of heap beyond which updates are refused; 0: no limit.
    pub wasm_memory_limit: u64,
    /// Bytes left of the limit at which `canister_on_low_wasm_memory` runs; 0: never.
    pub wasm_memory_threshold: u64,
    /// Who sees the log.
    pub log_visibility: Visibility,
    /// Bytes of log that are kept.
    pub log_memory_limit: u64,
    /// Who may read snapshots.
    pub snapshot_visibility: Visibility,
    /// Who sees the status.
    pub status_visibility: Visibility,
    /// Least cycles that a call must bring.
    pub minimum_call_cycles: Cycles,
    /// What `ic0.env_var_*` read.
    pub environment_variables: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            compute_allocation: 0,
            memory_allocation: 0,
            freezing_threshold_s: 30 * 24 * 3600,
            reserved_cycles_limit: 5_000_000_000_000,
            wasm_memory_limit: 3 << 30,
            wasm_memory_threshold: 0,
            log_visibility: Visibility::default(),
            log_memory_limit: 4096,
            snapshot_visibility: Visibility::default(),
            status_visibility: Visibility::default(),
            minimum_call_cycles: 0,
            environment_variables: BTreeMap::new(),
        }
    }
}

impl Visibility {
    fn encode(&self, encoder: &mut Encoder) {
        let nobody = BTreeSet::new();
        let (tag, principals) = match self {
            Self::Controllers => (0, &nobody),
            Self::Public => (1, &nobody),
            Self::Allowed(principals) => (2, principals),
        };
        encoder.raw(&[tag]);
        encoder.u64(principals.len() as u64);
        for principal in principals {
            encoder.bytes(principal.as_slice());
        }
    }
}

impl Settings {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.raw(&[self.compute_allocation]);
        encoder.u64(self.memory_allocation);
        encoder.u64(self.freezing_threshold_s);
        encoder.raw(&self.reserved_cycles_limit.to_le_bytes());
        encoder.u64(self.wasm_memory_limit);
        encoder.u64(self.wasm_memory_threshold);
        self.log_visibility.encode(encoder);
        encoder.u64(self.log_memory_limit);
        self.snapshot_visibility.encode(encoder);
        self.status_visibility.encode(encoder);
        encoder.raw(&self.minimum_call_cycles.to_le_bytes());
        encoder.u64(self.environment_variables.len() as u64);
        for (name, value) in &self.environment_variables {
            encoder.bytes(name.as_bytes());
            encoder.bytes(value.as_bytes());
        }
    }
}

/// Whether a canister takes calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// It does.
    #[default]
    Running,
    /// It no longer does; calls under way go on.
    Stopping,
    /// It does not, and none is under way.
    Stopped,
}

/// A canister. Cheap to clone: memories share pages.
#[derive(Clone, Debug)]
pub struct CanisterState {
    /// Its id.
    pub id: Principal,
    /// Who may manage it.
    pub controllers: BTreeSet<Principal>,
    /// What else they have set.
    pub settings: Settings,
    /// Whether it takes calls.
    pub run_state: RunState,
    /// Balance.
    pub cycles: Cycles,
    /// Counts changes of code, settings and state (`ic0.canister_version`).
    pub version: u64,
    /// Set by `ic0.certified_data_set`; at most 32 bytes.
    pub certified_data: Vec<u8>,
    /// Deadline of the global timer, 0 when off; nanoseconds.
    pub global_timer_ns: u64,
    /// Bytes kept for the canister besides its code and its memories: snapshots, chunks, logs.
    pub other_bytes: u64,
    /// Stable memory; kept by upgrades.
    pub stable: PagedMemory,
    /// Code, heap and globals, when code is installed.
    pub installed: Option<Installed>,
}

impl CanisterState {
    /// A running canister without code, at version 0.
    #[must_use]
    pub fn new(id: Principal, controllers: BTreeSet<Principal>, cycles: Cycles) -> Self {
        Self {
            id,
            controllers,
            settings: Settings::default(),
            run_state: RunState::default(),
            cycles,
            version: 0,
            certified_data: Vec::new(),
            global_timer_ns: 0,
            other_bytes: 0,
            stable: PagedMemory::default(),
            installed: None,
        }
    }

    /// Adds cycles to the balance; beyond the largest one they are lost.
    pub fn receive(&mut self, cycles: Cycles) {
        self.cycles = self.cycles.saturating_add(cycles);
    }

    /// Whether somebody may see what the controllers see, and whom else they let.
    #[must_use]
    pub fn shows(&self, visibility: &Visibility, viewer: &Principal) -> bool {
        self.controllers.contains(viewer)
            || match visibility {
                Visibility::Controllers => false,
                Visibility::Public => true,
                Visibility::Allowed(viewers) => viewers.contains(viewer),
            }
    }

    /// Bytes of the memory allocation that are not in use.
    #[must_use]
    pub fn memory_kept(&self) -> u64 {
        self.settings
            .memory_allocation
            .saturating_sub(self.memory_bytes())
    }

    /// Bytes of the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> u64 {
        let heap = self.installed.as_ref().map(|installed| &installed.heap);
        heap.map_or(0, |heap| heap.size_pages() * PAGE_BYTES as u64)
    }

    /// Bytes of stable memory.
    #[must_use]
    pub fn stable_bytes(&self) -> u64 {
        self.stable.size_pages() * PAGE_BYTES as u64
    }

    /// Bytes in use: memories, code, and what else is kept for the canister.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let code = self.installed.as_ref();
        let code = code.map_or(0, |installed| installed.module.wasm().len() as u64);
        self.heap_bytes() + self.stable_bytes() + code + self.other_bytes
    }

    /// What it costs to keep the canister for so long, used or not.
    #[must_use]
    pub fn idle_cycles(&self, prices: Prices, nanoseconds: u64) -> Cycles {
        let bytes = self.memory_bytes().max(self.settings.memory_allocation);
        prices.storage(bytes, nanoseconds)
            + prices.compute(self.settings.compute_allocation, nanoseconds)
    }

    /// Cycles that calls and executions must leave: the price of the freezing threshold's time.
    #[must_use]
    pub fn frozen_cycles(&self, prices: Prices) -> Cycles {
        let second = 1_000_000_000;
        let day = self.idle_cycles(prices, 86_400 * second);
        day.saturating_mul(u128::from(self.settings.freezing_threshold_s)) / 86_400
    }

    /// Takes over what a message changed in this canister; its sessions go to
    /// [`Sessions::apply`](crate::session::Sessions::apply). The version is the caller's to bump.
    ///
    /// # Panics
    /// When no code is installed: then no message can have run.
    pub fn apply(&mut self, effects: &Effects) {
        let installed = self
            .installed
            .as_mut()
            .expect("effects come from installed code");
        installed.heap = effects.heap.clone();
        installed.globals.clone_from(&effects.globals);
        self.stable = effects.stable.clone();
        if let Some(data) = &effects.certified_data {
            self.certified_data.clone_from(data);
        }
        if let Some(deadline_ns) = effects.global_timer_ns {
            self.global_timer_ns = deadline_ns;
        }
        self.receive(effects.cycles_accepted);
        self.cycles = self.cycles.saturating_sub(effects.cycles_spent);
    }

    /// BLAKE3 over every field.
    ///
    /// The encoding: the tag `lockstep canister 3`, then the fields in the order of the
    /// declaration. Integers are little-endian; byte strings and lists are preceded by their
    /// length as u64; those of the settings come in their order, a visibility being a tag byte (0 controllers, 1 public,
    /// 2 allowed) and the principals it lists; `run_state` is a byte; stable memory and heap are their digests ([`PagedMemory::digest`],
    /// [`Heap::digest`]); `installed` is one byte (0 or 1),
    /// then the SHA-256 of the module, the heap and the globals, each global a tag byte (0 i32,
    /// 1 i64, 2 f32, 3 f64, 4 v128) and its bits in 16 bytes.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut encoder = Encoder::new(b"lockstep canister 3");
        encoder.bytes(self.id.as_slice());
        encoder.u64(self.controllers.len() as u64);
        for controller in &self.controllers {
            encoder.bytes(controller.as_slice());
        }
        self.settings.encode(&mut encoder);
        encoder.raw(&[self.run_state as u8]);
        encoder.raw(&self.cycles.to_le_bytes());
        encoder.u64(self.version);
        encoder.bytes(&self.certified_data);
        encoder.u64(self.global_timer_ns);
        encoder.u64(self.other_bytes);
        encoder.raw(&self.stable.digest());
        encoder.raw(&[u8::from(self.installed.is_some())]);
        if let Some(installed) = &self.installed {
            encoder.raw(&installed.module.hash());
            encoder.raw(&installed.heap.digest());
            encoder.u64(installed.globals.len() as u64);
            for global in &installed.globals {
                let (tag, bits) = match *global {
                    GlobalValue::I32(value) => (0, u128::from(value.cast_unsigned())),
                    GlobalValue::I64(value) => (1, u128::from(value.cast_unsigned())),
                    GlobalValue::F32(bits) => (2, u128::from(bits)),
                    GlobalValue::F64(bits) => (3, u128::from(bits)),
                    GlobalValue::V128(bits) => (4, bits),
                };
                encoder.raw(&[tag]);
                encoder.raw(&bits.to_le_bytes());
            }
        }
        encoder.finish()
    }
}

/// Feeds the canonical encoding of replicated state to a hash.
pub(crate) struct Encoder(blake3::Hasher);

impl Encoder {
    pub(crate) fn new(tag: &[u8]) -> Self {
        let mut encoder = Self(blake3::Hasher::new());
        encoder.bytes(tag);
        encoder
    }

    /// Bytes of a length fixed by their place.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Bytes of any length, after that length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.raw(bytes);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
