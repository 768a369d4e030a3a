//! Compiles modules and executes messages.
//!
//! # Design
//! A module is validated, instrumented and compiled once. Every message gets a fresh instance, under
//! which the heap is mapped and into which the globals are copied; pages that it wrote are its effects.
//!
//! # Determinism
//! Instructions and stack are counted in the code itself. Memory growth fails only by rule.
//! NaNs are canonical wherever their bits can be seen; see [0005](../../../docs/design/0005-metered-wasm.md). Threads and relaxed SIMD are off. Nothing but the arguments of
//! [`Engine::execute`] can be read.
//!
//! # Complexity
//! A message costs what it touches; see [`heap`](crate::heap).
use crate::{
    execute, fork,
    heap::{HEAP_BYTES_MAX, Heap, Slots},
    host::Imports,
    ic0, lockstep_api,
    memory::PagedMemory,
    pacer::Pace,
    session::{SessionState, Sessions},
    state::{CanisterState, GlobalValue},
};
pub use crate::{
    host::SYSTEM_CALL,
    module::{MODULE_BYTES_MAX, Module, ModuleError},
    stable::STABLE_PAGES_MAX,
};
use ic_principal::Principal;
use lockstep_numeric::Pool;
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    thread,
};
use wasmtime::{Config, OptLevel};

/// Native stack of compiled code: several times what the instrumentation lets a message use.
const WASM_STACK_BYTES: usize = 32 * 1024 * 1024;
/// Native stack of a message, imports included.
const NATIVE_STACK_BYTES: usize = WASM_STACK_BYTES + 2 * 1024 * 1024;

/// Unmapped addresses behind a heap, which let most accesses go unchecked.
const GUARD_BYTES: u64 = 32 * 1024 * 1024;

/// Wasm instructions by the published weights.
pub type Instructions = u64;

/// Which export a call enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryPoint {
    /// Instantiate (data segments, `start`), then `canister_init`.
    Init,
    /// `canister_pre_upgrade` of the old code.
    PreUpgrade,
    /// Instantiate with stable memory kept, then `canister_post_upgrade`.
    PostUpgrade,
    /// `canister_update NAME`.
    Update(String),
    /// `canister_query NAME`, not replicated: changes are dropped.
    Query(String),
    /// `canister_query NAME` called as an update: replicated, changes are dropped.
    ReplicatedQuery(String),
    /// `canister_inspect_message` for the method.
    Inspect(String),
    /// `canister_global_timer`.
    GlobalTimer,
    /// `canister_heartbeat`.
    Heartbeat,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where it enters.
    pub entry: EntryPoint,
    /// Who sent it.
    pub caller: Principal,
    /// Its argument.
    pub argument: Vec<u8>,
}

/// What a message sees besides its canister.
#[derive(Clone, Copy, Debug)]
pub struct Environment<'a> {
    /// Time of the block, nanoseconds since 1970.
    pub time_ns: u64,
    /// The subnet.
    pub subnet_id: Principal,
    /// The subnet's public key, DER.
    pub root_key: &'a [u8],
    /// Instructions the message may take of the time.
    pub instruction_limit: Instructions,
    /// In which slices; without, all at once.
    pub pace: Option<&'a Pace>,
    /// The subnet's lanes: a fork takes as much time as the longest of so many, task i being in lane i
    /// modulo their number.
    pub lanes: NonZeroU32,
    /// Certificate for `ic0.data_certificate_copy`, in queries only.
    pub data_certificate: Option<&'a [u8]>,
    /// Sessions and models.
    pub sessions: &'a Sessions,
}

/// How a message answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// `msg_reply`.
    Reply(Vec<u8>),
    /// `msg_reject`, with its text.
    Reject(String),
    /// Neither (fine for everything but updates and queries).
    None,
}

/// A message that did not complete, with the Internet Computer's error code and text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IC{code:04}: {message}")]
pub struct ExecutionError {
    /// `IC0nnn`.
    pub code: u16,
    /// The replica's wording.
    pub message: String,
}

/// What a message changed; to be applied as a whole or dropped.
#[derive(Clone, Debug)]
pub struct Effects {
    /// The heap after it.
    pub heap: Heap,
    /// Mutable globals after it.
    pub globals: Vec<GlobalValue>,
    /// Stable memory after it.
    pub stable: PagedMemory,
    /// Certified data, if set.
    pub certified_data: Option<Vec<u8>>,
    /// Global timer, if set.
    pub global_timer_ns: Option<u64>,
    /// Sessions started or changed (`None`: closed), by id; new ids follow [`Sessions::next_id`].
    pub sessions: BTreeMap<u64, Option<SessionState>>,
    /// Whether `accept_message` was called.
    pub accepted: bool,
}

/// The result of [`Engine::execute`].
#[derive(Clone, Debug)]
pub struct Execution {
    /// Response and effects, or the error that discards them.
    pub result: Result<(Response, Effects), ExecutionError>,
    /// Instructions used, also by a message that trapped: what is paid for.
    pub instructions: Instructions,
    /// Instructions of the time, in which those of a fork's lanes run side by side.
    pub time: Instructions,
    /// What `debug_print` printed, in order.
    pub debug: Vec<String>,
}

/// Compiles and executes. One per replica; clones are the same.
#[derive(Clone)]
pub struct Engine {
    compiler: Arc<Compiler>,
    workers: Arc<Pool>,
}

/// What compiled modules belong to.
struct Compiler {
    wasm: wasmtime::Engine,
    slots: Arc<Slots>,
    imports: Imports,
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

impl Engine {
    /// An engine that runs the tasks of a fork on as many threads as this machine has cores.
    ///
    /// # Panics
    /// When this machine cannot run compiled Wasm.
    #[must_use]
    pub fn new() -> Self {
        let slots = Arc::new(Slots::default());
        let wasm = wasmtime::Engine::new(configuration().with_host_memory(slots.clone()))
            .expect("the configuration is valid on every supported machine");
        let mut imports = Imports::new(&wasm);
        ic0::define(&mut imports);
        lockstep_api::define(&mut imports);
        fork::define(&mut imports);
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            compiler: Arc::new(Compiler {
                wasm,
                slots,
                imports,
            }),
            workers: workers(threads),
        }
    }

    /// The same engine with the tasks of a fork on so many threads. Results do not depend on it, and
    /// modules compiled by either run on both.
    #[must_use]
    pub fn on_threads(&self, threads: NonZeroUsize) -> Self {
        Self {
            compiler: Arc::clone(&self.compiler),
            workers: workers(threads),
        }
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.compiler.wasm
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.compiler.slots
    }

    pub(crate) fn workers(&self) -> &Pool {
        &self.workers
    }

    /// Compiles a module, raw or gzip, after validating it against the system's rules.
    ///
    /// # Errors
    /// [`ModuleError`] says which rule it breaks.
    pub fn compile(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        Module::compile(&self.compiler.wasm, &self.compiler.imports, wasm)
    }

    /// Executes one message. A function of its arguments alone.
    ///
    /// # Panics
    /// When this machine cannot provide the memory the canister is entitled to: going on would
    /// give another result than the other replicas have.
    #[must_use]
    pub fn execute(
        &self,
        state: &CanisterState,
        call: &Call,
        environment: &Environment<'_>,
    ) -> Execution {
        let _ended = Ended(environment.pace);
        // Whichever thread asks, the message gets a stack of its own size.
        stacker::grow(NATIVE_STACK_BYTES, || {
            execute::execute(self, state, call, environment)
        })
    }
}

/// Tells an execution's pacer that it has ended, in whatever way.
struct Ended<'a>(Option<&'a Pace>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(pace) = self.0 {
            pace.end();
        }
    }
}

fn workers(threads: NonZeroUsize) -> Arc<Pool> {
    Arc::new(Pool::with_stack_bytes(threads, NATIVE_STACK_BYTES))
}

/// One result on every machine: no proposal whose result is left open, NaNs canonical, stack limited
/// by the instrumentation long before the native limit.
pub(crate) fn configuration() -> Config {
    let mut config = Config::new();
    config
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_bulk_memory(true)
        .wasm_multi_value(true)
        .wasm_tail_call(true)
        .wasm_multi_memory(true)
        .wasm_memory64(false)
        .wasm_branch_hinting(true)
        .wasm_extended_const(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(NATIVE_STACK_BYTES)
        .memory_reservation(HEAP_BYTES_MAX as u64)
        .memory_guard_size(GUARD_BYTES)
        .guard_before_linear_memory(false)
        .memory_may_move(false)
        .memory_init_cow(false)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false);
    config
}
