//! An instance of a canister's module: prepared, run, and read out.
use crate::{
    engine::{Engine, Instructions},
    gate::Gate,
    heap::{Snapshot, View},
    host::{Host, HostTrap, MachineFailure, code},
    instrument::reserved,
    meter::Meter,
    pacer::Pace,
    state::GlobalValue,
};
use wasmtime::{AsContextMut, Global, Instance, Store, Trap, V128, Val, WasmParams};

/// One execution's instance and what is behind its imports.
pub(crate) struct Running {
    pub(crate) store: Store<Host>,
    instance: Instance,
    meter: Meter,
    limit: Instructions,
}

impl Running {
    /// An instance of the host's module with `limit` instructions to spend, in slices or at once; heap and
    /// globals are those of a fresh one.
    pub(crate) fn new(
        engine: &Engine,
        host: Host,
        limit: Instructions,
        pace: Option<&Pace>,
    ) -> Self {
        let limit = limit.min(i64::MAX.cast_unsigned());
        let mut store = Store::new(engine.wasm(), host);
        store.limiter(|host| host);
        let module = store.data().module.clone();
        let instance = module
            .code()
            .instantiate(&mut store)
            .unwrap_or_else(|error| stop(&error));
        let pages = instance.get_memory(&mut store, reserved::GATE);
        let pages = pages.expect("instrumentation exports it").data_ptr(&store);
        let meter = Meter {
            counter: global(&instance, &mut store, reserved::COUNTER),
            cursor: global(&instance, &mut store, reserved::CURSOR),
            gate: Gate::new(pages, limit, pace.cloned(), &mut store),
        };
        let memory = instance.get_memory(&mut store, reserved::MEMORY);
        let host = store.data_mut();
        (host.meter, host.memory) = (Some(meter.clone()), memory);
        Self {
            store,
            instance,
            meter,
            limit,
        }
    }

    /// Puts a heap in the place of the instance's memory, if it has one.
    pub(crate) fn map(&mut self, engine: &Engine, heap: Snapshot) -> Option<View> {
        let memory = self.store.data().memory?;
        let slot = engine.slots().find(memory.data_ptr(&self.store));
        let view = View::new(slot.expect("the engine's memories are slots"), heap);
        // The engine learns the size.
        memory
            .grow(&mut self.store, 0)
            .unwrap_or_else(|error| stop(&error.context(MachineFailure)));
        Some(view)
    }

    pub(crate) fn call<P: WasmParams>(
        &mut self,
        export: &str,
        arguments: P,
    ) -> wasmtime::Result<()> {
        let function = self
            .instance
            .get_typed_func::<P, ()>(&mut self.store, export)
            .expect("validated to be a function of this type");
        function.call(&mut self.store, arguments)
    }

    /// Instructions used by a call that ended so, and whether they were more than there were: the last run
    /// of code may cost more than was left.
    pub(crate) fn used(&mut self, result: &wasmtime::Result<()>) -> (Instructions, bool) {
        let gate = &self.meter.gate;
        if gate.has_failed() {
            stop(&wasmtime::Error::new(MachineFailure));
        }
        let trap = result
            .as_ref()
            .err()
            .and_then(|error| error.downcast_ref::<Trap>());
        // Other traps come in the middle of code, whose count is lost.
        let used = match trap {
            None | Some(Trap::UnreachableCodeReached) => self.meter.used(&mut self.store),
            Some(_) => gate.round(self.meter.taken(&mut self.store)),
        };
        gate.settle(used)
    }

    /// The code and text of an execution that did not complete.
    pub(crate) fn classify(&mut self, error: &wasmtime::Error) -> (u16, String) {
        match error.downcast_ref::<HostTrap>() {
            Some(HostTrap::Refused { code, text }) => return (*code, text.clone()),
            Some(HostTrap::OutOfInstructions) => return self.exceeded(),
            None => {}
        }
        let Some(trap) = error.downcast_ref::<Trap>() else {
            stop(error)
        };
        let exhausted = depth(&self.instance, &mut self.store) < 0;
        let reason = if exhausted {
            "stack overflow"
        } else {
            trap_text(*trap)
        };
        (code::TRAPPED, format!("Canister trapped: {reason}"))
    }

    /// The code and text of an execution that used up its instructions, or was cancelled.
    pub(crate) fn exceeded(&self) -> (u16, String) {
        if self.meter.gate.is_cancelled() {
            let text = "Canister execution was cancelled.".to_owned();
            return (code::INSTRUCTION_LIMIT_EXCEEDED, text);
        }
        let text = format!(
            "Canister exceeded the limit of {} instructions for single message execution.",
            self.limit
        );
        (code::INSTRUCTION_LIMIT_EXCEEDED, text)
    }

    pub(crate) fn set_depth(&mut self, units: i32) {
        let depth = global(&self.instance, &mut self.store, reserved::DEPTH);
        set(&depth, &mut self.store, Val::I32(units));
    }

    pub(crate) fn set_globals(&mut self, values: &[GlobalValue]) {
        let module = self.store.data().module.clone();
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
            let global = global(&self.instance, &mut self.store, name);
            set(&global, &mut self.store, value);
        }
    }

    pub(crate) fn globals(&mut self) -> Vec<GlobalValue> {
        let module = self.store.data().module.clone();
        let names = module.persistent_globals().iter();
        names
            .map(|name| {
                let global = global(&self.instance, &mut self.store, name);
                value(global.get(&mut self.store))
            })
            .collect()
    }
}

/// The value of a mutable global.
pub(crate) fn value(value: Val) -> GlobalValue {
    match value {
        Val::I32(value) => GlobalValue::I32(value),
        Val::I64(value) => GlobalValue::I64(value),
        Val::F32(bits) => GlobalValue::F32(bits),
        Val::F64(bits) => GlobalValue::F64(bits),
        Val::V128(value) => GlobalValue::V128(value.as_u128()),
        other => unreachable!("validation refuses mutable globals of reference types: {other:?}"),
    }
}

fn global(instance: &Instance, store: impl AsContextMut, name: &str) -> Global {
    instance
        .get_global(store, name)
        .expect("instrumentation exports it")
}

/// The value of a global.
pub(crate) fn get(global: &Global, store: impl AsContextMut) -> Val {
    global.get(store)
}

/// Sets a mutable global.
pub(crate) fn set(global: &Global, store: impl AsContextMut, value: Val) {
    global
        .set(store, value)
        .expect("a mutable global of this type");
}

/// Stack units left.
fn depth(instance: &Instance, mut store: impl AsContextMut) -> i32 {
    let depth = global(instance, &mut store, reserved::DEPTH);
    depth.get(store).i32().expect("the depth is an i32")
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
pub(crate) fn stop(error: &wasmtime::Error) -> ! {
    match error.downcast_ref::<MachineFailure>() {
        Some(failure) => panic!("{failure}: {error:#}"),
        None => panic!("the Wasm engine failed: {error:#}"),
    }
}
