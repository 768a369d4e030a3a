//! The elementary functions.

use crate::selftest::Generator;
use crate::{Kernels, elementary};

pub(super) fn exp(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 100.0, elementary::exp)
}

pub(super) fn sin(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 100.0, elementary::sin)
}

pub(super) fn cos(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 100.0, elementary::cos)
}

pub(super) fn log(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 100.0, elementary::log)
}

pub(super) fn tanh(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 10.0, elementary::tanh)
}

pub(super) fn erf(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    unary(generator, 5.0, elementary::erf)
}

/// Inputs of any kind and ordinary ones up to `limit`, in turn.
fn unary(generator: &mut Generator, limit: f32, function: fn(f32) -> f32) -> Vec<u32> {
    (0..4000)
        .map(|index| {
            let x = if index % 2 == 0 {
                generator.any()
            } else {
                generator.ordinary(limit)
            };
            function(x).to_bits()
        })
        .collect()
}
