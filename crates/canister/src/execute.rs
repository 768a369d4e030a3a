//! One message.
//!
//! # Design
//! [`enter`] says where a message enters, [`prepare`] makes the instance and [`complete`] runs it. A message
//! of its own ends with [`Effects`]; the parts of a composite query ([`query`](crate::query)) go on from one
//! instance to the next instead.
mod entry;

pub(crate) use entry::{Entry, enter};

use crate::{
    callback,
    engine::{
        Call, Effects, Engine, EntryPoint, Environment, Execution, ExecutionError, Instructions,
        Response,
    },
    fork::Replay,
    heap::{Heap, PAGE_BYTES, Snapshot, View},
    host::{
        Contexts, Exchange, Given, MachineFailure, Message, code, context, heap_limit_exceeded,
    },
    ic0::Log,
    instance::{Running, stop},
    instrument::{DEPTH_UNITS, reserved},
    lockstep_api::SessionTable,
    memory::PagedMemory,
    stable::{StableMemory, leaves_max},
    state::{CanisterState, GlobalValue, Installed},
};
use entry::{Begins, Way};
use ic_principal::Principal;
use std::sync::Arc;

/// A code and a text without the canister's name.
pub(crate) type Refusal = (u16, String);

/// What a message runs on.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) state: &'a CanisterState,
    pub(crate) installed: &'a Installed,
    pub(crate) heap: Snapshot,
    pub(crate) globals: &'a [GlobalValue],
    pub(crate) stable: PagedMemory,
}

impl<'a> Subject<'a> {
    /// A canister as it is.
    pub(crate) fn new(state: &'a CanisterState, installed: &'a Installed) -> Self {
        Self {
            state,
            installed,
            heap: Snapshot::from(&installed.heap),
            globals: &installed.globals,
            stable: state.stable.clone(),
        }
    }
}

pub(crate) fn execute(
    engine: &Engine,
    state: &CanisterState,
    call: &Call,
    environment: &Environment<'_>,
    replay: Option<Arc<Replay>>,
) -> Execution {
    let (installed, entry) = match enter(state, &call.entry) {
        Ok(entered) => entered,
        Err(error) => return failed(error),
    };
    if matches!(entry.way, Way::None) && entry.begins == Begins::Goes {
        let mut effects = unchanged(state, installed);
        // A canister without `canister_inspect_message` accepts every message.
        effects.accepted = entry.context == context::INSPECT;
        return Execution {
            result: Ok((Response::None, effects)),
            instructions: 0,
            time: 0,
            debug: Vec::new(),
            hidden_backtrace: String::new(),
        };
    }
    let subject = Subject::new(state, installed);
    let mut running = match prepare(engine, subject, call, environment, &entry) {
        Ok(running) => running,
        Err(refusal) => return failed(named(&state.id, refusal)),
    };
    running.store.data_mut().replay = replay;
    let ended = complete(&mut running, &entry);
    let hidden_backtrace = std::mem::take(&mut running.hidden_backtrace);
    let result = match ended.result {
        Ok(response) => Ok((response, effects(running, state, installed, entry.context))),
        Err(refusal) => {
            running.end(drop);
            Err(named(&state.id, refusal))
        }
    };
    Execution {
        result,
        instructions: ended.instructions,
        time: ended.time,
        debug: ended.debug,
        hidden_backtrace,
    }
}

fn failed(error: ExecutionError) -> Execution {
    Execution {
        result: Err(error),
        instructions: 0,
        time: 0,
        debug: Vec::new(),
        hidden_backtrace: String::new(),
    }
}

/// An error as clients see it.
pub(crate) fn named(canister: &Principal, (code, text): Refusal) -> ExecutionError {
    ExecutionError {
        code,
        message: format!("Error from Canister {canister}: {text}"),
    }
}

/// An instance that is ready to run.
pub(crate) fn prepare(
    engine: &Engine,
    mut subject: Subject<'_>,
    call: &Call,
    environment: &Environment<'_>,
    entry: &Entry,
) -> Result<Running, Refusal> {
    let installed = subject.installed;
    if entry.begins == Begins::Anew {
        subject.heap = Snapshot::from(&installed.module.initial_heap());
    }
    let given = Given::new(subject.state, call, environment, entry.context);
    check_heap(&subject, &given, environment, entry)?;
    let host = host(engine, &subject, given, call, environment, entry);
    let (limit, pace) = (environment.instruction_limit, environment.pace);
    let heap = subject.heap;
    if entry.begins == Begins::Goes {
        return Ok(Running::new(
            engine,
            host,
            limit,
            pace,
            subject.globals,
            heap,
        ));
    }
    let mut running = Running::installing(engine, host, limit, pace, heap);
    if entry.begins == Begins::Keeps {
        grow_to_minimum(&mut running);
    }
    Ok(running)
}

/// Whether a message may run on a heap of this size.
fn check_heap(
    subject: &Subject<'_>,
    given: &Given,
    environment: &Environment<'_>,
    entry: &Entry,
) -> Result<(), Refusal> {
    let mut pages = subject.heap.size_pages();
    if entry.begins == Begins::Keeps {
        let (least, most) = subject.installed.module.memory_pages().unwrap_or((0, 0));
        if pages > most {
            let text = format!(
                "Canister's Wasm module is not valid: Wasm memory of {pages} pages cannot be kept by a module with at most {most} pages."
            );
            return Err((code::INVALID_WASM, text));
        }
        let growth = least.saturating_sub(pages) * PAGE_BYTES as u64;
        if growth > environment.memory_available {
            let text = "Canister cannot grow its memory usage.";
            return Err((code::OUT_OF_MEMORY, text.into()));
        }
        pages = pages.max(least);
    }
    let bytes = pages * PAGE_BYTES as u64;
    match given.heap_limit {
        Some(limit) if bytes > limit => Err(heap_limit_exceeded(bytes, limit)),
        _ => Ok(()),
    }
}

/// Gives a kept heap the size that the module's memory has at first, which is allowed.
fn grow_to_minimum(running: &mut Running) {
    let host = running.store.data();
    let (Some(memory), Some((least, _))) = (host.memory, host.module.memory_pages()) else {
        return;
    };
    let missing = least.saturating_sub(memory.size(&running.store));
    memory
        .grow(&mut running.store, missing)
        .unwrap_or_else(|error| stop(&error.context(MachineFailure)));
}

/// How a message ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) result: Result<Response, Refusal>,
    pub(crate) instructions: Instructions,
    pub(crate) time: Instructions,
    pub(crate) debug: Vec<String>,
}

/// Runs a message to its end.
pub(crate) fn complete(running: &mut Running, entry: &Entry) -> Ended {
    let result = call_exports(running, entry);
    if result.is_ok() && changes_state(entry.context) {
        running.charge_changes();
    }
    let (time, exceeded) = running.used(&result);
    let result = match result {
        _ if exceeded => Err(running.exceeded()),
        Ok(()) => respond(running.store.data_mut()),
        Err(error) => Err(running.classify(&error)),
    };
    let host = running.store.data_mut();
    Ended {
        result,
        instructions: time + host.overlap,
        time,
        debug: std::mem::take(&mut host.debug),
    }
}

/// Whether what a message does there to its canister's memory stays.
fn changes_state(context: Contexts) -> bool {
    context & (context::NOT_REPLICATED | context::REPLICATED_QUERY) == 0
}

fn call_exports(running: &mut Running, entry: &Entry) -> wasmtime::Result<()> {
    if entry.begins != Begins::Goes && running.store.data().module.has_start() {
        running.store.data_mut().context = context::START;
        running.call(reserved::START, ())?;
        running.set_depth(DEPTH_UNITS);
        running.store.data_mut().context = entry.context;
    }
    match &entry.way {
        Way::None => Ok(()),
        Way::Export(export) => running.call(export, ()),
        Way::Closure(closure) => callback::run(running, closure),
    }
}

/// An update answers when it likes, also in a callback; the subnet knows when nothing is left that could.
/// A query that is not composite has no other time than now.
fn respond(host: &mut Message) -> Result<Response, Refusal> {
    const MUST_ANSWER: Contexts =
        context::QUERY | context::REPLICATED_QUERY | context::COMPOSITE_QUERY;
    match host.response.take() {
        Some(response) => Ok(response),
        None if host.context & MUST_ANSWER != 0 && host.exchange.calls.is_empty() => Err((
            code::DID_NOT_REPLY,
            "Canister did not produce a response".into(),
        )),
        None => Ok(Response::None),
    }
}

fn unchanged(state: &CanisterState, installed: &Installed) -> Effects {
    Effects::none(
        installed.heap.clone(),
        installed.globals.clone(),
        state.stable.clone(),
    )
}

fn effects(
    mut running: Running,
    state: &CanisterState,
    installed: &Installed,
    context: Contexts,
) -> Effects {
    let globals = running.globals();
    running.end(|host| {
        let mut effects = unchanged(state, installed);
        effects.accepted = host.accepted;
        if context & context::NOT_REPLICATED == 0 {
            effects.cycles_accepted = host.exchange.accepted;
            effects.cycles_spent = host.exchange.spent;
        }
        effects.calls = host.exchange.calls;
        if changes_state(context) {
            let mut stable = host.stable;
            effects.globals = globals;
            effects.stable = stable.snapshot();
            effects.heap = host.view.map_or_else(Heap::default, View::commit);
            effects.certified_data = host.certified_data;
            effects.global_timer_ns = host.global_timer.1.then_some(host.global_timer.0);
            effects.sessions = host.sessions.into_changes();
        }
        effects
    })
}

fn host(
    engine: &Engine,
    subject: &Subject<'_>,
    given: Given,
    call: &Call,
    environment: &Environment<'_>,
    entry: &Entry,
) -> Message {
    let state = subject.state;
    let module = &subject.installed.module;
    let method = match &call.entry {
        EntryPoint::Inspect(method) => method.clone(),
        _ => String::new(),
    };
    let certificate = environment
        .data_certificate
        .filter(|_| entry.context & (context::QUERY | context::COMPOSITE_QUERY) != 0);
    Message {
        engine: engine.clone(),
        module: Arc::clone(module),
        given: Arc::new(given),
        exchange: Exchange::new(state.cycles, call, environment),
        view: None,
        growth_pages_max: None,
        growth: None,
        memory_available: environment.memory_available,
        lanes: environment.lanes,
        overlap: 0,
        context: entry.context,
        method,
        caller: call.caller,
        argument: Arc::from(call.argument.as_slice()),
        canister_id: state.id,
        controllers: Arc::new(state.controllers.clone()),
        shows_backtrace: state.shows(&state.settings.log_visibility, &call.caller),
        version: state.version,
        time_ns: environment.time_ns,
        subnet_id: environment.subnet_id,
        root_key: Arc::from(environment.root_key),
        data_certificate: certificate.map(<[u8]>::to_vec),
        replicated: entry.context & context::NOT_REPLICATED == 0,
        instruction_limit: environment.instruction_limit,
        stable: StableMemory::new(&subject.stable, leaves_max(entry.context)),
        reply: Vec::new(),
        response: None,
        accepted: false,
        certified_data: None,
        global_timer: (state.global_timer_ns, false),
        sessions: if module.uses_sessions() {
            SessionTable::new(environment.sessions, environment.session_ids, state.id)
        } else {
            SessionTable::default()
        },
        debug: Vec::new(),
        debug_bytes: 0,
        log: Log::default(),
        forks: 0,
        replay: None,
        memory: None,
        meter: None,
    }
}
