//! An instance of a canister's module: prepared, run, and read out.
use crate::{
    backtrace,
    engine::{Engine, Instructions},
    gate::Gate,
    heap::{ImageId, Slot, Snapshot, View},
    host::{Failure, HEAP_LEAF_CHANGED, Host, HostTrap, MachineFailure, Message, code},
    instrument::{DEPTH_UNITS, reserved},
    meter::Meter,
    pacer::Pace,
    state::GlobalValue,
};
use std::sync::Arc;
use wasmtime::{AsContextMut, Global, Memory, Store, Table, Trap, V128, Val, WasmParams};

/// An instance that does not run: no message behind its imports, nothing in its memory.
pub(crate) struct Instance {
    store: Store<Host>,
    parts: Parts,
}

/// What is reached in an instance.
struct Parts {
    instance: wasmtime::Instance,
    counter: Global,
    cursor: Global,
    /// The pages of the gate.
    gate: Memory,
    /// Which of them is open.
    gate_open: Option<usize>,
    depth: Global,
    /// Those that live on between messages.
    globals: Vec<Global>,
    memory: Option<(Memory, Arc<Slot>)>,
}

/// One execution's instance and what is behind its imports.
pub(crate) struct Running {
    pub(crate) store: Store<Host>,
    parts: Parts,
    meter: Meter,
    limit: Instructions,
    /// The backtrace that the error's text leaves out.
    pub(crate) hidden_backtrace: String,
}

impl Running {
    /// An instance of the message's module with `limit` instructions to spend, with the heap and the
    /// globals of an installed canister.
    pub(crate) fn new(
        engine: &Engine,
        message: Message,
        limit: Instructions,
        pace: Option<&Pace>,
        globals: &[GlobalValue],
        heap: Snapshot,
    ) -> Self {
        let id = message.module.id();
        let kept = engine
            .instances()
            .and_then(|kept| kept.take(id, heap.image()));
        let instance = match kept {
            Some(mut instance) => {
                *instance.store.data_mut() = Host::of(message);
                instance
            }
            None => Instance::new(engine, message),
        };
        let mut running = Self::of(instance, limit, pace, heap);
        running.set_globals(globals);
        running
    }

    /// The same with the globals that the module begins with.
    pub(crate) fn installing(
        engine: &Engine,
        message: Message,
        limit: Instructions,
        pace: Option<&Pace>,
        heap: Snapshot,
    ) -> Self {
        Self::of(Instance::new(engine, message), limit, pace, heap)
    }

    fn of(instance: Instance, limit: Instructions, pace: Option<&Pace>, heap: Snapshot) -> Self {
        let Instance { mut store, parts } = instance;
        let limit = limit.min(i64::MAX.cast_unsigned());
        let pages = parts.gate.data_ptr(&store);
        let meter = Meter {
            counter: parts.counter,
            cursor: parts.cursor,
            gate: Gate::new(pages, parts.gate_open, limit, pace.cloned(), &mut store),
        };
        let mut running = Self {
            store,
            parts,
            meter,
            limit,
            hidden_backtrace: String::new(),
        };
        running.map(heap);
        let store = &mut running.store;
        // Traps leave them as they were.
        set(&running.parts.counter, &mut *store, Val::I64(0));
        let cursor = running.meter.gate.cursor();
        set(&running.parts.cursor, &mut *store, Val::I32(cursor));
        set(&running.parts.depth, &mut *store, Val::I32(DEPTH_UNITS));
        let memory = running.parts.memory.as_ref().map(|(memory, _)| *memory);
        let message = store.data_mut();
        (message.meter, message.memory) = (Some(running.meter.clone()), memory);
        running
    }

    /// Puts a heap in the place of the instance's memory, if it has one.
    fn map(&mut self, heap: Snapshot) {
        let Some((memory, slot)) = &self.parts.memory else {
            return;
        };
        let view = View::new(Arc::clone(slot), heap);
        // The engine learns the size.
        memory
            .grow(&mut self.store, 0)
            .unwrap_or_else(|error| stop(&error.context(MachineFailure)));
        self.store.data_mut().view = Some(view);
    }

    /// Hands out what the message has done and keeps the instance for the next one. Whoever wants it next
    /// finds its memory's addresses free: `read` has done with them.
    pub(crate) fn end<T>(mut self, read: impl FnOnce(Box<Message>) -> T) -> T {
        let message = self.store.data_mut().take();
        let engine = message.engine.clone();
        // Until the instance is kept, lest it outlive the module.
        let module = Arc::clone(&message.module);
        let result = read(message);
        if let (true, Some(instances)) = (module.has_reusable_instances(), engine.instances()) {
            let (store, mut parts) = (self.store, self.parts);
            parts.gate_open = self.meter.gate.open();
            instances.keep(module.id(), Instance { store, parts });
        }
        result
    }

    pub(crate) fn call<P: WasmParams>(
        &mut self,
        export: &str,
        arguments: P,
    ) -> wasmtime::Result<()> {
        let function = self
            .parts
            .instance
            .get_typed_func::<P, ()>(&mut self.store, export)
            .expect("validated to be a function of this type");
        function.call(&mut self.store, arguments)
    }

    /// The module's first table, if it has one.
    pub(crate) fn table(&mut self) -> Option<Table> {
        self.parts
            .instance
            .get_table(&mut self.store, reserved::TABLE)
    }

    /// Charges for what the message has changed in its heap. [`Self::used`] tells if that was more than there
    /// was.
    pub(crate) fn charge_changes(&mut self) {
        if let Some(view) = &mut self.store.data_mut().view {
            let cost = view.changed_leaves() * HEAP_LEAF_CHANGED;
            self.meter.charge(&mut self.store, cost);
        }
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

    /// The code and text of an execution that did not complete, with the backtrace if the caller may see it.
    pub(crate) fn classify(&mut self, error: &wasmtime::Error) -> (u16, String) {
        let Failure { code, text, frames } = self.failure(error);
        // As on the replica, which tells where code trapped, and nothing more where it broke a rule.
        if !matches!(code, code::TRAPPED | code::CALLED_TRAP) {
            return (code, text);
        }
        let host = self.store.data();
        let backtrace = backtrace::text(&frames, host.module.function_names());
        if host.shows_backtrace {
            return (code, text + &backtrace);
        }
        self.hidden_backtrace = backtrace;
        (code, text)
    }

    /// Why an execution did not complete.
    pub(crate) fn failure(&mut self, error: &wasmtime::Error) -> Failure {
        let mut frames = backtrace::frames(error, self.store.data().module.functions());
        match error.downcast_ref::<HostTrap>() {
            Some(HostTrap::Refused { code, text }) => {
                let (code, text) = (*code, text.clone());
                return Failure { code, text, frames };
            }
            Some(HostTrap::Task(task)) => {
                let mut failure = task.clone();
                failure.frames.append(&mut frames);
                return failure;
            }
            Some(HostTrap::OutOfInstructions) => return self.exhausted(),
            None => {}
        }
        let Some(trap) = error.downcast_ref::<Trap>() else {
            stop(error)
        };
        let depth = self.parts.depth.get(&mut self.store).i32();
        let exhausted = depth.expect("the depth is an i32") < 0;
        let reason = if exhausted {
            "stack overflow"
        } else {
            trap_text(*trap)
        };
        Failure {
            code: code::TRAPPED,
            text: format!("Canister trapped: {reason}"),
            frames,
        }
    }

    /// The failure of an execution that used up its instructions.
    pub(crate) fn exhausted(&self) -> Failure {
        let (code, text) = self.exceeded();
        let frames = Vec::new();
        Failure { code, text, frames }
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
        set(&self.parts.depth, &mut self.store, Val::I32(units));
    }

    fn set_globals(&mut self, values: &[GlobalValue]) {
        assert_eq!(
            self.parts.globals.len(),
            values.len(),
            "globals belong to the installed module"
        );
        for (global, value) in self.parts.globals.iter().zip(values) {
            let value = match *value {
                GlobalValue::I32(value) => Val::I32(value),
                GlobalValue::I64(value) => Val::I64(value),
                GlobalValue::F32(bits) => Val::F32(bits),
                GlobalValue::F64(bits) => Val::F64(bits),
                GlobalValue::V128(bits) => Val::V128(V128::from(bits)),
            };
            set(global, &mut self.store, value);
        }
    }

    pub(crate) fn globals(&mut self) -> Vec<GlobalValue> {
        let globals = self.parts.globals.iter();
        globals
            .map(|global| value(global.get(&mut self.store)))
            .collect()
    }
}

impl Instance {
    /// The image that is mapped in its memory.
    pub(crate) fn image(&self) -> Option<ImageId> {
        let (_, slot) = self.parts.memory.as_ref()?;
        slot.image()
    }

    /// Made for a message; memory and globals are those the module begins with.
    fn new(engine: &Engine, message: Message) -> Self {
        let mut store = Store::new(engine.wasm(), Host::of(message));
        store.limiter(|host| host);
        let module = Arc::clone(&store.data().module);
        let instance = module
            .code()
            .instantiate(&mut store)
            .unwrap_or_else(|error| stop(&error));
        let mut global = |name: &str| {
            instance
                .get_global(&mut store, name)
                .expect("instrumentation exports it")
        };
        let (counter, cursor) = (global(reserved::COUNTER), global(reserved::CURSOR));
        let depth = global(reserved::DEPTH);
        let names = module.persistent_globals().iter();
        let globals = names.map(|name| global(name)).collect();
        let gate = instance.get_memory(&mut store, reserved::GATE);
        let gate = gate.expect("instrumentation exports it");
        let memory = instance.get_memory(&mut store, reserved::MEMORY);
        let memory = memory.map(|memory| {
            let slot = engine.slots().find(memory.data_ptr(&store));
            (memory, slot.expect("the engine's memories are slots"))
        });
        let parts = Parts {
            instance,
            counter,
            cursor,
            gate,
            gate_open: None,
            depth,
            globals,
            memory,
        };
        Self { store, parts }
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
