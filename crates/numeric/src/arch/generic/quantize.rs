//! Quantisation of activations.

use super::Simd;
use crate::convert::{canonical, canonical_nan};
use crate::quantized::{
    LONG_BLOCK, LONG_QUANT_WORDS, LONG_SUMS, LONG_WORDS, SHORT_BLOCK, SHORT_QUANT_WORDS,
    SHORT_WORDS, SUM_LEN,
};

/// Blocks of 32 into a panel; see [`crate::quantized`]. `V` vectors hold 32 elements.
#[inline(always)]
pub(crate) fn short_blocks<S: Simd, const V: usize>(
    simd: S,
    rows: &[f32],
    columns: usize,
    panel: &mut [u32],
) {
    let width = rows.len() / columns;
    assert_eq!(panel.len(), columns / SHORT_BLOCK * width * SHORT_WORDS);
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .as_chunks::<SHORT_BLOCK>()
            .0
            .iter()
            .zip(panel.chunks_exact_mut(width * SHORT_WORDS))
        {
            let (quants, rest) = words.split_at_mut(width * SHORT_QUANT_WORDS);
            let quants = &mut quants[column * SHORT_QUANT_WORDS..][..SHORT_QUANT_WORDS];
            let scale = scale_of::<S, V>(simd, values);
            let sum = quantize::<S, V>(simd, values, scale, quants);
            rest[column] = scale.to_bits();
            rest[width + column] = (-8 * sum) as u32;
            rest[2 * width + column] = canonical(scale * sum as f32).to_bits();
        }
    }
}

/// Blocks of 256 into a panel; see [`crate::quantized`]. `V` vectors hold 16 elements.
#[inline(always)]
pub(crate) fn long_blocks<S: Simd, const V: usize>(
    simd: S,
    rows: &[f32],
    columns: usize,
    panel: &mut [u32],
) {
    let width = rows.len() / columns;
    assert_eq!(panel.len(), columns / LONG_BLOCK * width * LONG_WORDS);
    for (column, row) in rows.chunks_exact(columns).enumerate() {
        for (values, words) in row
            .chunks_exact(LONG_BLOCK)
            .zip(panel.chunks_exact_mut(width * LONG_WORDS))
        {
            let (quants, rest) = words.split_at_mut(width * LONG_QUANT_WORDS);
            let (scales, sums) = rest.split_at_mut(width);
            let quants = &mut quants[column * LONG_QUANT_WORDS..][..LONG_QUANT_WORDS];
            let scale = scale_of::<S, V>(simd, values);
            scales[column] = scale.to_bits();
            for ((values, quants), sum) in values
                .chunks_exact(SUM_LEN)
                .zip(quants.chunks_exact_mut(SUM_LEN / 4))
                .zip(&mut sums[column * LONG_SUMS..])
            {
                *sum = (-quantize::<S, V>(simd, values, scale, quants)) as u32;
            }
        }
    }
}

/// The largest magnitude / 127; NaN if a value is not finite. A multiple of `V` vectors.
#[inline(always)]
fn scale_of<S: Simd, const V: usize>(simd: S, values: &[f32]) -> f32 {
    let mut largest = [simd.splat_f32(0.0); V];
    for values in values.chunks_exact(V * S::LANES) {
        for v in 0..V {
            // SAFETY: the chunk has V vectors.
            let x = unsafe { simd.load_f32(values.as_ptr().add(v * S::LANES)) };
            largest[v] = simd.max_size(largest[v], simd.abs(x));
        }
    }
    for v in 1..V {
        largest[0] = simd.max_size(largest[0], largest[v]);
    }
    let largest = simd.largest_size(largest[0]);
    if largest.is_finite() {
        largest / 127.0
    } else {
        canonical_nan()
    }
}

/// Writes the quants of `V` vectors and returns their sum.
#[inline(always)]
fn quantize<S: Simd, const V: usize>(
    simd: S,
    values: &[f32],
    scale: f32,
    quants: &mut [u32],
) -> i32 {
    assert!(values.len() == V * S::LANES && quants.len() * 4 == values.len());
    // A NaN scale makes every product NaN, which quantises to 0.
    let inverse = simd.splat_f32(if scale == 0.0 { 0.0 } else { 1.0 / scale });
    let mut sums = simd.splat_i32(0);
    for v in 0..V {
        // SAFETY: vector v of V, as asserted.
        unsafe {
            let x = simd.load_f32(values.as_ptr().add(v * S::LANES));
            let q = simd.to_quants(simd.mul(x, inverse));
            simd.store_i8(quants.as_mut_ptr().cast::<i8>().add(v * S::LANES), q);
            sums = simd.add_i32(sums, q);
        }
    }
    simd.sum_lanes(sums)
}
