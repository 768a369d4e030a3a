//! Kernels on single rows. The last elements, which do not fill a vector, go through a padded copy.

use std::arch::x86_64::*;

use super::exp::exp;
use super::{canonical, load, store};
use crate::arch::portable::fold_lanes;
use crate::convert::{CANONICAL_NAN_BITS, canonical as canonical_scalar};
use crate::quantized::{COLUMN_WORDS, QUANT_WORDS};
use crate::weights::BLOCK_LEN;

#[target_feature(enable = "avx2")]
pub(super) fn quantize_f32_i8(rows: &[f32], columns: usize, panel: &mut [u32]) {
    let width = rows.len() / columns;
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        let blocks = row.as_chunks::<BLOCK_LEN>().0;
        for (values, words) in blocks
            .iter()
            .zip(panel.chunks_exact_mut(width * COLUMN_WORDS))
        {
            let quants: &mut [u32; QUANT_WORDS] = words[column * QUANT_WORDS..]
                .first_chunk_mut()
                .expect("a block has eight words of quants");
            let (scale, sum) = quantize_block(values, quants);
            words[width * QUANT_WORDS + column] = scale.to_bits();
            words[width * (QUANT_WORDS + 1) + column] = (-128 * sum) as u32;
            words[width * (QUANT_WORDS + 2) + column] =
                canonical_scalar(scale * sum as f32).to_bits();
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn quantize_block(values: &[f32; BLOCK_LEN], quants: &mut [u32; QUANT_WORDS]) -> (f32, i32) {
    let parts = values.as_chunks::<8>().0;
    let sign = _mm256_set1_ps(-0.0);
    let mut largest = _mm256_setzero_ps();
    let mut finite = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    for part in parts {
        let size = _mm256_andnot_ps(sign, load(part));
        finite = _mm256_and_ps(
            finite,
            _mm256_cmp_ps::<_CMP_LE_OQ>(size, _mm256_set1_ps(f32::MAX)),
        );
        largest = _mm256_max_ps(largest, size);
    }
    if _mm256_movemask_ps(finite) != 0xff {
        quants.fill(0);
        return (f32::from_bits(CANONICAL_NAN_BITS), 0);
    }
    let mut lanes = [0.0f32; 8];
    store(&mut lanes, largest);
    let scale = lanes.iter().fold(
        0.0f32,
        |largest, size| if *size > largest { *size } else { largest },
    ) / 127.0;
    let inverse = _mm256_set1_ps(if scale == 0.0 { 0.0 } else { 1.0 / scale });
    let a = quantize_lanes(load(&parts[0]), inverse);
    let b = quantize_lanes(load(&parts[1]), inverse);
    let c = quantize_lanes(load(&parts[2]), inverse);
    let d = quantize_lanes(load(&parts[3]), inverse);
    // Packing works within 128-bit halves; the permutation puts the words back in order. Nothing saturates.
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    // SAFETY: 32 bytes into an array of 32, any alignment.
    unsafe { _mm256_storeu_si256(quants.as_mut_ptr().cast(), bytes) };
    let sums = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    let sums = _mm_add_epi32(
        _mm256_castsi256_si128(sums),
        _mm256_extracti128_si256::<1>(sums),
    );
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
    let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums));
    (scale, _mm_cvtsi128_si32(sums))
}

/// x * inverse, NaN to 0, saturated to [-127, 127], rounded half to even.
#[inline]
#[target_feature(enable = "avx2")]
fn quantize_lanes(x: __m256, inverse: __m256) -> __m256i {
    let product = _mm256_mul_ps(x, inverse);
    let product = _mm256_and_ps(product, _mm256_cmp_ps::<_CMP_ORD_Q>(product, product));
    let product = _mm256_min_ps(
        _mm256_max_ps(product, _mm256_set1_ps(-127.0)),
        _mm256_set1_ps(127.0),
    );
    _mm256_cvtps_epi32(product)
}

#[target_feature(enable = "avx2")]
pub(super) fn rms_norm_f32_f32(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let mut sums = [_mm256_setzero_ps(); 2];
    let (chunks, rest) = input.as_chunks::<16>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
            let x = load(x);
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(x, x));
        }
    }
    let mut lanes = lanes16(sums);
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += x * x;
    }
    let reciprocal = 1.0 / (fold_lanes(lanes) / input.len() as f32 + epsilon).sqrt();
    let (chunks, rest) = output.as_chunks_mut::<8>();
    let done = chunks.len() * 8;
    for ((y, x), w) in chunks
        .iter_mut()
        .zip(input.as_chunks::<8>().0)
        .zip(weight.as_chunks::<8>().0)
    {
        store(
            y,
            canonical(_mm256_mul_ps(
                _mm256_mul_ps(load(x), _mm256_set1_ps(reciprocal)),
                load(w),
            )),
        );
    }
    for ((y, x), w) in rest.iter_mut().zip(&input[done..]).zip(&weight[done..]) {
        *y = canonical_scalar((x * reciprocal) * w);
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn softmax_f32_f32(values: &mut [f32]) {
    let mut maximum = f32::NEG_INFINITY;
    for value in values.iter() {
        // A NaN wins.
        maximum = if maximum.is_nan() || *value <= maximum {
            maximum
        } else {
            *value
        };
    }
    let maximum = _mm256_set1_ps(maximum);
    let mut sums = [_mm256_setzero_ps(); 2];
    let (chunks, rest) = values.as_chunks_mut::<16>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk.as_chunks_mut::<8>().0) {
            let e = exp(_mm256_sub_ps(load(value), maximum));
            *sum = _mm256_add_ps(*sum, e);
            store(value, e);
        }
    }
    let mut lanes = lanes16(sums);
    if !rest.is_empty() {
        let mut padded = pad(rest);
        for value in padded.as_chunks_mut::<8>().0 {
            let e = exp(_mm256_sub_ps(load(value), maximum));
            store(value, e);
        }
        rest.copy_from_slice(&padded[..rest.len()]);
        for (lane, e) in lanes.iter_mut().zip(rest) {
            *lane += *e;
        }
    }
    let sum = fold_lanes(lanes);
    let (chunks, rest) = values.as_chunks_mut::<8>();
    for value in chunks {
        let y = canonical(_mm256_div_ps(load(value), _mm256_set1_ps(sum)));
        store(value, y);
    }
    for value in rest {
        *value = canonical_scalar(*value / sum);
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn silu_mul_f32_f32(gate: &mut [f32], up: &[f32]) {
    let (chunks, rest) = gate.as_chunks_mut::<16>();
    let (up_chunks, up_rest) = up.as_chunks::<16>();
    for (gate, up) in chunks.iter_mut().zip(up_chunks) {
        silu_mul(gate, up);
    }
    if !rest.is_empty() {
        let mut padded = pad(rest);
        silu_mul(&mut padded, &pad(up_rest));
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn silu_mul(gate: &mut [f32; 16], up: &[f32; 16]) {
    for (gate, up) in gate
        .as_chunks_mut::<8>()
        .0
        .iter_mut()
        .zip(up.as_chunks::<8>().0)
    {
        let x = load(gate);
        let negated = _mm256_xor_ps(x, _mm256_set1_ps(-0.0));
        let silu = _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0), exp(negated)));
        store(gate, canonical(_mm256_mul_ps(silu, load(up))));
    }
}

/// Fewer than 16 elements, filled up with zeros.
fn pad(values: &[f32]) -> [f32; 16] {
    let mut padded = [0.0; 16];
    padded[..values.len()].copy_from_slice(values);
    padded
}

#[inline]
#[target_feature(enable = "avx2")]
fn lanes16(sums: [__m256; 2]) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    for (lanes, sum) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(&sums) {
        store(lanes, *sum);
    }
    lanes
}
