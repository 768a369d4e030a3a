//! The reference kernels: contract 1 word by word, in plain Rust.

pub(crate) mod attention;
mod matmul;
mod row;

use attention::{scores_f16_f32, values_f16_f32};
use matmul::{matmul_f32_f32, matmul_q4_1_f32, matmul_q8_0_f32};
pub(crate) use row::softmax_f32_f32;
use row::{quantize_f32_i8, rms_norm_f32_f32, silu_mul_f32_f32};

use crate::arch::KernelTable;

pub(crate) static TABLE: KernelTable = KernelTable {
    quantize_f32_i8,
    matmul_q8_0_f32,
    matmul_q4_1_f32,
    matmul_f32_f32,
    rms_norm_f32_f32,
    scores_f16_f32,
    softmax_f32_f32,
    values_f16_f32,
    silu_mul_f32_f32,
};

/// Folds 16 lanes by 8, 4, 2, 1.
pub(crate) fn fold_lanes(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}
