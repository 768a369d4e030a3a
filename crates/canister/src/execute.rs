//! One message in a fresh instance.
use crate::{
    engine::{
        Call, Effects, EntryPoint, Environment, Execution, ExecutionError, Instructions, Response,
    },
    host::{Host, HostTrap, MachineFailure, code, context},
    instrument::reserved,
    lockstep_api::SessionTable,
    memory::{PAGE_BYTES, PagedMemory, zero_page},
    module::Module,
    stable::StableMemory,
    state::{CanisterState, GlobalValue, Installed},
};
use std::{collections::BTreeMap, sync::Arc};
use wasmtime::{Global, Instance, Store, Trap, V128, Val};

/// Where a call enters a module.
struct Entry {
    context: u8,
    /// The export to run; `None` when the module may lack it and does.
    export: Option<String>,
    /// Whether the canister's memories start anew.
    installs: bool,
}

pub(crate) fn execute(
    engine: &wasmtime::Engine,
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
            debug: Vec::new(),
        };
    }
    Message::new(engine, state, installed, call, environment, &entry).run(state, installed, &entry)
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

struct Message {
    store: Store<Host>,
    instance: Instance,
    counter: Global,
    limit: Instructions,
}

impl Message {
    /// An instance with the canister's heap and globals in place.
    fn new(
        engine: &wasmtime::Engine,
        state: &CanisterState,
        installed: &Installed,
        call: &Call,
        environment: &Environment<'_>,
        entry: &Entry,
    ) -> Self {
        let limit = environment.instruction_limit.min(i64::MAX.cast_unsigned());
        let module = &installed.module;
        let mut store = Store::new(engine, host(state, module, call, environment, entry, limit));
        store.limiter(|host| host);
        let instance = module
            .code()
            .instantiate(&mut store)
            .unwrap_or_else(|error| stop(&error));
        let counter = instance
            .get_global(&mut store, reserved::COUNTER)
            .expect("instrumentation exports it");
        counter
            .set(&mut store, Val::I64(limit.cast_signed()))
            .expect("the counter is a mutable i64");
        let memory = instance.get_memory(&mut store, reserved::MEMORY);
        let host = store.data_mut();
        (host.counter, host.memory) = (Some(counter), memory);
        let mut message = Self {
            store,
            instance,
            counter,
            limit,
        };
        if entry.installs {
            message.fill_heap(&module.initial_heap());
        } else {
            message.fill_heap(&installed.heap);
            message.set_globals(module, &installed.globals);
        }
        message
    }

    fn run(mut self, state: &CanisterState, installed: &Installed, entry: &Entry) -> Execution {
        let result = self.call_exports(&installed.module, entry);
        let left = self
            .counter
            .get(&mut self.store)
            .i64()
            .expect("the counter is an i64");
        let result = match result {
            // The last run of code may have cost more than was left.
            _ if left < 0 => Err((code::INSTRUCTION_LIMIT_EXCEEDED, self.limit_text())),
            Ok(()) => self.respond(entry),
            Err(error) => Err(self.classify(&error)),
        };
        let debug = std::mem::take(&mut self.store.data_mut().debug);
        let instructions = self.limit - left.max(0).cast_unsigned();
        let result = match result {
            Ok(response) => Ok((response, self.effects(state, installed, entry))),
            Err((code, text)) => Err(ExecutionError {
                code,
                message: format!("Error from Canister {}: {text}", state.id),
            }),
        };
        Execution {
            result,
            instructions,
            debug,
        }
    }

    fn call_exports(&mut self, module: &Module, entry: &Entry) -> wasmtime::Result<()> {
        if entry.installs && module.has_start() {
            self.store.data_mut().context = context::START;
            self.call(reserved::START)?;
            self.store.data_mut().context = entry.context;
        }
        match &entry.export {
            Some(export) => self.call(export),
            None => Ok(()),
        }
    }

    fn call(&mut self, export: &str) -> wasmtime::Result<()> {
        let function = self
            .instance
            .get_typed_func::<(), ()>(&mut self.store, export)
            .expect("validated to be a function () -> ()");
        function.call(&mut self.store, ())
    }

    fn respond(&mut self, entry: &Entry) -> Result<Response, (u16, String)> {
        match self.store.data_mut().response.take() {
            Some(response) => Ok(response),
            None if entry.context
                & (context::UPDATE | context::QUERY | context::REPLICATED_QUERY)
                == 0 =>
            {
                Ok(Response::None)
            }
            None => Err((
                code::DID_NOT_REPLY,
                "Canister did not produce a response".into(),
            )),
        }
    }

    fn limit_text(&self) -> String {
        format!(
            "Canister exceeded the limit of {} instructions for single message execution.",
            self.limit
        )
    }

    /// The code and text of a message that did not complete.
    fn classify(&mut self, error: &wasmtime::Error) -> (u16, String) {
        match error.downcast_ref::<HostTrap>() {
            Some(HostTrap::Refused { code, text }) => return (*code, text.clone()),
            Some(HostTrap::OutOfInstructions) => {
                return (code::INSTRUCTION_LIMIT_EXCEEDED, self.limit_text());
            }
            None => {}
        }
        let Some(trap) = error.downcast_ref::<Trap>() else {
            stop(error)
        };
        let depth = self
            .instance
            .get_global(&mut self.store, reserved::DEPTH)
            .expect("instrumentation exports it");
        let exhausted = depth
            .get(&mut self.store)
            .i32()
            .is_some_and(|left| left < 0);
        let reason = if exhausted {
            "stack overflow"
        } else {
            trap_text(*trap)
        };
        (code::TRAPPED, format!("Canister trapped: {reason}"))
    }

    fn fill_heap(&mut self, heap: &PagedMemory) {
        let Some(memory) = self.store.data().memory else {
            return;
        };
        let missing = (heap.pages().len() as u64).saturating_sub(memory.size(&self.store));
        memory
            .grow(&mut self.store, missing)
            .unwrap_or_else(|error| stop(&error));
        let zero = zero_page();
        let target = memory.data_mut(&mut self.store);
        // A fresh memory is zero already, and stays unallocated where nothing is written.
        for (target, page) in target
            .chunks_exact_mut(PAGE_BYTES)
            .zip(heap.pages())
            .filter(|(_, page)| !Arc::ptr_eq(page, &zero))
        {
            target.copy_from_slice(page.bytes());
        }
    }

    fn set_globals(&mut self, module: &Module, values: &[GlobalValue]) {
        assert_eq!(
            module.persistent_globals().len(),
            values.len(),
            "globals belong to the installed module"
        );
        for (name, value) in module.persistent_globals().iter().zip(values) {
            let value = match *value {
                GlobalValue::I32(value) => Val::I32(value),
                GlobalValue::I64(value) => Val::I64(value),
                GlobalValue::F32(bits) => Val::F32(bits),
                GlobalValue::F64(bits) => Val::F64(bits),
                GlobalValue::V128(bits) => Val::V128(V128::from(bits)),
            };
            let global = self
                .instance
                .get_global(&mut self.store, name)
                .expect("instrumentation exports it");
            global
                .set(&mut self.store, value)
                .expect("a mutable global of the type it was saved with");
        }
    }

    fn globals(&mut self, module: &Module) -> Vec<GlobalValue> {
        let names = module.persistent_globals().iter();
        let values = names.map(|name| {
            let global = self
                .instance
                .get_global(&mut self.store, name)
                .expect("instrumentation exports it");
            match global.get(&mut self.store) {
                Val::I32(value) => GlobalValue::I32(value),
                Val::I64(value) => GlobalValue::I64(value),
                Val::F32(bits) => GlobalValue::F32(bits),
                Val::F64(bits) => GlobalValue::F64(bits),
                Val::V128(value) => GlobalValue::V128(value.as_u128()),
                other => {
                    unreachable!("validation refuses mutable globals of reference types: {other:?}")
                }
            }
        });
        values.collect()
    }

    fn effects(mut self, state: &CanisterState, installed: &Installed, entry: &Entry) -> Effects {
        const DROPS_CHANGES: u8 = context::QUERY | context::REPLICATED_QUERY | context::INSPECT;
        let mut effects = unchanged(state, installed);
        effects.accepted = self.store.data().accepted;
        if entry.context & DROPS_CHANGES != 0 {
            return effects;
        }
        effects.globals = self.globals(&installed.module);
        effects.heap = match self.store.data().memory {
            Some(memory) => PagedMemory::of(memory.data(&self.store), &installed.heap),
            None => PagedMemory::default(),
        };
        let host = self.store.into_data();
        effects.stable = host.stable.finish();
        effects.certified_data = host.certified_data;
        effects.global_timer_ns = host.global_timer.1.then_some(host.global_timer.0);
        effects.sessions = host.sessions.into_changes();
        effects
    }
}

fn host(
    state: &CanisterState,
    module: &Module,
    call: &Call,
    environment: &Environment<'_>,
    entry: &Entry,
    limit: Instructions,
) -> Host {
    let method = match &call.entry {
        EntryPoint::Inspect(method) => method.clone(),
        _ => String::new(),
    };
    let certificate = environment
        .data_certificate
        .filter(|_| entry.context == context::QUERY);
    Host {
        context: entry.context,
        method,
        caller: call.caller,
        argument: call.argument.clone(),
        canister_id: state.id,
        controllers: state.controllers.clone(),
        cycles: state.cycles,
        version: state.version,
        time_ns: environment.time_ns,
        subnet_id: environment.subnet_id,
        root_key: environment.root_key.to_vec(),
        data_certificate: certificate.map(<[u8]>::to_vec),
        instruction_limit: limit,
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
        counter: None,
    }
}

/// The replica's word for a trap.
fn trap_text(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack overflow",
        Trap::MemoryOutOfBounds => "heap out of bounds",
        Trap::TableOutOfBounds => "table out of bounds",
        Trap::IndirectCallToNull => "indirect call to null",
        Trap::BadSignature => "indirect call signature mismatch",
        Trap::IntegerOverflow => "integer overflow",
        Trap::IntegerDivisionByZero => "integer division by 0",
        Trap::BadConversionToInteger => "failed to convert float to integer",
        Trap::UnreachableCodeReached => "unreachable",
        _ => "unknown trap",
    }
}

/// Ends the replica: the error is this machine's, and any result would differ from the others'.
fn stop(error: &wasmtime::Error) -> ! {
    match error.downcast_ref::<MachineFailure>() {
        Some(failure) => panic!("{failure}: {error:#}"),
        None => panic!("the Wasm engine failed: {error:#}"),
    }
}
