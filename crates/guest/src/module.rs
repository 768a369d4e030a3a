//! What the module exports and imports.
//!
//! # Design
//! One input, one model and one check at a time. A host asks for room with [`input`], writes there, and
//! calls the function that takes the input. A call that fails returns 0, and [`message`] says why.
#![allow(unsafe_code)] // attributes that keep an export's name, and the buffer getrandom passes

use lockstep_model::{
    Digest, Model,
    selfcheck::{Configuration, SelfCheck},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{cell::RefCell, error::Error, mem, num::NonZeroUsize, sync::Arc};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    /// Hears the digest of a row of an operation; rows of one position come in order of operations.
    safe fn observe(position: u32, operation: u32, digest: u64);
}

#[derive(Default)]
struct State {
    input: Vec<u8>,
    model: Option<Arc<Model>>,
    check: Option<SelfCheck>,
    digest: Digest,
    message: String,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Room for an input of `bytes` bytes; 0 when the memory has not so much.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn input(bytes: usize) -> *mut u8 {
    STATE.with_borrow_mut(|state| {
        state.input = Vec::new();
        if state.input.try_reserve_exact(bytes).is_err() {
            return std::ptr::null_mut();
        }
        state.input.resize(bytes, 0);
        state.input.as_mut_ptr()
    })
}

/// Opens the input, a GGUF file.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn open() -> u32 {
    attempt(|state| {
        let file = mem::take(&mut state.input);
        state.model = Some(Model::from_bytes(&file)?);
        Ok(())
    })
}

/// Prepares a check of the model: the input is a prompt of tokens, little-endian, behind which `tokens`
/// are generated.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn prepare(tokens: usize) -> u32 {
    attempt(|state| {
        let input = mem::take(&mut state.input);
        let prompt = input.as_chunks().0.iter();
        let prompt = prompt.map(|&token| u32::from_le_bytes(token)).collect();
        let model = state.model.clone().ok_or("no model is open")?;
        state.check = Some(SelfCheck::new(model, prompt, tokens)?);
        Ok(())
    })
}

/// The module's instruction sets: bit i stands for that of number i in `Isa::ALL`.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn instruction_sets() -> u32 {
    let available = Isa::available();
    let numbered = (0u32..).zip(Isa::ALL);
    numbered
        .filter(|(_, isa)| available.contains(isa))
        .map(|(number, _)| 1 << number)
        .sum()
}

/// Runs the check and keeps the digest of its outcome.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn outcome(isa: usize, prefill_chunk: usize, batch: usize) -> u32 {
    attempt(|state| {
        let check = state.check.as_ref().ok_or("no check is prepared")?;
        let outcome = check.outcome(&configuration(isa, prefill_chunk, batch)?)?;
        state.digest = outcome.digest();
        Ok(())
    })
}

/// Runs the check and lets the host observe every row of every operation.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn trace(isa: usize, prefill_chunk: usize, batch: usize) -> u32 {
    attempt(|state| {
        let check = state.check.as_ref().ok_or("no check is prepared")?;
        let trace = check.trace(&configuration(isa, prefill_chunk, batch)?)?;
        for (position, operation, digest) in trace.rows() {
            observe(position as u32, operation as u32, digest);
        }
        Ok(())
    })
}

/// Address of the 32 bytes of the last outcome's digest.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn digest() -> *const u8 {
    STATE.with_borrow(|state| state.digest.0.as_ptr())
}

/// Address of the text that says why the last call failed.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn message() -> *const u8 {
    STATE.with_borrow(|state| state.message.as_ptr())
}

/// Bytes of that text.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn message_bytes() -> usize {
    STATE.with_borrow(|state| state.message.len())
}

/// Runs `action` on the state: 1, or 0 with a message.
fn attempt(action: impl FnOnce(&mut State) -> Result<()>) -> u32 {
    STATE.with_borrow_mut(|state| match action(state) {
        Ok(()) => 1,
        Err(error) => {
            state.message = error.to_string();
            0
        }
    })
}

fn configuration(isa: usize, prefill_chunk: usize, batch: usize) -> Result<Configuration> {
    let isa = *Isa::ALL.get(isa).ok_or("no such instruction set")?;
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    Ok(Configuration {
        kernels: Arc::new(Kernels::new(isa, pool)?),
        prefill_chunk: NonZeroUsize::new(prefill_chunk).ok_or("the prefill chunk is 0")?,
        batch: NonZeroUsize::new(batch).ok_or("the batch is 0")?,
    })
}

/// Fills with zeros: seeds of hash tables, on which nothing may depend.
// SAFETY: no other symbol of the module has this name, and the signature is the one getrandom declares.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(
    buffer: *mut u8,
    bytes: usize,
) -> std::result::Result<(), getrandom::Error> {
    // SAFETY: the caller passes a buffer of `bytes` bytes.
    unsafe { buffer.write_bytes(0, bytes) };
    Ok(())
}
