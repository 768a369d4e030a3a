//! A canister and what the subnet keeps about it.
use super::{
    Cached, CanisterLog, Change, ChangeDetails, Changes, CyclesConsumed, Long, Origin, Originator,
    Stored, snapshot::globals_bytes,
};
use crate::{application::Height, tree::Tree};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Closure, Cycles, Instructions},
    state::{CanisterState, RunState},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The heap's limit where settings set none.
const HEAP_BYTES_MAX: u64 = 1 << 32;
/// The same for heaps with 64-bit addresses.
const HEAP64_BYTES_MAX: u64 = 6 << 30;

/// A canister and what the subnet keeps about it.
#[derive(Debug, Clone)]
pub struct Canister {
    /// What messages see and change.
    pub state: CanisterState,
    /// What they do not see.
    pub ledger: Ledger,
    /// What is kept beside.
    pub stored: Stored,
    digest: Cached<[u8; 32]>,
    tree: Cached<Tree>,
}

/// The subnet's books about a canister.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Calls to the canister that are not over, by number.
    pub contexts: BTreeMap<u64, CallContext>,
    /// Calls by the canister that are not over, by number.
    pub callbacks: BTreeMap<u64, Callback>,
    /// The number of the next call context.
    pub next_context: u64,
    /// The number of the next callback.
    pub next_callback: u64,
    /// Who waits for the canister to stop.
    pub stop_calls: Vec<StopCall>,
    /// Where `canister_on_low_wasm_memory` stands.
    pub low_memory: LowMemory,
    /// What the canister printed and why it trapped.
    pub log: CanisterLog,
    /// What was done to its code and its controllers.
    pub changes: Changes,
    /// When the canister came into being, nanoseconds since 1970.
    pub created_ns: u64,
    /// When code last came into it, nanoseconds since 1970; 0: never.
    pub code_since_ns: u64,
    /// Cycles that it has consumed.
    pub consumed: CyclesConsumed,
    /// The last height at which the canister had its turn in full.
    pub served_height: u64,
    /// Until when the canister has paid for its keep, nanoseconds since 1970.
    pub paid_until_ns: u64,
    /// A message under way that takes more than a slice.
    pub long: Option<Long>,
    /// Whether its next message takes more than a slice and waits until fewer such messages are under way.
    pub waits_for_slices: bool,
    /// The same for a call that installs code: its key.
    pub installation_waits: Option<u64>,
}

/// Whether `canister_on_low_wasm_memory` is to run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LowMemory {
    /// There is room for heap above the threshold.
    #[default]
    Enough,
    /// There no longer is: it is to run.
    Due,
    /// It has run since.
    Done,
}

/// A call to a canister that has begun: the messages that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallContext {
    /// Who is owed an answer.
    pub origin: Origin,
    /// Cycles that came with the call and have not been accepted.
    pub cycles: Cycles,
    /// Whether it has been answered.
    pub answered: bool,
    /// Calls made in it that are not over.
    pub calls_under_way: u64,
    /// Instructions of its messages.
    pub instructions: Instructions,
    /// Whether the code that began it is gone: answers to its calls are not executed.
    pub abandoned: bool,
}

/// A call by a canister.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callback {
    /// The call context it was made in.
    pub context: u64,
    /// Whom it is for.
    pub callee: Principal,
    /// Runs when a reply arrives.
    pub on_reply: Closure,
    /// Runs when a rejection arrives.
    pub on_reject: Closure,
    /// Runs when either traps.
    pub on_cleanup: Option<Closure>,
    /// What was paid in advance for the response.
    pub prepaid: Cycles,
    /// When the canister stops waiting, nanoseconds since 1970; 0: never.
    pub deadline_ns: u64,
    /// Whether it has stopped waiting.
    pub expired: bool,
}

/// A call of `stop_canister` that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopCall {
    /// Who waits.
    pub origin: Origin,
    /// Cycles that came with the call.
    pub cycles: Cycles,
    /// Since when, nanoseconds since 1970.
    pub since_ns: u64,
}

impl Canister {
    /// A canister that is created at this height and time.
    #[must_use]
    pub fn new(state: CanisterState, height: Height, now_ns: u64) -> Self {
        let ledger = Ledger {
            served_height: height,
            paid_until_ns: now_ns,
            created_ns: now_ns,
            ..Ledger::default()
        };
        Self::restore(state, ledger, Stored::default())
    }

    /// A canister as it was.
    #[must_use]
    pub fn restore(state: CanisterState, ledger: Ledger, stored: Stored) -> Self {
        Self {
            state,
            ledger,
            stored,
            digest: Cached::default(),
            tree: Cached::default(),
        }
    }

    /// Forgets what was derived from the canister before a change.
    pub(super) fn touch(&mut self) {
        self.digest = Cached::default();
        self.tree = Cached::default();
    }

    /// Whether it takes no calls and none is under way.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state.run_state == RunState::Stopped
    }

    /// Whether a long message is under way: until it ends, nothing else changes the canister.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.ledger.long.is_some()
    }

    /// Whether its messages may start sessions.
    #[must_use]
    pub fn uses_sessions(&self) -> bool {
        let installed = self.state.installed.as_ref();
        installed.is_some_and(|installed| installed.module.uses_sessions())
    }

    /// Pays for a user's message, as far as there are cycles.
    pub fn pay_ingress(&mut self, price: Cycles) {
        let paid = price.min(self.state.cycles);
        self.state.cycles -= paid;
        self.ledger.consumed.ingress += paid;
    }

    /// Notes a change that was just made.
    pub fn record(&mut self, time_ns: u64, originator: Originator, details: ChangeDetails) {
        if let ChangeDetails::CodeDeployment { .. } | ChangeDetails::LoadSnapshot { .. } = details {
            self.ledger.code_since_ns = time_ns;
        }
        self.ledger.changes.push(Change {
            time_ns,
            canister_version: self.state.version,
            originator,
            details,
        });
    }

    /// Bytes of the mutable globals.
    #[must_use]
    pub fn globals_bytes(&self) -> u64 {
        let installed = self.state.installed.as_ref();
        installed.map_or(0, |installed| globals_bytes(&installed.globals))
    }

    /// Bytes of the module's metadata: names and contents of its sections.
    #[must_use]
    pub fn sections_bytes(&self) -> u64 {
        let installed = self.state.installed.iter();
        let sections = installed.flat_map(|installed| installed.module.metadata());
        sections
            .map(|(name, (_, content))| (name.len() + content.len()) as u64)
            .sum()
    }

    /// Brings up to date what is charged besides code and memories.
    pub fn account(&mut self) {
        self.state.other_bytes = self.globals_bytes()
            + self.sections_bytes()
            + self.ledger.changes.bytes()
            + self.ledger.log.bytes()
            + self.stored.chunks.bytes()
            + self.stored.snapshots_bytes();
    }

    /// Notes whether the heap has come close to its limit.
    pub fn note_memory(&mut self) {
        let settings = &self.state.settings;
        let limit = match settings.wasm_memory_limit {
            0 if self.is_wide() => HEAP64_BYTES_MAX,
            0 => HEAP_BYTES_MAX,
            limit => limit,
        };
        let room = limit.saturating_sub(self.state.heap_bytes());
        let is_low = settings.wasm_memory_threshold > 0 && room < settings.wasm_memory_threshold;
        self.ledger.low_memory = match (self.ledger.low_memory, is_low) {
            (_, false) => LowMemory::Enough,
            (LowMemory::Enough, true) => LowMemory::Due,
            (unchanged, true) => unchanged,
        };
    }

    /// Whether the heap has 64-bit addresses.
    fn is_wide(&self) -> bool {
        let installed = self.state.installed.as_ref();
        installed.is_some_and(|installed| installed.module.memory64())
    }

    /// BLAKE3 over its whole state: the tag `lockstep subnet canister 5`, the digest of what messages
    /// see, what [`Stored`] adds, and the CBOR of [`Ledger`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(b"lockstep subnet canister 5");
            hasher.update(&self.state.digest());
            self.stored.encode(&mut hasher);
            ciborium::into_writer(&self.ledger, &mut hasher).expect("a hash takes every byte");
            *hasher.finalize().as_bytes()
        })
    }

    /// Its subtree of the state tree.
    pub(crate) fn tree(&self, build: impl FnOnce(&Self) -> Tree) -> &Tree {
        self.tree.get_or_init(|| build(self))
    }
}

impl Ledger {
    /// How many of the canister's calls are under way to each callee.
    #[must_use]
    pub fn calls_under_way(&self) -> BTreeMap<Principal, usize> {
        let mut counts = BTreeMap::new();
        for callback in self.callbacks.values() {
            *counts.entry(callback.callee).or_default() += 1;
        }
        counts
    }
}
