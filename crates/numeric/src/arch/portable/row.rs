//! Kernels on single rows: quantisation, normalisation, softmax, gating.

use super::fold_lanes;
use crate::convert::{canonical, canonical_nan};
use crate::elementary::exp;
use crate::quantized::{COLUMN_WORDS, QUANT_WORDS};
use crate::weights::BLOCK_LEN;

/// Quantises one panel; see the crate's documentation.
pub(crate) fn quantize_f32_i8(rows: &[f32], columns: usize, panel: &mut [u32]) {
    let width = rows.len() / columns;
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .chunks_exact(BLOCK_LEN)
            .zip(panel.chunks_exact_mut(width * COLUMN_WORDS))
        {
            let (scale, quants) = quantize_block(values);
            for (word, bytes) in quants.chunks_exact(4).enumerate() {
                words[column * QUANT_WORDS + word] =
                    u32::from_le_bytes(std::array::from_fn(|k| bytes[k] as u8));
            }
            let sum: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
            words[width * QUANT_WORDS + column] = scale.to_bits();
            words[width * (QUANT_WORDS + 1) + column] = (-128 * sum) as u32;
            words[width * (QUANT_WORDS + 2) + column] = canonical(scale * sum as f32).to_bits();
        }
    }
}

fn quantize_block(values: &[f32]) -> (f32, [i8; BLOCK_LEN]) {
    let mut quants = [0; BLOCK_LEN];
    if values.iter().any(|value| !value.is_finite()) {
        return (canonical_nan(), quants);
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
    for (quant, value) in quants.iter_mut().zip(values) {
        // The cast saturates below i8's range and maps NaN (0 times an infinite inverse) to 0.
        *quant = (value * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    (scale, quants)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn block(values: &[f32]) -> [f32; BLOCK_LEN] {
        let mut block = [0.0; BLOCK_LEN];
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
        assert_eq!((scale.to_bits(), quants), (0, [0; BLOCK_LEN]));
    }

    #[test]
    fn a_non_finite_value_voids_the_block() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (scale, quants) = quantize_block(&block(&[1.0, bad]));
            assert_eq!((scale.to_bits(), quants), (0x7fc0_0000, [0; BLOCK_LEN]));
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
            (0.0, [0; BLOCK_LEN])
        );
    }
}
