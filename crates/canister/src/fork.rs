//! Fork-join inside one message: `lockstep.fork`.
//!
//! # Design
//! The forking instance waits in the import. What it has done so far becomes a version of its heap, which
//! every task's instance maps privately (in tasks and queries: changes, which their tasks copy); globals,
//! tables and the rest of the stack are those at the fork. Tasks write into private pages; their windows
//! are copied into the caller's heap. Stable memory they read as the message had written it. Tasks run on the
//! engine's threads in any order, each by itself; inside a task they run one after another.
//!
//! # Determinism
//! A task is a function of the snapshot and its index. Windows do not overlap, quotas are the same for
//! every task, and if tasks trap, the one of the lowest index counts: those above it are neither paid
//! for nor heard.
//!
//! # Units and bounds
//! Pages are of 4 KiB. A task's private pages are those in which its heap differs from the snapshot at
//! the end, and all by which it grew. Until then it may write every page of its heap; how many tasks run at
//! a time is bounded so that the machine has the memory if all do (`fork/memory.rs`).
mod memory;
mod replay;

pub(crate) use memory::{Growth, TaskMemory};
pub(crate) use replay::Replay;

use crate::{
    engine::Instructions,
    heap::{LEAF_BYTES, PAGE_BYTES, Snapshot, Window},
    host::{
        Contexts, DEBUG_BYTES_MAX, Exchange, Failure, Host, HostTrap, Imports, Message, charge,
        code, context, enter, pay_to_read, trapped, used,
    },
    ic0::Log,
    instance::{Running, value},
    instrument::reserved,
    lockstep_api::SessionTable,
    memory::PagedMemory,
    stable::StableMemory,
    state::GlobalValue,
};
use memory::Share;
use std::{
    num::NonZeroU32,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use wasmtime::{Caller, Val};

/// Most tasks of one fork.
pub const TASKS_MAX: u32 = 65_536;
/// Price of a fork, plus [`FORK_TASK`] for each task. The tasks' own instructions come on top.
pub const FORK: Instructions = 500_000;
/// Price of a task beside its own instructions.
pub const FORK_TASK: Instructions = 50_000;
/// Bytes that all tasks of a fork may print before they are joined.
const DEBUG_BYTES_OF_TASKS: usize = 64 << 20;
/// Stack units that a fork inside a task takes of those left.
const FORK_DEPTH: i32 = 256 * 1024;
/// Pages of the processor in one of Wasm.
const PAGES_PER_WASM_PAGE: u64 = (PAGE_BYTES / LEAF_BYTES) as u64;
/// Where a fork may stand: in every message, and in its tasks.
const CONTEXTS: Contexts = context::ANY | context::FORK;

/// Defines `lockstep.fork`.
pub(crate) fn define(imports: &mut Imports) {
    imports.add(
        "lockstep",
        "fork",
        |mut caller: Caller<'_, Host>,
         task: i32,
         environment: i32,
         count: i32,
         windows: i32,
         instructions: i64,
         pages: i32|
         -> wasmtime::Result<()> {
            enter(&mut caller, ("lockstep", "fork"), CONTEXTS, FORK)?;
            let count = count.cast_unsigned();
            if count > TASKS_MAX {
                return trapped(format!(
                    "lockstep.fork: {count} tasks, more than {TASKS_MAX}"
                ));
            }
            charge(&mut caller, u64::from(count) * FORK_TASK)?;
            let windows = read_windows(&mut caller, windows, count)?;
            let tasks = Tasks {
                function: task,
                environment,
                instructions: instructions.cast_unsigned().min(i64::MAX.cast_unsigned()),
                pages: u64::from(pages.cast_unsigned()),
            };
            fork(&mut caller, &tasks, windows)
        },
    );
}

/// What all tasks of a fork have in common.
struct Tasks {
    function: i32,
    environment: i32,
    instructions: Instructions,
    pages: u64,
}

/// What a task starts from.
struct Start {
    /// Of what a task may print, that which is used up: many tasks may print little each.
    debug_bytes: usize,
    heap: Snapshot,
    stable: PagedMemory,
    stable_leaves_max: u64,
    globals: Vec<GlobalValue>,
    depth: i32,
}

/// What a task leaves.
struct Outcome {
    used: Instructions,
    stable_leaves: u64,
    debug: Vec<String>,
    trap: Option<Failure>,
}

/// Pairs of a start and a size, both u32.
fn read_windows(
    caller: &mut Caller<'_, Host>,
    start: i32,
    count: u32,
) -> wasmtime::Result<Vec<Range<usize>>> {
    let bytes = pay_to_read(caller, "fork", start, (count * 8).cast_signed())?;
    let words = bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word) as usize);
    let words: Vec<_> = words.collect();
    let windows = words.as_chunks().0.iter();
    Ok(windows.map(|[start, size]| *start..start + size).collect())
}

fn fork(
    caller: &mut Caller<'_, Host>,
    tasks: &Tasks,
    windows: Vec<Range<usize>>,
) -> wasmtime::Result<()> {
    let count = windows.len();
    let nested = caller.data().context == context::FORK;
    // Tasks of tasks run one after another.
    let lanes = if nested {
        NonZeroU32::MIN
    } else {
        caller.data().lanes
    };
    let longest = (count as u64).div_ceil(u64::from(lanes.get()));
    let reserved = longest.saturating_mul(tasks.instructions);
    let limit = caller.data().instruction_limit;
    if reserved > limit.saturating_sub(used(caller)) {
        return Err(HostTrap::OutOfInstructions.into());
    }
    let globals = globals(caller);
    let depth = global(caller, reserved::DEPTH);
    let depth = depth.i32().expect("the depth is an i32") - FORK_DEPTH;
    if depth < 0 {
        return trapped("stack overflow");
    }
    // Away from the host, so that tasks can be given copies of it.
    let Some(mut view) = caller.data_mut().view.take() else {
        return trapped("lockstep.fork: the canister has no memory");
    };
    // Tasks and queries fork side by side, and cannot each make the next version.
    let heap = if nested || caller.data().context & context::NOT_REPLICATED != 0 {
        view.changes()
    } else {
        view.version()
    };
    let stable = &mut caller.data_mut().stable;
    let printable = (DEBUG_BYTES_OF_TASKS / count.max(1)).min(DEBUG_BYTES_MAX);
    let start = Start {
        debug_bytes: DEBUG_BYTES_MAX - printable,
        heap,
        stable: stable.snapshot(),
        stable_leaves_max: stable.leaves_left(),
        globals,
        depth,
    };
    let replay = caller.data().replay.clone();
    let number = caller.data().forks;
    let replay = replay.filter(|replay| replay.fork == number);
    let outcomes = view.windows(&windows).map(|windows| match &replay {
        None => run_all(caller.data(), tasks, &start, windows),
        Some(replay) => run_one(caller.data(), tasks, &start, windows, replay),
    });
    let host = caller.data_mut();
    host.forks += 1;
    match (outcomes, replay) {
        (None, _) => {
            host.view = Some(view);
            trapped("lockstep.fork: windows overlap or lie outside of the heap")
        }
        (Some(outcomes), None) => {
            host.view = Some(view);
            settle(caller, lanes, outcomes)
        }
        (Some(outcomes), Some(replay)) => {
            let window = windows.get(replay.task as usize);
            let written = window.map(|window| view.read(window.clone()));
            host.view = Some(view);
            replay.settle(outcomes, written.unwrap_or_default())
        }
    }
}

/// Runs the tasks, or those up to one that traps.
fn run_all(host: &Message, tasks: &Tasks, start: &Start, windows: Vec<Window<'_>>) -> Vec<Outcome> {
    let count = windows.len();
    let places: Vec<_> = windows
        .into_iter()
        .map(|window| Mutex::new((Some(window), None)))
        .collect();
    let next = AtomicUsize::new(0);
    let trapped = AtomicUsize::new(count);
    let workers = host.engine.workers();
    // Tasks of tasks run one after another, in place of those that wait for them.
    let nested = host.context == context::FORK;
    let threads = workers.threads().min(count);
    let share = (!nested).then(|| {
        let each = start.heap.size_pages() * PAGE_BYTES as u64;
        host.engine.task_memory().take(each, threads)
    });
    let at_a_time = share.as_ref().map_or(1, Share::tasks);
    workers.run(at_a_time, &|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            // What is behind a task that trapped is not heard.
            if index >= count || index > trapped.load(Ordering::Relaxed) {
                return;
            }
            let window = lock(&places[index]).0.take().expect("a task runs once");
            let outcome = run(task_host(host, tasks, start), tasks, start, index, window);
            if outcome.trap.is_some() {
                trapped.fetch_min(index, Ordering::Relaxed);
            }
            lock(&places[index]).1 = Some(outcome);
        }
    });
    let outcomes = places.into_iter().map_while(|place| {
        let place = place.into_inner().unwrap_or_else(PoisonError::into_inner);
        place.1
    });
    outcomes.collect()
}

/// Runs the task that a replay asks for, if there is one of its index.
fn run_one(
    host: &Message,
    tasks: &Tasks,
    start: &Start,
    windows: Vec<Window<'_>>,
    replay: &Replay,
) -> Vec<Outcome> {
    let index = replay.task as usize;
    let window = windows.into_iter().nth(index);
    let outcome = window.map(|window| {
        let host = task_host(host, tasks, start);
        run(host, tasks, start, index, window)
    });
    outcome.into_iter().collect()
}

/// Runs one task in an instance that nobody else uses.
fn run(host: Message, tasks: &Tasks, start: &Start, index: usize, window: Window<'_>) -> Outcome {
    let engine = host.engine.clone();
    let heap = start.heap.clone();
    let mut running = Running::new(
        &engine,
        host,
        tasks.instructions,
        None,
        &start.globals,
        heap,
    );
    running.set_depth(start.depth);
    let host = running.store.data_mut();
    if let Some(view) = &host.view {
        view.prepare(&window);
    }
    host.growth_pages_max = Some(start.heap.size_pages() + tasks.pages / PAGES_PER_WASM_PAGE);
    let arguments = (tasks.function, tasks.environment, index as i32);
    let result = running.call(reserved::TASK, arguments);
    let (used, exceeded) = running.used(&result);
    let trap = match result {
        _ if exceeded => Some(running.exhausted()),
        Ok(()) => finish(&running, tasks, window),
        Err(error) => Some(running.failure(&error)),
    };
    running.end(|message| Outcome {
        used,
        stable_leaves: message.stable.leaves_touched(),
        debug: message.debug,
        trap,
    })
}

/// Checks a task's pages and joins its window.
fn finish(running: &Running, tasks: &Tasks, window: Window<'_>) -> Option<Failure> {
    let view = running.store.data().view.as_ref()?;
    let pages = view.private_pages(tasks.pages);
    if pages > tasks.pages {
        let text = format!(
            "Canister trapped: {pages} private pages, more than the quota of {}",
            tasks.pages
        );
        return Some(Failure {
            code: code::TRAPPED,
            text,
            frames: Vec::new(),
        });
    }
    window.join(view);
    None
}

/// Charges for the tasks up to the first that trapped, and traps as it did.
fn settle(
    caller: &mut Caller<'_, Host>,
    lanes: NonZeroU32,
    outcomes: Vec<Outcome>,
) -> wasmtime::Result<()> {
    let mut times = vec![0; (lanes.get() as usize).min(outcomes.len())];
    let mut sum: Instructions = 0;
    let mut trap = None;
    for (index, outcome) in outcomes.into_iter().enumerate() {
        let lane = index % times.len();
        times[lane] += outcome.used;
        sum += outcome.used;
        for line in outcome.debug {
            caller.data_mut().print(line.as_bytes());
        }
        let joined = caller.data_mut().stable.join(outcome.stable_leaves);
        let exceeded = joined.err().map(|error| {
            let (code, text) = error.refusal();
            let frames = Vec::new();
            Failure { code, text, frames }
        });
        if let Some(failure) = outcome.trap.or(exceeded) {
            trap = Some(of_task(failure, index));
            break;
        }
    }
    let time = times.into_iter().max().unwrap_or(0);
    caller.data_mut().overlap += sum - time;
    charge(caller, time)?;
    match trap {
        None => Ok(()),
        Some(trap) => Err(trap.into()),
    }
}

/// The trap of a message whose task of this index failed.
fn of_task(mut failure: Failure, index: usize) -> HostTrap {
    failure.text = format!("{} (task {index} of a fork)", failure.text);
    HostTrap::Task(failure)
}

/// What a task can reach: the message as its caller has it, and nothing to change.
fn task_host(host: &Message, tasks: &Tasks, start: &Start) -> Message {
    Message {
        engine: host.engine.clone(),
        module: Arc::clone(&host.module),
        given: Arc::clone(&host.given),
        exchange: Exchange::default(),
        view: None,
        growth_pages_max: None,
        memory_available: u64::MAX,
        growth: (host.context != context::FORK)
            .then(|| Growth::new(Arc::clone(host.engine.task_memory()))),
        lanes: host.lanes,
        overlap: 0,
        context: context::FORK,
        method: String::new(),
        caller: host.caller,
        argument: Arc::clone(&host.argument),
        canister_id: host.canister_id,
        controllers: Arc::clone(&host.controllers),
        shows_backtrace: host.shows_backtrace,
        version: host.version,
        time_ns: host.time_ns,
        subnet_id: host.subnet_id,
        root_key: Arc::clone(&host.root_key),
        data_certificate: None,
        replicated: host.replicated,
        instruction_limit: tasks.instructions,
        stable: StableMemory::new(&start.stable, start.stable_leaves_max),
        reply: Vec::new(),
        response: None,
        accepted: false,
        certified_data: None,
        global_timer: (0, false),
        sessions: SessionTable::default(),
        debug: Vec::new(),
        debug_bytes: start.debug_bytes,
        log: Log::default(),
        forks: 0,
        replay: None,
        memory: None,
        meter: None,
    }
}

fn globals(caller: &mut Caller<'_, Host>) -> Vec<GlobalValue> {
    let module = Arc::clone(&caller.data().module);
    let names = module.persistent_globals().iter();
    names.map(|name| value(global(caller, name))).collect()
}

fn global(caller: &mut Caller<'_, Host>, name: &str) -> Val {
    caller
        .get_export(name)
        .and_then(wasmtime::Extern::into_global)
        .expect("instrumentation exports it")
        .get(caller)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
