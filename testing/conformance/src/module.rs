//! What the guest exports as a Wasm module.
#![allow(unsafe_code)] // the attribute that keeps an export's name

use std::num::NonZeroUsize;

use crate::Inputs;
use lockstep_numeric::Isa;
use lockstep_numeric::selftest::cases;

/// Address of the 32 bytes of a digest: case `case` of `cases()`, instruction set `isa` of `Isa::ALL`, the fields of
/// [`Inputs`]. 0 when the instruction set is missing.
// SAFETY: no other symbol of the module has this name.
#[unsafe(no_mangle)]
extern "C" fn digest(isa: u32, case: u32, first: u64, end: u64, words_max: u64) -> *const u8 {
    let Ok(kernels) = crate::kernels(Isa::ALL[isa as usize], NonZeroUsize::MIN) else {
        return std::ptr::null();
    };
    let inputs = Inputs {
        first,
        end,
        words_max,
    };
    let digest = crate::digest(
        cases().nth(case as usize).expect("a case"),
        &kernels,
        inputs,
    );
    // Never freed: the engine reads it, and an instance lives for one test.
    Box::leak(Box::new(*digest.as_bytes())).as_ptr()
}
