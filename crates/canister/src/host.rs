//! What a running message can reach: its canister, its argument, its effects so far.
//!
//! # Design
//! [`Host`] lies behind the imports of one instance. What the message is given and never changes is in
//! [`Given`], what it moves between canisters in [`Exchange`]; how imports are declared and how they
//! reach the canister's memory is in the modules below.
//!
//! # Errors
//! An import that refuses gives a [`HostTrap`], which carries the error code and the text the
//! caller sees.
mod access;
pub(crate) mod context;
mod exchange;
mod imports;

pub(crate) use access::{
    allocate, called_trap, charge, copy, copy_as, enter, memory, pay_to_copy, pay_to_read, peek,
    read, read_as, stable_read, stable_write, used, write,
};
pub(crate) use context::Contexts;
pub(crate) use exchange::Exchange;
pub(crate) use imports::{ImportSets, Imports, Pointer, Signature};

use crate::{
    backtrace::FunctionIndex,
    engine::{Call, CallerInfo, Cycles, Engine, Environment, Instructions, Rejection, Response},
    fork::{Growth, Replay},
    heap::{PAGE_BYTES, View},
    ic0::Log,
    lockstep_api::SessionTable,
    message::EntryPoint,
    meter::Meter,
    module::Module,
    prices::Prices,
    stable::{StableError, StableMemory},
    state::{CanisterState, RunState},
};
use ic_principal::Principal;
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    ops::{Deref, DerefMut},
    sync::Arc,
};
use wasmtime::{Memory, ResourceLimiter};

/// Cost of most system calls, before what their bytes cost.
pub const SYSTEM_CALL: Instructions = 500;
/// Most elements of all tables of a module together, and of one table after growth.
pub(crate) const TABLE_ELEMENTS_MAX: u64 = 1_000_000;
/// Cost of every leaf of 4 KiB of stable memory that a write has to copy.
pub const STABLE_LEAF_WRITTEN: Instructions = 1_000;
/// Cost of every leaf of 4 KiB of its heap that a message changes, taken when it has run.
pub const HEAP_LEAF_CHANGED: Instructions = 1_000;
/// Bytes of the lines that a message or a task may print.
pub(crate) const DEBUG_BYTES_MAX: usize = 32 * 1024;
/// What a line takes beside its text.
const DEBUG_LINE_BYTES: usize = 16;

/// Frozen error codes a message can end with.
pub(crate) mod code {
    pub(crate) const REJECTED: u16 = 406;
    pub(crate) const TRAPPED: u16 = 502;
    pub(crate) const CALLED_TRAP: u16 = 503;
    pub(crate) const CONTRACT_VIOLATION: u16 = 504;
    pub(crate) const INVALID_WASM: u16 = 505;
    pub(crate) const DID_NOT_REPLY: u16 = 506;
    pub(crate) const OUT_OF_MEMORY: u16 = 507;
    pub(crate) const FUNCTION_NOT_FOUND: u16 = 513;
    pub(crate) const INSTRUCTION_LIMIT_EXCEEDED: u16 = 522;
    pub(crate) const MEMORY_ACCESS_LIMIT_EXCEEDED: u16 = 524;
    pub(crate) const QUERIES_TOO_DEEP: u16 = 525;
    pub(crate) const QUERIES_TOO_LONG: u16 = 526;
    pub(crate) const COMPOSITE_QUERY_REPLICATED: u16 = 527;
    pub(crate) const METHOD_NOT_FOUND: u16 = 536;
    pub(crate) const NO_MODULE: u16 = 537;
    pub(crate) const HEAP_LIMIT_EXCEEDED: u16 = 539;
}

/// Why an execution did not complete.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: u16,
    pub(crate) text: String,
    /// The functions that ran, innermost first.
    pub(crate) frames: Vec<FunctionIndex>,
}

/// An import refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostTrap {
    /// The message ends with this code and text.
    #[error("{text}")]
    Refused { code: u16, text: String },
    /// A task of a fork trapped.
    #[error("{}", .0.text)]
    Task(Failure),
    /// Nothing is left to pay with.
    #[error("out of instructions")]
    OutOfInstructions,
}

impl From<StableError> for HostTrap {
    fn from(error: StableError) -> Self {
        let (code, text) = error.refusal();
        Self::Refused { code, text }
    }
}

pub(crate) fn refused<T>(code: u16, text: impl Into<String>) -> wasmtime::Result<T> {
    let text = text.into();
    Err(HostTrap::Refused { code, text }.into())
}

pub(crate) fn trapped<T>(text: impl AsRef<str>) -> wasmtime::Result<T> {
    refused(
        code::TRAPPED,
        format!("Canister trapped: {}", text.as_ref()),
    )
}

pub(crate) fn violated<T>(text: impl AsRef<str>) -> wasmtime::Result<T> {
    let text = format!("Canister violated contract: {}", text.as_ref());
    refused(code::CONTRACT_VIOLATION, text)
}

/// What a message is given beside its argument; shared with the tasks it forks.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) prices: Prices,
    pub(crate) run_state: RunState,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) caller_info: Option<CallerInfo>,
    pub(crate) calls_under_way: BTreeMap<Principal, usize>,
    /// Why the call was rejected; in callbacks.
    pub(crate) rejection: Option<Rejection>,
    pub(crate) cycles_refunded: Cycles,
    pub(crate) deadline_ns: u64,
    pub(crate) context_instructions: Instructions,
    /// Bytes to which the heap may grow, where the canister's own limit holds.
    pub(crate) heap_limit: Option<u64>,
    /// Bytes of the canister's log.
    pub(crate) log_limit: u64,
}

impl Given {
    pub(crate) fn new(
        state: &CanisterState,
        call: &Call,
        environment: &Environment<'_>,
        context: Contexts,
    ) -> Self {
        let limit = state.settings.wasm_memory_limit;
        Self {
            prices: environment.prices,
            run_state: state.run_state,
            variables: state.settings.environment_variables.clone(),
            caller_info: call.caller_info.clone(),
            calls_under_way: environment.calls_under_way.clone(),
            rejection: match &call.entry {
                EntryPoint::Reject(_, rejection) => Some(rejection.clone()),
                EntryPoint::Cleanup(_, rejection) => rejection.clone(),
                _ => None,
            },
            cycles_refunded: call.cycles_refunded,
            deadline_ns: call.deadline_ns,
            context_instructions: call.context_instructions,
            log_limit: state.settings.log_memory_limit,
            heap_limit: (limit != 0 && context & context::HEAP_LIMITED != 0).then_some(limit),
        }
    }
}

/// What is behind an instance's imports: the message or task it runs, if it runs.
#[derive(Debug, Default)]
pub(crate) struct Host(Option<Box<Message>>);

impl Host {
    pub(crate) fn of(message: Message) -> Self {
        Self(Some(Box::new(message)))
    }

    /// Takes the message out; the instance does not run any more.
    pub(crate) fn take(&mut self) -> Box<Message> {
        self.0.take().expect("the instance runs")
    }
}

impl Deref for Host {
    type Target = Message;

    fn deref(&self) -> &Message {
        self.0.as_ref().expect("the instance runs")
    }
}

impl DerefMut for Host {
    fn deref_mut(&mut self) -> &mut Message {
        self.0.as_mut().expect("the instance runs")
    }
}

/// Everything behind the imports of one message or task.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) engine: Engine,
    pub(crate) module: Arc<Module>,
    pub(crate) given: Arc<Given>,
    pub(crate) exchange: Exchange,
    /// The heap under the instance, if the module has one.
    pub(crate) view: Option<View>,
    /// The size to which a task's heap may grow.
    pub(crate) growth_pages_max: Option<u64>,
    /// Bytes by which the canister's memories may still grow.
    pub(crate) memory_available: u64,
    /// By what a task has grown.
    pub(crate) growth: Option<Growth>,
    /// Over how many tasks at a time the time of a fork is counted.
    pub(crate) lanes: NonZeroU32,
    /// Instructions of forks beyond what they took of the time.
    pub(crate) overlap: Instructions,
    /// One bit of [`context`].
    pub(crate) context: Contexts,
    pub(crate) method: String,
    pub(crate) caller: Principal,
    pub(crate) argument: Arc<[u8]>,
    pub(crate) canister_id: Principal,
    pub(crate) controllers: Arc<BTreeSet<Principal>>,
    /// Whether the caller may know which functions were running when the message traps.
    pub(crate) shows_backtrace: bool,
    pub(crate) version: u64,
    pub(crate) time_ns: u64,
    pub(crate) subnet_id: Principal,
    pub(crate) root_key: Arc<[u8]>,
    pub(crate) data_certificate: Option<Vec<u8>>,
    pub(crate) replicated: bool,
    pub(crate) instruction_limit: Instructions,
    pub(crate) stable: StableMemory,
    pub(crate) reply: Vec<u8>,
    pub(crate) response: Option<Response>,
    pub(crate) accepted: bool,
    pub(crate) certified_data: Option<Vec<u8>>,
    /// The deadline in force and whether this message set it.
    pub(crate) global_timer: (u64, bool),
    pub(crate) sessions: SessionTable,
    pub(crate) debug: Vec<String>,
    pub(crate) debug_bytes: usize,
    /// What printing costs.
    pub(crate) log: Log,
    /// Forks so far.
    pub(crate) forks: u32,
    /// A task that is to be run alone, if any.
    pub(crate) replay: Option<Arc<Replay>>,
    pub(crate) memory: Option<Memory>,
    pub(crate) meter: Option<Meter>,
}

impl Message {
    /// Keeps a line for whoever watches the canister; beyond a limit lines are dropped.
    pub(crate) fn print(&mut self, text: &[u8]) {
        let bytes = text.len().saturating_add(DEBUG_LINE_BYTES);
        self.debug_bytes = self.debug_bytes.saturating_add(bytes);
        if self.debug_bytes <= DEBUG_BYTES_MAX {
            self.debug.push(String::from_utf8_lossy(text).into_owned());
        }
    }
}

/// The error of a heap of so many bytes where the canister's limit holds.
pub(crate) fn heap_limit_exceeded(bytes: u64, limit: u64) -> (u16, String) {
    let text = format!(
        "Canister exceeded its current Wasm memory limit of {limit} bytes. \
         The peak Wasm memory usage was {bytes} bytes. \
         If the canister reaches 4GiB, then it may stop functioning and may become unrecoverable. \
         Please reach out to the canister owner to investigate the reason for the increased memory usage. \
         It might be necessary to move data from the Wasm memory to the stable memory. \
         If such high Wasm memory usage is expected and safe, then the developer can increase \
         the Wasm memory limit in the canister settings."
    );
    (code::HEAP_LIMIT_EXCEEDED, text)
}

/// Growth succeeds or fails by rule alone.
impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // An instance's first memory is what validation allows, and is replaced by the heap.
        if self.memory.is_none() || desired <= current {
            return Ok(true);
        }
        let task_maximum = self
            .growth_pages_max
            .map_or(u64::MAX, |pages| pages * PAGE_BYTES as u64);
        if desired as u64 > self.module.heap_bytes_max().min(task_maximum)
            || maximum.is_some_and(|maximum| desired > maximum)
        {
            return Ok(false);
        }
        if let Some(limit) = self.given.heap_limit
            && desired as u64 > limit
        {
            let (code, text) = heap_limit_exceeded(desired as u64, limit);
            return refused(code, text);
        }
        let bytes = (desired - current) as u64;
        let grows = allocate(self, bytes);
        if let (true, Some(growth)) = (grows, &mut self.growth) {
            growth.add(bytes);
        }
        Ok(grows)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error.context(MachineFailure))
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(
            desired as u64 <= TABLE_ELEMENTS_MAX
                && maximum.is_none_or(|maximum| desired <= maximum),
        )
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error.context(MachineFailure))
    }
}

/// This machine could not do what the rules allow; going on would diverge from the other replicas.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot provide the memory the canister is entitled to")]
pub(crate) struct MachineFailure;
