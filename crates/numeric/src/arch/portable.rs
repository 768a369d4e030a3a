//! The reference kernels: contract 1 word by word, in plain Rust.

pub(crate) mod attention;
mod low_rank;
mod matmul;
mod row;

pub(crate) use row::softmax_f32_f32;
use row::{
    add_f32_f32, exp_f32_f32, gelu_mul_f32_f32, mul_add_f32_f32, mul_f32_f32, narrow_f32_f16,
    quantize_f32_i8_32, quantize_f32_i8_256, rms_norm_f32_f32, rope_halves_f32_f32,
    rope_interleaved_f32_f32, silu_mul_f32_f32,
};

use crate::arch::{KernelTable, TileOutput, kernel_table};
use crate::convert::f16_to_f32;
use crate::kv::KvFormat;
use crate::weights::WeightFormat;

pub(crate) static TABLE: KernelTable = kernel_table!();

macro_rules! quantized_products {
    ($($name:ident: $format:ident),*) => {
        $(fn $name(tiles: &[u8], blocks: usize, panel: &[u32], width: usize, output: &mut [TileOutput]) {
            matmul::matmul_quantized(WeightFormat::$format, tiles, blocks, panel, width, output);
        })*
    };
}
quantized_products!(
    matmul_q8_0_f32: Q8_0, matmul_q4_0_f32: Q4_0, matmul_q4_1_f32: Q4_1, matmul_q5_0_f32: Q5_0,
    matmul_q5_1_f32: Q5_1, matmul_q2_k_f32: Q2_K, matmul_q3_k_f32: Q3_K, matmul_q4_k_f32: Q4_K,
    matmul_q5_k_f32: Q5_K, matmul_q6_k_f32: Q6_K, matmul_int8_f32: Int8, matmul_iq4_nl_f32: IQ4_NL,
    matmul_iq4_xs_f32: IQ4_XS
);

macro_rules! float_products {
    ($($name:ident: $format:ident),*) => {
        $(fn $name(tiles: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]) {
            matmul::matmul_float(WeightFormat::$format, tiles, columns, rows, output);
        })*
    };
}
float_products!(matmul_f32_f32: F32, matmul_f16_f32: F16, matmul_bf16_f32: Bf16);

macro_rules! attentions {
    ($($scores:ident, $values:ident: $format:ident);*) => {$(
        fn $scores(
            queries: &[f32], head_dim: usize, keys: &[u8], scale: f32, scores: &mut [f32], stride: usize,
        ) {
            attention::scores(KvFormat::$format, queries, head_dim, keys, scale, scores, stride);
        }

        fn $values(
            weights: &[f32], stride: usize, counts: &[usize], values: &[u8], head_dim: usize,
            dimensions: std::ops::Range<usize>, output: &mut [f32],
        ) {
            attention::values(
                KvFormat::$format, weights, stride, counts, values, head_dim, dimensions, output,
            );
        }
    )*};
}
attentions!(
    scores_f16_f32, values_f16_f32: F16; scores_q8_f32, values_q8_f32: Q8; scores_q4_f32, values_q4_f32: Q4
);

macro_rules! low_rank_products {
    ($($down:ident, $up:ident: $read:ident),*) => {
        $(
            fn $down(factors: &[u8], input: &[f32], output: &mut [f32]) {
                low_rank::down($read, factors, input, output);
            }
            fn $up(tiles: &[u8], inner: &[f32], scale: f32, output: &mut [f32]) {
                low_rank::up($read, tiles, inner, scale, output);
            }
        )*
    };
}
low_rank_products!(
    low_rank_down_f32_f32, low_rank_up_f32_f32: float_number,
    low_rank_down_f16_f32, low_rank_up_f16_f32: half_number
);

fn float_number(bytes: &[u8], number: usize) -> f32 {
    float_at(bytes, 4 * number)
}

fn half_number(bytes: &[u8], number: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([
        bytes[2 * number],
        bytes[2 * number + 1],
    ]))
}

/// Folds 16 lanes by 8, 4, 2, 1.
pub(crate) fn fold_lanes(mut lanes: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// The f32 stored at `offset`.
pub(crate) fn float_at(bytes: &[u8], offset: usize) -> f32 {
    f32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}
