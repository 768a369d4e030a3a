//! What a running message can reach: its canister, its argument, its effects so far; and the checks
//! that every import makes.
//!
//! # Errors
//! An import that refuses gives a [`HostTrap`], which carries the error code and the text the
//! caller sees.
use crate::{
    engine::{Engine, Instructions, Response},
    heap::{HEAP_BYTES_MAX, PAGE_BYTES, View},
    lockstep_api::SessionTable,
    meter::Meter,
    module::Module,
    stable::StableMemory,
};
use ic_principal::Principal;
use std::{collections::BTreeSet, num::NonZeroU32, sync::Arc};
use wasmtime::{Caller, Linker, Memory, ResourceLimiter};

/// Cost of entering an import, before what its bytes cost (one each).
pub const SYSTEM_CALL: Instructions = 20;
/// Most elements of all tables of a module together, and of one table after growth.
pub(crate) const TABLE_ELEMENTS_MAX: u64 = 1_000_000;
const DEBUG_BYTES_MAX: usize = 32 * 1024;
const TRAP_TEXT_BYTES_MAX: usize = 16 * 1024;

/// Frozen error codes a message can end with.
pub(crate) mod code {
    pub(crate) const TRAPPED: u16 = 502;
    pub(crate) const CALLED_TRAP: u16 = 503;
    pub(crate) const CONTRACT_VIOLATION: u16 = 504;
    pub(crate) const DID_NOT_REPLY: u16 = 506;
    pub(crate) const INSTRUCTION_LIMIT_EXCEEDED: u16 = 522;
    pub(crate) const METHOD_NOT_FOUND: u16 = 536;
    pub(crate) const NO_MODULE: u16 = 537;
}

/// A set of [`context`]s.
pub(crate) type Contexts = u16;

/// The contexts of the interface specification and that of a forked task, as bits.
pub(crate) mod context {
    use super::Contexts;

    pub(crate) const INIT: Contexts = 1;
    pub(crate) const PRE_UPGRADE: Contexts = 1 << 1;
    pub(crate) const UPDATE: Contexts = 1 << 2;
    pub(crate) const REPLICATED_QUERY: Contexts = 1 << 3;
    pub(crate) const QUERY: Contexts = 1 << 4;
    pub(crate) const INSPECT: Contexts = 1 << 5;
    pub(crate) const TASK: Contexts = 1 << 6;
    pub(crate) const START: Contexts = 1 << 7;
    /// A task of a fork.
    pub(crate) const FORK: Contexts = 1 << 8;
    /// The specification's `*`.
    pub(crate) const ANY: Contexts = !(START | FORK);
    /// The specification's `* s`.
    pub(crate) const ANY_AND_START: Contexts = !FORK;

    /// The replica's name of a context.
    pub(crate) fn name(context: Contexts) -> &'static str {
        match context {
            INIT => "init",
            PRE_UPGRADE => "pre upgrade",
            UPDATE => "update",
            REPLICATED_QUERY => "replicated query",
            QUERY => "non replicated query",
            INSPECT => "inspect message",
            TASK => "system task",
            FORK => "fork task",
            _ => "start",
        }
    }
}

/// An import refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostTrap {
    /// The message ends with this code and text.
    #[error("{text}")]
    Refused { code: u16, text: String },
    /// Nothing is left to pay with.
    #[error("out of instructions")]
    OutOfInstructions,
}

pub(crate) fn trapped<T>(text: impl Into<String>) -> wasmtime::Result<T> {
    Err(HostTrap::Refused {
        code: code::TRAPPED,
        text: format!("Canister trapped: {}", text.into()),
    }
    .into())
}

pub(crate) fn violated<T>(text: impl AsRef<str>) -> wasmtime::Result<T> {
    Err(HostTrap::Refused {
        code: code::CONTRACT_VIOLATION,
        text: format!("Canister violated contract: {}", text.as_ref()),
    }
    .into())
}

/// Everything behind the imports of one message.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) module: Arc<Module>,
    /// The heap under the instance, if the module has one.
    pub(crate) view: Option<View>,
    /// The size to which a task's heap may grow.
    pub(crate) growth_pages_max: Option<u64>,
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
    pub(crate) cycles: u128,
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
    pub(crate) call_pending: bool,
    pub(crate) accepted: bool,
    pub(crate) certified_data: Option<Vec<u8>>,
    /// The deadline in force and whether this message set it.
    pub(crate) global_timer: (u64, bool),
    pub(crate) sessions: SessionTable,
    pub(crate) debug: Vec<String>,
    pub(crate) debug_bytes: usize,
    pub(crate) memory: Option<Memory>,
    pub(crate) meter: Option<Meter>,
}

impl Host {
    /// Keeps a line for whoever watches the canister; beyond a limit lines are dropped.
    pub(crate) fn print(&mut self, text: &[u8]) {
        self.debug_bytes = self.debug_bytes.saturating_add(text.len());
        if self.debug_bytes <= DEBUG_BYTES_MAX {
            self.debug.push(String::from_utf8_lossy(text).into_owned());
        }
    }
}

/// Growth succeeds or fails by rule alone.
impl ResourceLimiter for Host {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let task_maximum = self
            .growth_pages_max
            .map_or(HEAP_BYTES_MAX as u64, |pages| pages * PAGE_BYTES as u64);
        Ok(desired <= HEAP_BYTES_MAX
            && desired as u64 <= task_maximum
            && maximum.is_none_or(|maximum| desired <= maximum))
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

/// The imports a module may name.
pub(crate) struct Imports {
    pub(crate) linker: Linker<Host>,
    names: BTreeSet<(&'static str, &'static str)>,
}

impl Imports {
    pub(crate) fn new(engine: &wasmtime::Engine) -> Self {
        Self {
            linker: Linker::new(engine),
            names: BTreeSet::new(),
        }
    }

    pub(crate) fn add<Params, Results>(
        &mut self,
        module: &'static str,
        name: &'static str,
        function: impl wasmtime::IntoFunc<Host, Params, Results>,
    ) {
        self.linker
            .func_wrap(module, name, function)
            .expect("each import is defined once");
        self.names.insert((module, name));
    }

    pub(crate) fn provides(&self, module: &str, name: &str) -> bool {
        self.names.contains(&(module, name))
    }
}

/// Checks the context and charges for an import.
pub(crate) fn enter(
    caller: &mut Caller<'_, Host>,
    (module, name): (&str, &str),
    contexts: Contexts,
    cost: Instructions,
) -> wasmtime::Result<()> {
    charge(caller, cost)?;
    let context = caller.data().context;
    if context & contexts == 0 {
        return violated(format!(
            "\"{module}_{name}\" cannot be executed in {} mode",
            context::name(context)
        ));
    }
    Ok(())
}

/// Takes instructions from what is left, waiting for slices if need be.
pub(crate) fn charge(caller: &mut Caller<'_, Host>, cost: Instructions) -> wasmtime::Result<()> {
    let meter = meter(caller);
    if meter.charge(caller, cost) {
        Ok(())
    } else {
        Err(HostTrap::OutOfInstructions.into())
    }
}

/// Instructions used.
pub(crate) fn used(caller: &mut Caller<'_, Host>) -> Instructions {
    meter(caller).used(caller)
}

fn meter(caller: &Caller<'_, Host>) -> Meter {
    let meter = caller.data().meter.clone();
    meter.expect("set right after instantiation")
}

/// The canister's memory (empty when it has none) and the host.
fn memory<'a>(caller: &'a mut Caller<'_, Host>) -> (&'a mut [u8], &'a mut Host) {
    match caller.data().memory {
        Some(memory) => memory.data_and_store_mut(caller),
        None => (&mut [], caller.data_mut()),
    }
}

/// A range of a byte string, with the replica's text when it is outside.
fn range(
    name: &str,
    what: &str,
    start: u64,
    size: u64,
    length: usize,
) -> wasmtime::Result<std::ops::Range<usize>> {
    match start.checked_add(size) {
        Some(end) if end <= length as u64 => Ok(start as usize..end as usize),
        _ => violated(format!(
            "ic0.{name} {what}: src={start} + length={size} exceeds the slice size={length}"
        )),
    }
}

/// Bytes of the canister's memory.
pub(crate) fn read(
    caller: &mut Caller<'_, Host>,
    name: &str,
    src: i32,
    size: i32,
) -> wasmtime::Result<Vec<u8>> {
    let size = u64::from(size.cast_unsigned());
    charge(caller, size)?;
    let (memory, _) = memory(caller);
    Ok(memory[range(
        name,
        "heap",
        u64::from(src.cast_unsigned()),
        size,
        memory.len(),
    )?]
    .to_vec())
}

/// Copies part of what `source` selects into the canister's memory.
pub(crate) fn copy(
    caller: &mut Caller<'_, Host>,
    name: &str,
    source: impl FnOnce(&Host) -> &[u8],
    (dst, offset, size): (i32, i32, i32),
) -> wasmtime::Result<()> {
    let size = u64::from(size.cast_unsigned());
    charge(caller, size)?;
    let (memory, host) = memory(caller);
    let source = source(host);
    let source = &source[range(
        name,
        "payload",
        u64::from(offset.cast_unsigned()),
        size,
        source.len(),
    )?];
    let target = range(
        name,
        "heap",
        u64::from(dst.cast_unsigned()),
        size,
        memory.len(),
    )?;
    memory[target].copy_from_slice(source);
    Ok(())
}

/// Writes bytes of the host's into the canister's memory.
pub(crate) fn write(
    caller: &mut Caller<'_, Host>,
    name: &str,
    dst: i32,
    bytes: &[u8],
) -> wasmtime::Result<()> {
    charge(caller, bytes.len() as u64)?;
    let (memory, _) = memory(caller);
    let target = range(
        name,
        "heap",
        u64::from(dst.cast_unsigned()),
        bytes.len() as u64,
        memory.len(),
    )?;
    memory[target].copy_from_slice(bytes);
    Ok(())
}

pub(crate) fn stable_read(
    caller: &mut Caller<'_, Host>,
    name: &str,
    dst: u64,
    offset: u64,
    size: u64,
) -> wasmtime::Result<()> {
    charge(caller, size)?;
    let (memory, host) = memory(caller);
    let target = range(name, "heap", dst, size, memory.len())?;
    host.stable
        .read(offset, &mut memory[target])
        .or_else(|_| trapped("stable memory out of bounds"))
}

pub(crate) fn stable_write(
    caller: &mut Caller<'_, Host>,
    name: &str,
    offset: u64,
    src: u64,
    size: u64,
) -> wasmtime::Result<()> {
    charge(caller, size)?;
    let (memory, host) = memory(caller);
    let source = range(name, "heap", src, size, memory.len())?;
    host.stable
        .write(offset, &memory[source])
        .or_else(|_| trapped("stable memory out of bounds"))
}

/// The end of a message that called `ic0.trap`.
pub(crate) fn called_trap(text: &[u8]) -> wasmtime::Error {
    let text = String::from_utf8_lossy(&text[..text.len().min(TRAP_TEXT_BYTES_MAX)]);
    HostTrap::Refused {
        code: code::CALLED_TRAP,
        text: format!("Canister called `ic0.trap` with message: '{text}'"),
    }
    .into()
}
