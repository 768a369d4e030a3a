//! The host of `crates/guest`, the self-check as a Wasm module.
//!
//! # Design
//! The engine is left as it comes: it does not make NaNs canonical, the kernels do.

use super::plan::Planned;
use crate::{
    embedded::GUEST_WASM,
    error::{Failure, chain},
    prepare,
};
use anyhow::Result;
use lockstep_model::{
    Digest, Model, file,
    selfcheck::{SelfCheck, Trace},
};
use lockstep_numeric::Isa;
use std::path::Path;
use wasmtime::{Caller, Engine, Instance, Linker, Memory, Module, Store, WasmParams};

/// Bytes of a 32-bit address space.
const MEMORY_BYTES: usize = 4 << 30;
/// Bytes for everything but the file and the packed weights: tokenizer, caches, activations.
const OTHER_BYTES: usize = 512 << 20;

/// The module with a model in its memory.
pub(super) struct Guest {
    store: Store<Trace>,
    instance: Instance,
    memory: Memory,
    instruction_sets: Vec<Isa>,
}

/// A fault of the module's: a trap, a missing export.
fn fault(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("the Wasm module failed: {error:?}")
}

impl Guest {
    /// Opens the model in a module, or says why there is no room for it.
    pub(super) fn open(path: &Path, model: &Model) -> Result<Result<Self, String>> {
        if prepare::is_prepared(path) {
            return Ok(Err("the module opens no prepared files".to_owned()));
        }
        let map = file::map(path).map_err(|error| Failure::environment(chain(error)))?;
        let needed = map.len() + model.resident_bytes() + OTHER_BYTES;
        if needed > MEMORY_BYTES {
            return Ok(Err(format!(
                "the model's file and packed weights do not fit a 32-bit memory: {needed} bytes"
            )));
        }
        let mut guest = Self::instantiate().map_err(fault)?;
        if !guest.input(&map)? {
            return Ok(Err(format!(
                "the module's memory has no room for the model's file: {} bytes",
                map.len()
            )));
        }
        guest.call("open", ())?;
        Ok(Ok(guest))
    }

    fn instantiate() -> wasmtime::Result<Self> {
        let engine = Engine::default();
        let module = Module::new(&engine, GUEST_WASM)?;
        let mut linker = Linker::new(&engine);
        let observe =
            |mut caller: Caller<'_, Trace>, position: u32, operation: u32, digest: u64| {
                let trace = caller.data_mut();
                trace.add(position as usize, operation as usize, digest);
            };
        linker.func_wrap("host", "observe", observe)?;
        let mut store = Store::new(&engine, Trace::default());
        let instance = linker.instantiate(&mut store, &module)?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("it exports no memory"))?;
        let bits = instance
            .get_typed_func::<(), u32>(&mut store, "instruction_sets")?
            .call(&mut store, ())?;
        let instruction_sets = (0..)
            .zip(Isa::ALL)
            .filter(|(number, _)| bits >> number & 1 == 1)
            .map(|(_, isa)| isa)
            .collect();
        Ok(Self {
            store,
            instance,
            memory,
            instruction_sets,
        })
    }

    /// The module's instruction sets, slowest first.
    pub(super) fn instruction_sets(&self) -> &[Isa] {
        &self.instruction_sets
    }

    /// The digest of a run's outcome.
    pub(super) fn outcome(&mut self, check: &SelfCheck, run: &Planned) -> Result<Digest> {
        self.check("outcome", check, run)?;
        let address = self.value("digest")?;
        let mut digest = Digest::default();
        self.memory
            .read(&self.store, address, &mut digest.0)
            .map_err(|error| fault(error.into()))?;
        Ok(digest)
    }

    /// What each operation of a run gives.
    pub(super) fn trace(&mut self, check: &SelfCheck, run: &Planned) -> Result<Trace> {
        *self.store.data_mut() = Trace::default();
        self.check("trace", check, run)?;
        Ok(std::mem::take(self.store.data_mut()))
    }

    /// Calls a function that runs a check.
    fn check(&mut self, function: &str, check: &SelfCheck, run: &Planned) -> Result<()> {
        let prompt: Vec<u8> = check
            .prompt()
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        if !self.input(&prompt)? {
            return Err(Failure::environment("the Wasm module's memory is full").into());
        }
        self.call("prepare", (check.tokens() as u32,))?;
        let isa = Isa::ALL.iter().position(|isa| *isa == run.isa);
        let isa = isa.expect("all instruction sets are listed") as u32;
        self.call(function, (isa, run.chunk as u32, run.batch as u32))
    }

    /// Hands bytes over; false when the module has no room for them.
    fn input(&mut self, bytes: &[u8]) -> Result<bool> {
        let length = u32::try_from(bytes.len())?;
        let address = self
            .instance
            .get_typed_func::<u32, u32>(&mut self.store, "input")
            .and_then(|input| input.call(&mut self.store, length))
            .map_err(fault)?;
        if address == 0 {
            return Ok(false);
        }
        self.memory
            .write(&mut self.store, address as usize, bytes)
            .map_err(|error| fault(error.into()))?;
        Ok(true)
    }

    /// Calls a function that gives 1, or 0 with a message.
    fn call(&mut self, function: &str, arguments: impl WasmParams) -> Result<()> {
        let done = self
            .instance
            .get_typed_func::<_, u32>(&mut self.store, function)
            .and_then(|function| function.call(&mut self.store, arguments))
            .map_err(fault)?;
        if done == 1 {
            return Ok(());
        }
        let (address, bytes) = (self.value("message")?, self.value("message_bytes")?);
        let mut message = vec![0; bytes];
        self.memory
            .read(&self.store, address, &mut message)
            .map_err(|error| fault(error.into()))?;
        let message = String::from_utf8_lossy(&message);
        Err(Failure::user(format!("in the Wasm module: {message}")).into())
    }

    /// An address or a length that the module gives.
    fn value(&mut self, function: &str) -> Result<usize> {
        let value = self
            .instance
            .get_typed_func::<(), u32>(&mut self.store, function)
            .and_then(|function| function.call(&mut self.store, ()))
            .map_err(fault)?;
        Ok(value as usize)
    }
}
