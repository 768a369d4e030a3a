//! Instrumented programs against what they must do.
mod counts;
mod generate;
mod nans;
mod pauses;

use super::{DEPTH_UNITS, Plan, encode, global_export, nan::Sinks, reserved};
use crate::{engine::configuration, host::ImportSets, validate::validate};
use wasmparser::Operator;
use wasmtime::{Engine, Global, Instance, Memory, Module, Store, Val};

/// An engine, canonical by the compiler's switch or not.
fn engine(switch: bool) -> Engine {
    let mut config = configuration();
    config.cranelift_nan_canonicalization(switch);
    Engine::new(&config).expect("a valid configuration")
}

/// The module with sinks as `adjust` leaves them.
fn instrumented(
    engine: &Engine,
    wasm: &[u8],
    adjust: fn(&[Operator<'_>], &mut Sinks),
) -> wasmtime::Result<Module> {
    let facts = validate(wasm, &ImportSets::new(engine))?;
    let plan = Plan {
        facts: &facts,
        counter: facts.globals.len() as u32,
        depth: facts.globals.len() as u32 + 1,
        cursor: facts.globals.len() as u32 + 2,
        gate: facts.memory.iter().len() as u32,
        adjust,
    };
    Module::from_binary(engine, &encode(wasm, &plan)?)
}

struct Running {
    store: Store<()>,
    instance: Instance,
}

impl Running {
    fn new(module: &Module, memory: &[u8]) -> Self {
        let mut store = Store::new(module.engine(), ());
        let instance = Instance::new(&mut store, module, &[]).expect("imports nothing");
        let mut running = Self { store, instance };
        let place = running.memory();
        place.write(&mut running.store, 0, memory).expect("fits");
        running
    }

    fn run(&mut self) -> wasmtime::Result<()> {
        let run = self
            .instance
            .get_typed_func::<(), ()>(&mut self.store, "run")?;
        run.call(&mut self.store, ())
    }

    fn memory(&mut self) -> Memory {
        let memory = self.instance.get_memory(&mut self.store, reserved::MEMORY);
        memory.expect("exported")
    }

    fn global(&mut self, name: &str) -> Global {
        let global = self.instance.get_global(&mut self.store, name);
        global.expect("exported")
    }

    fn set(&mut self, name: &str, value: Val) {
        let global = self.global(name);
        global.set(&mut self.store, value).expect("of this type");
    }

    /// Memory and globals, bit for bit.
    fn bits(&mut self) -> (Vec<u8>, Vec<u128>) {
        let memory = self.memory();
        let memory = memory.data(&self.store)[..generate::BYTES].to_vec();
        let globals = (0..generate::TYPES.len() as u32).map(|index| {
            let global = self.global(&global_export(index));
            match global.get(&mut self.store) {
                Val::I32(value) => value.cast_unsigned().into(),
                Val::I64(value) => value.cast_unsigned().into(),
                Val::F32(bits) => bits.into(),
                Val::F64(bits) => bits.into(),
                Val::V128(value) => value.as_u128(),
                other => unreachable!("no other globals: {other:?}"),
            }
        });
        let globals = globals.collect();
        (memory, globals)
    }

    fn set_counter(&mut self, instructions: i64) {
        self.set(reserved::COUNTER, Val::I64(instructions));
        self.set(reserved::DEPTH, Val::I32(DEPTH_UNITS));
    }

    fn counter(&mut self) -> i64 {
        let counter = self.global(reserved::COUNTER).get(&mut self.store);
        counter.i64().expect("the counter is an i64")
    }
}
