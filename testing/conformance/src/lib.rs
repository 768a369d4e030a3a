//! Digests of every kernel, computed on another target and compared with this one's.
//!
//! # Design
//! This crate is the guest: built for another target it computes [`digest`]s there, as a program that prints them or, on
//! wasm32, as a module that exports one function. Its tests build it for each target, run it under an emulator or in a
//! Wasm engine, and compare with `vectors/numeric.toml` and with the portable kernels of the machine they run on.
#![deny(unsafe_code)]

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::selftest::Case;
use lockstep_numeric::{Isa, IsaError, Kernels, Pool};

#[cfg(target_family = "wasm")]
mod module;

/// The kernels of an instruction set on a pool of their own.
///
/// # Errors
/// When this machine lacks the instruction set.
pub fn kernels(isa: Isa, threads: NonZeroUsize) -> Result<Kernels, IsaError> {
    Kernels::new(isa, Arc::new(Pool::new(threads)))
}

/// Which inputs a digest covers.
#[derive(Clone, Copy, Debug)]
pub struct Inputs {
    /// The first seed.
    pub first: u64,
    /// The seed after the last.
    pub end: u64,
    /// No further seed is begun after so many words of output: cases differ in size a hundredfold.
    pub words_max: u64,
}

/// BLAKE3 of a case's outputs for the seeds, in their order. For seeds 0 to 15 it is the frozen digest.
#[must_use]
pub fn digest(case: &Case, kernels: &Kernels, inputs: Inputs) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut words = 0;
    for seed in inputs.first..inputs.end {
        if words >= inputs.words_max {
            break;
        }
        let output = case.output(kernels, seed);
        words += output.len() as u64;
        for word in output {
            hasher.update(&word.to_le_bytes());
        }
    }
    hasher.finalize()
}
