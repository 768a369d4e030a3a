//! Kernels on single rows.

use std::arch::x86_64::*;

use super::exp::exp;
use super::{canonical, first_lanes, load, store};
use crate::arch::portable::fold_lanes;
use crate::convert::{CANONICAL_NAN_BITS, canonical as canonical_scalar};
use crate::quantized::{COLUMN_WORDS, QUANT_WORDS};
use crate::weights::BLOCK_LEN;

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn quantize_f32_i8(rows: &[f32], columns: usize, panel: &mut [u32]) {
    let width = rows.len() / columns;
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .chunks_exact(BLOCK_LEN)
            .zip(panel.chunks_exact_mut(width * COLUMN_WORDS))
        {
            let quants: &mut [u32; QUANT_WORDS] = words[column * QUANT_WORDS..]
                .first_chunk_mut()
                .expect("a block has eight words of quants");
            let (scale, sum) = quantize_block(load(&values[..16]), load(&values[16..]), quants);
            words[width * QUANT_WORDS + column] = scale.to_bits();
            words[width * (QUANT_WORDS + 1) + column] = (-128 * sum) as u32;
            words[width * (QUANT_WORDS + 2) + column] =
                canonical_scalar(scale * sum as f32).to_bits();
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn quantize_block(first: __m512, second: __m512, quants: &mut [u32; QUANT_WORDS]) -> (f32, i32) {
    let (first_size, second_size) = (_mm512_abs_ps(first), _mm512_abs_ps(second));
    let limit = _mm512_set1_ps(f32::MAX);
    // Not at most the largest finite value: infinite or NaN.
    let non_finite = _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(first_size, limit)
        | _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(second_size, limit);
    if non_finite != 0 {
        quants.fill(0);
        return (f32::from_bits(CANONICAL_NAN_BITS), 0);
    }
    let scale = _mm512_reduce_max_ps(_mm512_max_ps(first_size, second_size)) / 127.0;
    let inverse = _mm512_set1_ps(if scale == 0.0 { 0.0 } else { 1.0 / scale });
    let (first, second) = (
        quantize_lanes(first, inverse),
        quantize_lanes(second, inverse),
    );
    // SAFETY: 16 bytes each into an array of 32, any alignment.
    unsafe {
        _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(first));
        _mm_storeu_si128(
            quants.as_mut_ptr().add(4).cast(),
            _mm512_cvtepi32_epi8(second),
        );
    }
    (
        scale,
        _mm512_reduce_add_epi32(_mm512_add_epi32(first, second)),
    )
}

/// x * inverse, NaN to 0, saturated to [-127, 127], rounded half to even.
#[inline]
#[target_feature(enable = "avx512f")]
fn quantize_lanes(x: __m512, inverse: __m512) -> __m512i {
    let product = _mm512_mul_ps(x, inverse);
    let product = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(product, product), product);
    let product = _mm512_min_ps(
        _mm512_max_ps(product, _mm512_set1_ps(-127.0)),
        _mm512_set1_ps(127.0),
    );
    _mm512_cvtps_epi32(product)
}

#[target_feature(enable = "avx512f")]
pub(super) fn rms_norm_f32_f32(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let mut sum = _mm512_setzero_ps();
    for chunk in input.chunks(16) {
        let x = load(chunk);
        sum = _mm512_mask_add_ps(sum, first_lanes(chunk.len()), sum, _mm512_mul_ps(x, x));
    }
    let reciprocal = 1.0 / (fold_lanes(lanes(sum)) / input.len() as f32 + epsilon).sqrt();
    let reciprocal = _mm512_set1_ps(reciprocal);
    for ((y, x), w) in output
        .chunks_mut(16)
        .zip(input.chunks(16))
        .zip(weight.chunks(16))
    {
        store(
            y,
            canonical(_mm512_mul_ps(_mm512_mul_ps(load(x), reciprocal), load(w))),
        );
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn softmax_f32_f32(values: &mut [f32]) {
    let mut maximum = _mm512_set1_ps(f32::NEG_INFINITY);
    let mut nan = 0;
    for chunk in values.chunks(16) {
        let x = load(chunk);
        nan |= _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        maximum = _mm512_mask_max_ps(maximum, first_lanes(chunk.len()), maximum, x);
    }
    let maximum = if nan == 0 {
        _mm512_reduce_max_ps(maximum)
    } else {
        f32::from_bits(CANONICAL_NAN_BITS)
    };
    let maximum = _mm512_set1_ps(maximum);
    let mut sum = _mm512_setzero_ps();
    for chunk in values.chunks_mut(16) {
        let e = exp(_mm512_sub_ps(load(chunk), maximum));
        sum = _mm512_mask_add_ps(sum, first_lanes(chunk.len()), sum, e);
        store(chunk, e);
    }
    let sum = _mm512_set1_ps(fold_lanes(lanes(sum)));
    for chunk in values.chunks_mut(16) {
        store(chunk, canonical(_mm512_div_ps(load(chunk), sum)));
    }
}

#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn silu_mul_f32_f32(gate: &mut [f32], up: &[f32]) {
    let sign = _mm512_set1_ps(-0.0);
    let one = _mm512_set1_ps(1.0);
    for (gate, up) in gate.chunks_mut(16).zip(up.chunks(16)) {
        let x = load(gate);
        let silu = _mm512_div_ps(x, _mm512_add_ps(one, exp(_mm512_xor_ps(x, sign))));
        store(gate, canonical(_mm512_mul_ps(silu, load(up))));
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(values: __m512) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    store(&mut lanes, values);
    lanes
}
