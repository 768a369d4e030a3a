//! rms-norm and softmax: reductions over 16 lanes. `SIXTEEN` vectors hold them.

use super::Simd;
use crate::arch::portable::fold_lanes;

/// Up to 16 elements, filled up with `padding`.
#[inline(always)]
fn pad(values: &[f32], padding: f32) -> [f32; 16] {
    let mut padded = [padding; 16];
    padded[..values.len()].copy_from_slice(values);
    padded
}

#[inline(always)]
fn load16<S: Simd, const SIXTEEN: usize>(simd: S, values: &[f32; 16]) -> [S::F32; SIXTEEN] {
    debug_assert_eq!(SIXTEEN * S::LANES, 16);
    let mut vectors = [simd.splat_f32(0.0); SIXTEEN];
    for (v, vector) in vectors.iter_mut().enumerate() {
        // SAFETY: `SIXTEEN` vectors make 16 elements.
        *vector = unsafe { simd.load_f32(values.as_ptr().add(v * S::LANES)) };
    }
    vectors
}

#[inline(always)]
fn store16<S: Simd, const SIXTEEN: usize>(
    simd: S,
    values: &mut [f32; 16],
    vectors: [S::F32; SIXTEEN],
) {
    for (v, vector) in vectors.into_iter().enumerate() {
        // SAFETY: `SIXTEEN` vectors make 16 elements.
        unsafe { simd.store_f32(values.as_mut_ptr().add(v * S::LANES), vector) };
    }
}

/// s = lanes16(x * x); r = 1 / sqrt(s / n + epsilon); y = (x * r) * w.
#[inline(always)]
pub(crate) fn rms_norm<S: Simd, const SIXTEEN: usize>(
    simd: S,
    input: &[f32],
    weight: &[f32],
    epsilon: f32,
    output: &mut [f32],
) {
    assert!(
        input.len() == weight.len() && input.len() == output.len(),
        "lengths"
    );
    let mut sums = [simd.splat_f32(0.0); SIXTEEN];
    let (chunks, rest) = input.as_chunks::<16>();
    let padded = pad(rest, 0.0);
    // A padding's square is +0, which changes no sum of squares.
    for chunk in chunks.iter().chain((!rest.is_empty()).then_some(&padded)) {
        let x = load16::<S, SIXTEEN>(simd, chunk);
        for v in 0..SIXTEEN {
            sums[v] = simd.add(sums[v], simd.mul(x[v], x[v]));
        }
    }
    let mut lanes = [0.0; 16];
    store16(simd, &mut lanes, sums);
    let reciprocal = 1.0 / (fold_lanes(lanes) / input.len() as f32 + epsilon).sqrt();
    let factor = simd.splat_f32(reciprocal);

    let (outputs, rest) = output.as_chunks_mut::<16>();
    let done = outputs.len() * 16;
    for ((x, w), y) in chunks.iter().zip(weight.as_chunks().0).zip(outputs) {
        scale::<S, SIXTEEN>(simd, x, factor, w, y);
    }
    if !rest.is_empty() {
        let mut last = [0.0; 16];
        let weight = pad(&weight[done..], 0.0);
        scale::<S, SIXTEEN>(simd, &padded, factor, &weight, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// y = (x * factor) * w.
#[inline(always)]
fn scale<S: Simd, const SIXTEEN: usize>(
    simd: S,
    x: &[f32; 16],
    factor: S::F32,
    w: &[f32; 16],
    y: &mut [f32; 16],
) {
    let mut products = load16::<S, SIXTEEN>(simd, x);
    let w = load16::<S, SIXTEEN>(simd, w);
    for v in 0..SIXTEEN {
        products[v] = simd.canonical(simd.mul(simd.mul(products[v], factor), w[v]));
    }
    store16(simd, y, products);
}

/// m = maximum; e = exp(x - m); y = e / lanes16(e).
#[inline(always)]
pub(crate) fn softmax<S: Simd, const SIXTEEN: usize>(simd: S, values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<16>();
    let mut padded = pad(rest, f32::NEG_INFINITY);
    let last = (!rest.is_empty()).then_some(&mut padded);

    let mut maxima = [simd.splat_f32(f32::NEG_INFINITY); SIXTEEN];
    for chunk in chunks.iter().chain(last.as_deref()) {
        let x = load16::<S, SIXTEEN>(simd, chunk);
        for v in 0..SIXTEEN {
            maxima[v] = simd.max(maxima[v], x[v]);
        }
    }
    let mut lanes = [0.0; 16];
    store16(simd, &mut lanes, maxima);
    let maximum = lanes.iter().fold(f32::NEG_INFINITY, |maximum, x| {
        // A NaN wins.
        if maximum.is_nan() || *x <= maximum {
            maximum
        } else {
            *x
        }
    });
    let maximum = simd.splat_f32(maximum);

    let mut sums = [simd.splat_f32(0.0); SIXTEEN];
    for chunk in chunks.iter_mut() {
        exponentials::<S, SIXTEEN>(simd, chunk, 16, maximum, &mut sums);
    }
    if !rest.is_empty() {
        exponentials::<S, SIXTEEN>(simd, &mut padded, rest.len(), maximum, &mut sums);
    }
    store16(simd, &mut lanes, sums);
    let sum = simd.splat_f32(fold_lanes(lanes));

    for chunk in chunks {
        divide::<S, SIXTEEN>(simd, chunk, sum);
    }
    if !rest.is_empty() {
        divide::<S, SIXTEEN>(simd, &mut padded, sum);
        rest.copy_from_slice(&padded[..rest.len()]);
    }
}

/// Replaces the first `count` values by their exponentials, the rest by zeros, and adds them to the sums.
#[inline(always)]
fn exponentials<S: Simd, const SIXTEEN: usize>(
    simd: S,
    chunk: &mut [f32; 16],
    count: usize,
    maximum: S::F32,
    sums: &mut [S::F32; SIXTEEN],
) {
    let mut e = load16::<S, SIXTEEN>(simd, chunk);
    for v in 0..SIXTEEN {
        e[v] = simd.exp(simd.sub(e[v], maximum));
    }
    store16(simd, chunk, e);
    if count < 16 {
        // A zero changes no sum of exponentials.
        chunk[count..].fill(0.0);
        e = load16::<S, SIXTEEN>(simd, chunk);
    }
    for v in 0..SIXTEEN {
        sums[v] = simd.add(sums[v], e[v]);
    }
}

/// Divides each value by `divisor`.
#[inline(always)]
fn divide<S: Simd, const SIXTEEN: usize>(simd: S, chunk: &mut [f32; 16], divisor: S::F32) {
    let mut values = load16::<S, SIXTEEN>(simd, chunk);
    for v in 0..SIXTEEN {
        values[v] = simd.canonical(simd.div(values[v], divisor));
    }
    store16(simd, chunk, values);
}
