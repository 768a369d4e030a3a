//! One message in a fresh instance.
use crate::{
    engine::{Call, Effects, Engine, EntryPoint, Environment, Execution, ExecutionError, Response},
    heap::{Heap, Snapshot, View},
    host::{Contexts, Host, code, context},
    instance::Running,
    instrument::{DEPTH_UNITS, reserved},
    lockstep_api::SessionTable,
    module::Module,
    stable::StableMemory,
    state::{CanisterState, Installed},
};
use std::{collections::BTreeMap, sync::Arc};

/// Where a call enters a module.
struct Entry {
    context: Contexts,
    /// The export to run; `None` when the module may lack it and does.
    export: Option<String>,
    /// Whether the canister's memories start anew.
    installs: bool,
}

pub(crate) fn execute(
    engine: &Engine,
    state: &CanisterState,
    call: &Call,
    environment: &Environment<'_>,
) -> Execution {
    let refuse = |code, text: String| Execution {
        result: Err(ExecutionError {
            code,
            message: format!("Error from Canister {}: {text}", state.id),
        }),
        instructions: 0,
        time: 0,
        debug: Vec::new(),
    };
    let Some(installed) = &state.installed else {
        return refuse(
            code::NO_MODULE,
            "Attempted to execute a message, but the canister contains no Wasm module".into(),
        );
    };
    let entry = match find(&installed.module, &call.entry) {
        Ok(entry) => entry,
        Err(text) => return refuse(code::METHOD_NOT_FOUND, text),
    };
    if entry.export.is_none() && !entry.installs {
        let mut effects = unchanged(state, installed);
        effects.accepted = call.entry_accepts_by_default();
        return Execution {
            result: Ok((Response::None, effects)),
            instructions: 0,
            time: 0,
            debug: Vec::new(),
        };
    }
    let limit = environment.instruction_limit;
    let host = host(engine, state, installed, call, environment, &entry);
    let mut running = Running::new(engine, host, limit, environment.pace);
    let view = if entry.installs {
        running.map(engine, Snapshot::from(&installed.module.initial_heap()))
    } else {
        running.set_globals(&installed.globals);
        running.map(engine, Snapshot::from(&installed.heap))
    };
    running.store.data_mut().view = view;
    finish(running, state, installed, &entry)
}

impl Call {
    /// A canister without `canister_inspect_message` accepts every message.
    fn entry_accepts_by_default(&self) -> bool {
        matches!(self.entry, EntryPoint::Inspect(_))
    }
}

fn find(module: &Module, entry: &EntryPoint) -> Result<Entry, String> {
    let optional = |context, export: &str, installs| Entry {
        context,
        export: module.has_entry(export).then(|| export.to_owned()),
        installs,
    };
    let required = |context, kind: &str, exports: &[&str], name: &str| {
        let mut exports = exports.iter().map(|prefix| format!("{prefix} {name}"));
        match exports.find(|export| module.has_entry(export)) {
            Some(export) => Ok(Entry {
                context,
                export: Some(export),
                installs: false,
            }),
            None => Err(format!("Canister has no {kind} method '{name}'.")),
        }
    };
    Ok(match entry {
        EntryPoint::Init => optional(context::INIT, "canister_init", true),
        EntryPoint::PostUpgrade => optional(context::INIT, "canister_post_upgrade", true),
        EntryPoint::PreUpgrade => optional(context::PRE_UPGRADE, "canister_pre_upgrade", false),
        EntryPoint::Inspect(_) => optional(context::INSPECT, "canister_inspect_message", false),
        EntryPoint::GlobalTimer => optional(context::TASK, "canister_global_timer", false),
        EntryPoint::Heartbeat => optional(context::TASK, "canister_heartbeat", false),
        EntryPoint::Update(name) => {
            required(context::UPDATE, "update", &["canister_update"], name)?
        }
        EntryPoint::ReplicatedQuery(name) => required(
            context::REPLICATED_QUERY,
            "query",
            &["canister_query"],
            name,
        )?,
        EntryPoint::Query(name) => required(
            context::QUERY,
            "query",
            &["canister_query", "canister_composite_query"],
            name,
        )?,
    })
}

fn unchanged(state: &CanisterState, installed: &Installed) -> Effects {
    Effects {
        heap: installed.heap.clone(),
        globals: installed.globals.clone(),
        stable: state.stable.clone(),
        certified_data: None,
        global_timer_ns: None,
        sessions: BTreeMap::new(),
        accepted: false,
    }
}

fn finish(
    mut running: Running,
    state: &CanisterState,
    installed: &Installed,
    entry: &Entry,
) -> Execution {
    let result = call_exports(&mut running, installed, entry);
    let (time, exceeded) = running.used(&result);
    let result = match result {
        _ if exceeded => Err(running.exceeded()),
        Ok(()) => respond(running.store.data_mut(), entry),
        Err(error) => Err(running.classify(&error)),
    };
    let host = running.store.data_mut();
    let debug = std::mem::take(&mut host.debug);
    let instructions = time + host.overlap;
    let result = match result {
        Ok(response) => Ok((response, effects(running, state, installed, entry))),
        Err((code, text)) => Err(ExecutionError {
            code,
            message: format!("Error from Canister {}: {text}", state.id),
        }),
    };
    Execution {
        result,
        instructions,
        time,
        debug,
    }
}

fn call_exports(
    running: &mut Running,
    installed: &Installed,
    entry: &Entry,
) -> wasmtime::Result<()> {
    if entry.installs && installed.module.has_start() {
        running.store.data_mut().context = context::START;
        running.call(reserved::START, ())?;
        running.set_depth(DEPTH_UNITS);
        running.store.data_mut().context = entry.context;
    }
    match &entry.export {
        Some(export) => running.call(export, ()),
        None => Ok(()),
    }
}

fn respond(host: &mut Host, entry: &Entry) -> Result<Response, (u16, String)> {
    const MUST_ANSWER: Contexts = context::UPDATE | context::QUERY | context::REPLICATED_QUERY;
    match host.response.take() {
        Some(response) => Ok(response),
        None if entry.context & MUST_ANSWER == 0 => Ok(Response::None),
        None => Err((
            code::DID_NOT_REPLY,
            "Canister did not produce a response".into(),
        )),
    }
}

fn effects(
    mut running: Running,
    state: &CanisterState,
    installed: &Installed,
    entry: &Entry,
) -> Effects {
    const DROPS_CHANGES: Contexts = context::QUERY | context::REPLICATED_QUERY | context::INSPECT;
    let mut effects = unchanged(state, installed);
    effects.accepted = running.store.data().accepted;
    if entry.context & DROPS_CHANGES != 0 {
        return effects;
    }
    effects.globals = running.globals();
    let host = running.store.into_data();
    effects.heap = host.view.map_or_else(Heap::default, View::commit);
    effects.stable = host.stable.finish();
    effects.certified_data = host.certified_data;
    effects.global_timer_ns = host.global_timer.1.then_some(host.global_timer.0);
    effects.sessions = host.sessions.into_changes();
    effects
}

fn host(
    engine: &Engine,
    state: &CanisterState,
    installed: &Installed,
    call: &Call,
    environment: &Environment<'_>,
    entry: &Entry,
) -> Host {
    let module = &installed.module;
    let method = match &call.entry {
        EntryPoint::Inspect(method) => method.clone(),
        _ => String::new(),
    };
    let certificate = environment
        .data_certificate
        .filter(|_| entry.context == context::QUERY);
    Host {
        engine: engine.clone(),
        module: Arc::clone(module),
        view: None,
        growth_pages_max: None,
        lanes: environment.lanes,
        overlap: 0,
        context: entry.context,
        method,
        caller: call.caller,
        argument: Arc::from(call.argument.as_slice()),
        canister_id: state.id,
        controllers: Arc::new(state.controllers.clone()),
        cycles: state.cycles,
        version: state.version,
        time_ns: environment.time_ns,
        subnet_id: environment.subnet_id,
        root_key: Arc::from(environment.root_key),
        data_certificate: certificate.map(<[u8]>::to_vec),
        replicated: !matches!(entry.context, context::QUERY | context::INSPECT),
        instruction_limit: environment.instruction_limit,
        stable: StableMemory::new(&state.stable),
        reply: Vec::new(),
        response: None,
        call_pending: false,
        accepted: false,
        certified_data: None,
        global_timer: (state.global_timer_ns, false),
        sessions: if module.uses_sessions() {
            SessionTable::new(environment.sessions, state.id)
        } else {
            SessionTable::default()
        },
        debug: Vec::new(),
        debug_bytes: 0,
        memory: None,
        meter: None,
    }
}
