//! The kernels as imports of module `lockstep`.
//!
//! # Safety
//! Callers have checked lengths against shapes: the host reads and writes the slices passed, or traps.
use lockstep_numeric::WeightFormat;

mod raw {
    #[link(wasm_import_module = "lockstep")]
    unsafe extern "C" {
        pub(super) fn kernel_matmul_f32(
            a: *const f32,
            b: *const f32,
            out: *mut f32,
            m: usize,
            k: usize,
            n: usize,
        );
        pub(super) fn kernel_matmul_rows(
            format: i32,
            weights: *const u8,
            input: *const f32,
            out: *mut f32,
            batch: usize,
            rows: usize,
            columns: usize,
        );
        pub(super) fn kernel_rms_norm(
            input: *const f32,
            weight: *const f32,
            out: *mut f32,
            rows: usize,
            columns: usize,
            epsilon: f32,
        );
        pub(super) fn kernel_softmax(values: *mut f32, rows: usize, columns: usize);
        pub(super) fn kernel_silu_mul(gate: *mut f32, up: *const f32, count: usize);
        pub(super) fn kernel_add(accumulator: *mut f32, addend: *const f32, count: usize);
        pub(super) fn kernel_exp(values: *mut f32, count: usize);
    }
}

/// GGUF's number of a format, and 256 for INT8.
fn code(format: WeightFormat) -> i32 {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q5_0 => 6,
        WeightFormat::Q5_1 => 7,
        WeightFormat::Q8_0 => 8,
        WeightFormat::Q2_K => 10,
        WeightFormat::Q3_K => 11,
        WeightFormat::Q4_K => 12,
        WeightFormat::Q5_K => 13,
        WeightFormat::Q6_K => 14,
        WeightFormat::IQ4_NL => 20,
        WeightFormat::IQ4_XS => 23,
        WeightFormat::Bf16 => 30,
        WeightFormat::Int8 => 256,
        _ => panic!("no kernel for this format: {format}"),
    }
}

pub(super) fn matmul(a: &[f32], b: &[f32], (m, k, n): (usize, usize, usize), out: &mut [f32]) {
    // SAFETY: live slices of m x k, k x n and m x n floats.
    unsafe { raw::kernel_matmul_f32(a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), m, k, n) }
}

pub(super) fn matmul_rows(
    format: WeightFormat,
    weights: &[u8],
    input: &[f32],
    (batch, rows, columns): (usize, usize, usize),
    out: &mut [f32],
) {
    // SAFETY: live slices of rows x columns elements of the format, batch x columns and batch x rows floats.
    unsafe {
        raw::kernel_matmul_rows(
            code(format),
            weights.as_ptr(),
            input.as_ptr(),
            out.as_mut_ptr(),
            batch,
            rows,
            columns,
        );
    }
}

pub(super) fn rms_norm(input: &[f32], weight: &[f32], epsilon: f32, rows: usize, out: &mut [f32]) {
    let columns = weight.len();
    // SAFETY: live slices of rows x columns, columns, and rows x columns floats.
    unsafe {
        raw::kernel_rms_norm(
            input.as_ptr(),
            weight.as_ptr(),
            out.as_mut_ptr(),
            rows,
            columns,
            epsilon,
        );
    }
}

pub(super) fn softmax(values: &mut [f32], rows: usize, columns: usize) {
    // SAFETY: a live slice of rows x columns floats.
    unsafe { raw::kernel_softmax(values.as_mut_ptr(), rows, columns) }
}

pub(super) fn silu_mul(gate: &mut [f32], up: &[f32]) {
    // SAFETY: live slices of the same length.
    unsafe { raw::kernel_silu_mul(gate.as_mut_ptr(), up.as_ptr(), gate.len()) }
}

pub(super) fn add(accumulator: &mut [f32], addend: &[f32]) {
    // SAFETY: live slices of the same length.
    unsafe { raw::kernel_add(accumulator.as_mut_ptr(), addend.as_ptr(), accumulator.len()) }
}

pub(super) fn exp(values: &mut [f32]) {
    // SAFETY: a live slice.
    unsafe { raw::kernel_exp(values.as_mut_ptr(), values.len()) }
}
