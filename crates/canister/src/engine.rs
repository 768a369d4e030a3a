//! Compiles modules and executes messages.
//!
//! # Design
//! A module is validated, instrumented and compiled once. Every message gets an instance that no other
//! uses, under which the heap is mapped and into which the globals are copied; pages that it wrote are its
//! effects. Instances are kept for later messages, which cannot tell.
//!
//! # Determinism
//! Instructions and stack are counted in the code itself. Memory growth fails only by rule.
//! NaNs are canonical wherever their bits can be seen (record 0007). Threads and relaxed SIMD are off.
//! Nothing but the arguments of [`Engine::execute`] can be read.
//!
//! # Complexity
//! A message costs what it touches; see [`heap`](crate::heap).
use crate::{
    backtrace::FRAMES_MAX,
    execute,
    fork::{self, Replay, TaskMemory},
    heap::{HEAP64_BYTES_MAX, Slots},
    host::ImportSets,
    ic0,
    instances::Instances,
    kernels, lockstep_api,
    pacer::Pace,
    prices::Prices,
    session::{SessionIds, Sessions},
    stack::Stacks,
    state::CanisterState,
};
pub use crate::{
    host::{HEAP_LEAF_CHANGED, STABLE_LEAF_WRITTEN, SYSTEM_CALL},
    message::{
        Call, CallerInfo, Closure, Cycles, Effects, EntryPoint, OutgoingCall, Rejection, Response,
    },
    module::{MODULE_BYTES_MAX, Module, ModuleError},
    stable::STABLE_PAGES_MAX,
};
use ic_principal::Principal;
use lockstep_numeric::{Isa, IsaError, Kernels, Pool};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
};
use wasmtime::{Config, OptLevel, WasmBacktraceDetails};

/// Native stack of compiled code: several times what the instrumentation lets a message use.
const WASM_STACK_BYTES: usize = 32 * 1024 * 1024;
/// Native stack of a message, imports included.
const NATIVE_STACK_BYTES: usize = WASM_STACK_BYTES + 2 * 1024 * 1024;

/// Memory of the tasks that run at a time.
const TASK_BYTES: u64 = 8 << 30;

/// Unmapped addresses behind a heap, which let most accesses go unchecked.
const GUARD_BYTES: u64 = 32 * 1024 * 1024;

/// Wasm instructions by the published weights.
pub type Instructions = u64;

/// Instructions of an update call, a callback, a timer or a heartbeat.
pub const UPDATE_INSTRUCTIONS: Instructions = 40_000_000_000;

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
    /// The ids that sessions started by this message get.
    pub session_ids: SessionIds,
    /// What calls and storage cost.
    pub prices: Prices,
    /// Cycles of the balance that calls and burning must leave.
    pub frozen_cycles: Cycles,
    /// Bytes by which the canister's memories may grow.
    pub memory_available: u64,
    /// Bytes that the message's calls may have together, names of methods included.
    pub message_bytes: u64,
    /// Calls under way to each callee.
    pub calls_under_way: &'a BTreeMap<Principal, usize>,
}

/// Of a message that nothing else is under way beside.
static NO_CALLS: BTreeMap<Principal, usize> = BTreeMap::new();

impl<'a> Environment<'a> {
    /// A message on a subnet of 13 nodes at time 0 with the limits of an update, beside which nothing
    /// runs: what callers start from.
    #[must_use]
    pub fn new(sessions: &'a Sessions) -> Self {
        Self {
            time_ns: 0,
            subnet_id: Principal::management_canister(),
            root_key: &[],
            instruction_limit: UPDATE_INSTRUCTIONS,
            pace: None,
            lanes: NonZeroU32::MIN,
            data_certificate: None,
            sessions,
            session_ids: sessions.ids(),
            prices: Prices::new(13),
            frozen_cycles: 0,
            memory_available: u64::MAX,
            message_bytes: u64::MAX,
            calls_under_way: &NO_CALLS,
        }
    }
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
    /// Which functions were running when it trapped, if the caller may not know: only who may read the
    /// canister's log finds it in the error.
    pub hidden_backtrace: String,
}

/// The result of [`Engine::execute_task`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskExecution {
    /// What the task wrote into its window, or the error with which the message ends if no task of a lower
    /// index traps.
    pub result: Result<Vec<u8>, ExecutionError>,
    /// Instructions the task used.
    pub instructions: Instructions,
    /// What it printed, in order.
    pub debug: Vec<String>,
}

/// Compiles and executes. One per replica; clones are the same.
#[derive(Clone)]
pub struct Engine {
    compiler: Arc<Compiler>,
    workers: Arc<Pool>,
    /// On the workers.
    kernels: Kernels,
    task_memory: Arc<TaskMemory>,
    keeps_instances: bool,
}

/// What compiled modules belong to.
struct Compiler {
    wasm: wasmtime::Engine,
    slots: Arc<Slots>,
    instances: Arc<Instances>,
    stacks: Stacks,
    imports: ImportSets,
    /// Modules in use, by the SHA-256 of their bytes.
    modules: Mutex<BTreeMap<[u8; 32], Weak<Module>>>,
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
    /// An engine that runs kernels and the tasks of a fork on as many threads as this machine has cores.
    ///
    /// # Panics
    /// When this machine cannot run compiled Wasm, or `LOCKSTEP_ISA` names no instruction set of this processor.
    #[must_use]
    pub fn new() -> Self {
        let slots = Arc::new(Slots::default());
        let wasm = wasmtime::Engine::new(configuration().with_host_memory(slots.clone()))
            .expect("the configuration is valid on every supported machine");
        let mut imports = ImportSets::new(&wasm);
        ic0::define(&mut imports);
        lockstep_api::define(&mut imports.narrow);
        fork::define(&mut imports.narrow);
        kernels::define(&mut imports.narrow);
        let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let isa = Isa::detect().unwrap_or_else(|error| panic!("{error}"));
        let workers = workers(threads);
        Self {
            compiler: Arc::new(Compiler {
                wasm,
                slots,
                instances: Arc::default(),
                stacks: Stacks::new(NATIVE_STACK_BYTES),
                imports,
                modules: Mutex::default(),
            }),
            kernels: Kernels::new(isa, Arc::clone(&workers)).expect("detected"),
            workers,
            task_memory: Arc::new(TaskMemory::new(TASK_BYTES)),
            keeps_instances: true,
        }
    }

    /// The same engine with kernels and the tasks of a fork on so many threads. Results do not depend on it, and
    /// modules compiled by either run on both.
    #[must_use]
    pub fn on_threads(&self, threads: NonZeroUsize) -> Self {
        let workers = workers(threads);
        let isa = self.kernels.isa();
        Self {
            kernels: Kernels::new(isa, Arc::clone(&workers)).expect("this engine has it"),
            workers,
            ..self.clone()
        }
    }

    /// The same engine, in which tasks that run at a time share so much memory; otherwise it is 8 GiB. As
    /// many run as fit if each writes all of its heap, and one always does: results do not depend on it.
    #[must_use]
    pub fn with_task_bytes(&self, bytes: u64) -> Self {
        Self {
            task_memory: Arc::new(TaskMemory::new(bytes)),
            ..self.clone()
        }
    }

    /// The same engine, but every message and task gets an instance made anew: slower, with the same
    /// results.
    #[must_use]
    pub fn without_kept_instances(&self) -> Self {
        Self {
            keeps_instances: false,
            ..self.clone()
        }
    }

    /// On how many threads the tasks of a fork run.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.threads()
    }

    /// The same engine with kernels of another instruction set. Results do not depend on it.
    ///
    /// # Errors
    /// This processor lacks it.
    pub fn on_isa(&self, isa: Isa) -> Result<Self, IsaError> {
        Ok(Self {
            kernels: Kernels::new(isa, Arc::clone(&self.workers))?,
            ..self.clone()
        })
    }

    pub(crate) fn wasm(&self) -> &wasmtime::Engine {
        &self.compiler.wasm
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.compiler.slots
    }

    /// Instances kept, if they are.
    pub(crate) fn instances(&self) -> Option<&Instances> {
        self.keeps_instances.then_some(&*self.compiler.instances)
    }

    pub(crate) fn task_memory(&self) -> &Arc<TaskMemory> {
        &self.task_memory
    }

    pub(crate) fn workers(&self) -> &Pool {
        &self.workers
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Compiles a module, raw or gzip, after validating it against the system's rules.
    ///
    /// # Errors
    /// [`ModuleError`] says which rule it breaks.
    pub fn compile(&self, wasm: &[u8]) -> Result<Module, ModuleError> {
        let compiler = &self.compiler;
        Module::compile(&compiler.wasm, &compiler.imports, &compiler.instances, wasm)
    }

    /// As [`Self::compile`]; bytes whose module is in use are not compiled again.
    ///
    /// # Errors
    /// [`ModuleError`] says which rule it breaks.
    pub fn module(&self, wasm: &[u8]) -> Result<Arc<Module>, ModuleError> {
        let hash = Sha256::digest(wasm).into();
        let modules = || {
            let modules = self.compiler.modules.lock();
            modules.unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(module) = modules().get(&hash).and_then(Weak::upgrade) {
            return Ok(module);
        }
        let module = Arc::new(self.compile(wasm)?);
        let mut modules = modules();
        modules.retain(|_, module| module.strong_count() > 0);
        modules.insert(hash, Arc::downgrade(&module));
        Ok(module)
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
        self.on_stack(|| execute::execute(self, state, call, environment, None))
    }

    /// Whichever thread asks, a message gets a stack of its own size.
    pub(crate) fn on_stack<R>(&self, run: impl FnOnce() -> R) -> R {
        self.compiler.stacks.run(run)
    }

    /// Executes a message again up to its fork of number `fork`, the first being 0, and there the task of
    /// index `task` alone: what to look into when a message ends with "(task 3 of a fork)". `None` when the
    /// message gets to no such task. Forks inside tasks are not counted.
    ///
    /// # Panics
    /// As [`Self::execute`].
    #[must_use]
    pub fn execute_task(
        &self,
        state: &CanisterState,
        call: &Call,
        environment: &Environment<'_>,
        fork: u32,
        task: u32,
    ) -> Option<TaskExecution> {
        let replay = Arc::new(Replay::new(fork, task));
        let environment = Environment {
            pace: None,
            ..*environment
        };
        let execution = self.on_stack(|| {
            let replay = Some(Arc::clone(&replay));
            execute::execute(self, state, call, &environment, replay)
        });
        replay.finish(execution)
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
        .wasm_memory64(true)
        .wasm_branch_hinting(true)
        .wasm_extended_const(false)
        .cranelift_opt_level(OptLevel::Speed)
        .max_wasm_stack(WASM_STACK_BYTES)
        .async_stack_size(NATIVE_STACK_BYTES)
        .memory_reservation(HEAP64_BYTES_MAX)
        .memory_guard_size(GUARD_BYTES)
        .guard_before_linear_memory(false)
        .memory_may_move(false)
        .memory_init_cow(false)
        .wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES_MAX))
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .generate_address_map(false);
    config
}
