//! Kernels on rows: quantisation, normalisation, softmax, gating, rotation.

use super::fold_lanes;
use crate::arch::{GELU_CUBIC, GELU_LINEAR};
use crate::convert::{canonical, canonical_nan, f32_to_f16};
use crate::elementary::exp;
use crate::quantized::{
    LONG_BLOCK, LONG_QUANT_WORDS, LONG_SUMS, LONG_WORDS, SHORT_BLOCK, SHORT_QUANT_WORDS,
    SHORT_WORDS, SUM_LEN,
};

/// Blocks of 32 into a panel; see [`crate::quantized`].
pub(crate) fn quantize_f32_i8_32(rows: &[f32], columns: usize, panel: &mut [u32]) {
    let width = rows.len() / columns;
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .chunks_exact(SHORT_BLOCK)
            .zip(panel.chunks_exact_mut(width * SHORT_WORDS))
        {
            let (scale, quants) = quantize_block(values);
            store_quants(&quants, &mut words[column * SHORT_QUANT_WORDS..]);
            let sum: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
            let rest = &mut words[width * SHORT_QUANT_WORDS..];
            rest[column] = scale.to_bits();
            rest[width + column] = (-8 * sum) as u32;
            rest[2 * width + column] = canonical(scale * sum as f32).to_bits();
        }
    }
}

/// Blocks of 256 into a panel; see [`crate::quantized`].
pub(crate) fn quantize_f32_i8_256(rows: &[f32], columns: usize, panel: &mut [u32]) {
    let width = rows.len() / columns;
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .chunks_exact(LONG_BLOCK)
            .zip(panel.chunks_exact_mut(width * LONG_WORDS))
        {
            let (scale, quants) = quantize_block(values);
            store_quants(&quants, &mut words[column * LONG_QUANT_WORDS..]);
            let rest = &mut words[width * LONG_QUANT_WORDS..];
            rest[column] = scale.to_bits();
            let sums = &mut rest[width + column * LONG_SUMS..];
            for (sum, quants) in sums.iter_mut().zip(quants.chunks_exact(SUM_LEN)) {
                let exact: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
                *sum = (-exact) as u32;
            }
        }
    }
}

fn store_quants(quants: &[i8], words: &mut [u32]) {
    for (word, bytes) in words.iter_mut().zip(quants.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(bytes.map(|byte| byte as u8));
    }
}

/// The scale and the quants of a block of any length.
fn quantize_block(values: &[f32]) -> (f32, Vec<i8>) {
    if values.iter().any(|value| !value.is_finite()) {
        return (canonical_nan(), vec![0; values.len()]);
    }
    let largest = values.iter().fold(0.0f32, |largest, value| {
        if value.abs() > largest {
            value.abs()
        } else {
            largest
        }
    });
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    // The cast maps NaN (0 times an infinite inverse) to 0.
    let quant = |value: &f32| (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    (scale, values.iter().map(quant).collect())
}

/// s = lanes16(x * x); r = 1 / sqrt(s / n + epsilon); y = (x * r) * w.
pub(crate) fn rms_norm_f32_f32(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]) {
    let mut lanes = [0.0f32; 16];
    for chunk in input.chunks(16) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let reciprocal = 1.0 / (fold_lanes(lanes) / input.len() as f32 + epsilon).sqrt();
    for ((y, x), w) in output.iter_mut().zip(input).zip(weight) {
        *y = canonical((x * reciprocal) * w);
    }
}

/// m = maximum; e = exp(x - m); y = e / lanes16(e).
pub(crate) fn softmax_f32_f32(values: &mut [f32]) {
    let maximum = values.iter().fold(f32::NEG_INFINITY, |maximum, value| {
        // A NaN wins. Which zero wins does not matter: x - m is the same for both but for the sign of a zero.
        if maximum.is_nan() || *value <= maximum {
            maximum
        } else {
            *value
        }
    });
    let mut lanes = [0.0f32; 16];
    for chunk in values.chunks_mut(16) {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *value = exp(*value - maximum);
            *lane += *value;
        }
    }
    let sum = fold_lanes(lanes);
    for value in values {
        *value = canonical(*value / sum);
    }
}

/// gate = (gate / (1 + exp(-gate))) * up.
pub(crate) fn silu_mul_f32_f32(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = canonical((*gate / (1.0 + exp(-*gate))) * up);
    }
}

/// gate = (gate / (1 + exp(-((linear * gate) * (1 + (cubic * gate) * gate))))) * up.
pub(crate) fn gelu_mul_f32_f32(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        let x = *gate;
        let exponent = (GELU_LINEAR * x) * (1.0 + (GELU_CUBIC * x) * x);
        *gate = canonical((x / (1.0 + exp(-exponent))) * up);
    }
}

/// accumulator = accumulator + addend.
pub(crate) fn add_f32_f32(accumulator: &mut [f32], addend: &[f32]) {
    for (sum, addend) in accumulator.iter_mut().zip(addend) {
        *sum = canonical(*sum + addend);
    }
}

/// values = values * factors.
pub(crate) fn mul_f32_f32(values: &mut [f32], factors: &[f32]) {
    for (value, factor) in values.iter_mut().zip(factors) {
        *value = canonical(*value * factor);
    }
}

/// accumulator = accumulator + (a * b), both operations rounded; a NaN is whatever it is.
pub(crate) fn mul_add_f32_f32(accumulator: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in accumulator.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}

/// Each value's exponential.
pub(crate) fn exp_f32_f32(values: &mut [f32]) {
    for value in values {
        *value = exp(*value);
    }
}

/// Narrows to f16.
pub(crate) fn narrow_f32_f16(values: &[f32], output: &mut [u16]) {
    for (value, output) in values.iter().zip(output) {
        *output = f32_to_f16(*value);
    }
}

/// Rotates the pairs (2i, 2i + 1) of every head by the same (cosine, sine) each: (a, b) becomes
/// (a * cos - b * sin, a * sin + b * cos), every operation rounded.
pub(crate) fn rope_interleaved_f32_f32(rotations: &[[f32; 2]], values: &mut [f32]) {
    let pair_of = |pair: usize, _: usize| (2 * pair, 2 * pair + 1);
    rope(rotations, values, pair_of);
}

/// The same with the pairs (i, i + half of the head).
pub(crate) fn rope_halves_f32_f32(rotations: &[[f32; 2]], values: &mut [f32]) {
    let pair_of = |pair: usize, pairs: usize| (pair, pair + pairs);
    rope(rotations, values, pair_of);
}

fn rope(
    rotations: &[[f32; 2]],
    values: &mut [f32],
    pair_of: impl Fn(usize, usize) -> (usize, usize),
) {
    for head in values.chunks_exact_mut(2 * rotations.len()) {
        for (pair, [cosine, sine]) in rotations.iter().enumerate() {
            let (first, second) = pair_of(pair, rotations.len());
            let (a, b) = (head[first], head[second]);
            head[first] = canonical(a * cosine - b * sine);
            head[second] = canonical(a * sine + b * cosine);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(values: &[f32]) -> [f32; SHORT_BLOCK] {
        let mut block = [0.0; SHORT_BLOCK];
        block[..values.len()].copy_from_slice(values);
        block
    }

    #[test]
    fn ties_round_to_even() {
        let (scale, quants) = quantize_block(&block(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]));
        assert_eq!(scale, 1.0);
        assert_eq!(quants[..7], [127, 0, 2, 2, 0, -2, -127]);
    }

    #[test]
    fn a_zero_block_has_scale_zero() {
        let (scale, quants) = quantize_block(&block(&[-0.0]));
        assert_eq!((scale.to_bits(), quants), (0, vec![0; SHORT_BLOCK]));
    }

    #[test]
    fn a_non_finite_value_voids_the_block() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (scale, quants) = quantize_block(&block(&[1.0, bad]));
            assert_eq!(
                (scale.to_bits(), quants),
                (0x7fc0_0000, vec![0; SHORT_BLOCK])
            );
        }
    }

    #[test]
    fn a_subnormal_scale_saturates() {
        // The largest value is 127 times a subnormal scale whose inverse overflows to infinity: zero times infinity is
        // NaN, which quantises to 0, and everything else saturates.
        let tiny = f32::from_bits(1);
        let (scale, quants) = quantize_block(&block(&[127.0 * tiny, tiny, -tiny, 0.0]));
        assert_eq!(scale.to_bits(), 1);
        assert_eq!(quants[..4], [127, 127, -127, 0]);
        // A largest value below half of 127 units rounds to scale 0.
        assert_eq!(
            quantize_block(&block(&[63.0 * tiny])),
            (0.0, vec![0; SHORT_BLOCK])
        );
    }
}
