//! The kernels as code of this module, on one thread.
use lockstep_numeric::{Isa, Kernels, Pool, StoredRows, WeightFormat, elementary::Function};
use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
};

static KERNELS: LazyLock<Kernels> = LazyLock::new(|| {
    let best = Isa::available().pop().unwrap_or(Isa::Portable);
    Kernels::new(best, Arc::new(Pool::new(NonZeroUsize::MIN))).expect("it is available")
});

pub(super) fn matmul(a: &[f32], b: &[f32], shape: (usize, usize, usize), out: &mut [f32]) {
    KERNELS.matmul_f32(a, b, shape, out);
}

pub(super) fn matmul_rows(
    format: WeightFormat,
    weights: &[u8],
    input: &[f32],
    (batch, rows, columns): (usize, usize, usize),
    out: &mut [f32],
) {
    // As the host, which does not look at weights without a use.
    if out.is_empty() {
        return;
    }
    let weights =
        StoredRows::new(format, rows, columns, weights).unwrap_or_else(|error| panic!("{error}"));
    KERNELS.matmul_stored(&weights, input, batch, out);
}

pub(super) fn rms_norm(input: &[f32], weight: &[f32], epsilon: f32, rows: usize, out: &mut [f32]) {
    KERNELS.rms_norm(input, weight, epsilon, rows, out);
}

pub(super) fn softmax(values: &mut [f32], _rows: usize, columns: usize) {
    KERNELS.softmax_rows(values, columns);
}

pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    KERNELS.silu_mul(gate, up);
}

pub(super) fn add(accumulator: &mut [f32], addend: &[f32]) {
    KERNELS.add(accumulator, addend);
}

pub(super) fn exp(values: &mut [f32]) {
    KERNELS.apply(Function::Exp, values);
}
