//! Kernels whose outputs depend on one element each, or on a pair.
//!
//! The elements that do not fill a vector go through a padded copy.

use super::Simd;
use crate::arch::{GELU_CUBIC, GELU_LINEAR};
use crate::convert::canonical;

/// As many elements as any vector has.
const LANES_MAX: usize = 16;

/// What becomes of an element, given another.
trait Change {
    fn change<S: Simd>(simd: S, value: S::F32, other: S::F32) -> S::F32;
}

struct SiluMul;
impl Change for SiluMul {
    #[inline(always)]
    fn change<S: Simd>(simd: S, gate: S::F32, up: S::F32) -> S::F32 {
        let denominator = simd.add(simd.splat_f32(1.0), simd.exp(simd.neg(gate)));
        simd.canonical(simd.mul(simd.div(gate, denominator), up))
    }
}

struct GeluMul;
impl Change for GeluMul {
    #[inline(always)]
    fn change<S: Simd>(simd: S, gate: S::F32, up: S::F32) -> S::F32 {
        let cubic = simd.mul(simd.mul(simd.splat_f32(GELU_CUBIC), gate), gate);
        let inner = simd.add(simd.splat_f32(1.0), cubic);
        let exponent = simd.mul(simd.mul(simd.splat_f32(GELU_LINEAR), gate), inner);
        let denominator = simd.add(simd.splat_f32(1.0), simd.exp(simd.neg(exponent)));
        simd.canonical(simd.mul(simd.div(gate, denominator), up))
    }
}

struct Add;
impl Change for Add {
    #[inline(always)]
    fn change<S: Simd>(simd: S, accumulator: S::F32, addend: S::F32) -> S::F32 {
        simd.canonical(simd.add(accumulator, addend))
    }
}

struct Mul;
impl Change for Mul {
    #[inline(always)]
    fn change<S: Simd>(simd: S, value: S::F32, factor: S::F32) -> S::F32 {
        simd.canonical(simd.mul(value, factor))
    }
}

/// Changes each element of `values` by the element of `other` at the same place.
#[inline(always)]
fn zip_in_place<S: Simd, C: Change>(simd: S, values: &mut [f32], other: &[f32]) {
    assert_eq!(values.len(), other.len(), "lengths");
    let whole = values.len() / S::LANES * S::LANES;
    for start in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector of both slices.
        unsafe {
            let place = values.as_mut_ptr().add(start);
            let other = simd.load_f32(other.as_ptr().add(start));
            simd.store_f32(place, C::change(simd, simd.load_f32(place), other));
        }
    }
    if whole < values.len() {
        let (rest, other) = (&mut values[whole..], &other[whole..]);
        let (mut a, mut b) = ([0.0; LANES_MAX], [0.0; LANES_MAX]);
        a[..rest.len()].copy_from_slice(rest);
        b[..rest.len()].copy_from_slice(other);
        // SAFETY: the arrays hold the largest vector.
        unsafe {
            let value = C::change(simd, simd.load_f32(a.as_ptr()), simd.load_f32(b.as_ptr()));
            simd.store_f32(a.as_mut_ptr(), value);
        }
        rest.copy_from_slice(&a[..rest.len()]);
    }
}

/// gate = (gate / (1 + exp(-gate))) * up.
#[inline(always)]
pub(crate) fn silu_mul<S: Simd>(simd: S, gate: &mut [f32], up: &[f32]) {
    zip_in_place::<S, SiluMul>(simd, gate, up);
}

/// gate = (gate / (1 + exp(-((linear * gate) * (1 + (cubic * gate) * gate))))) * up.
#[inline(always)]
pub(crate) fn gelu_mul<S: Simd>(simd: S, gate: &mut [f32], up: &[f32]) {
    zip_in_place::<S, GeluMul>(simd, gate, up);
}

/// accumulator = accumulator + addend.
#[inline(always)]
pub(crate) fn add<S: Simd>(simd: S, accumulator: &mut [f32], addend: &[f32]) {
    zip_in_place::<S, Add>(simd, accumulator, addend);
}

/// values = values * factors.
#[inline(always)]
pub(crate) fn mul<S: Simd>(simd: S, values: &mut [f32], factors: &[f32]) {
    zip_in_place::<S, Mul>(simd, values, factors);
}

/// accumulator = accumulator + (a * b).
#[inline(always)]
pub(crate) fn mul_add<S: Simd>(simd: S, accumulator: &mut [f32], a: &[f32], b: &[f32]) {
    assert!(
        accumulator.len() == a.len() && a.len() == b.len(),
        "lengths"
    );
    let whole = a.len() / S::LANES * S::LANES;
    for start in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector of all slices.
        unsafe {
            let place = accumulator.as_mut_ptr().add(start);
            let a = simd.load_f32(a.as_ptr().add(start));
            let b = simd.load_f32(b.as_ptr().add(start));
            simd.store_f32(place, simd.add(simd.load_f32(place), simd.mul(a, b)));
        }
    }
    let rest = accumulator[whole..].iter_mut().zip(&a[whole..]);
    for ((sum, a), b) in rest.zip(&b[whole..]) {
        *sum += a * b;
    }
}

/// Each value's exponential.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, values: &mut [f32]) {
    let mut rest = values;
    while !rest.is_empty() {
        let mut block = [0.0; LANES_MAX];
        let count = rest.len().min(S::LANES);
        let (head, tail) = rest.split_at_mut(count);
        block[..count].copy_from_slice(head);
        // SAFETY: the array holds the largest vector.
        unsafe {
            let value = simd.exp(simd.load_f32(block.as_ptr()));
            simd.store_f32(block.as_mut_ptr(), value);
        }
        head.copy_from_slice(&block[..count]);
        rest = tail;
    }
}

/// Narrows to f16, half to even, NaN to 0x7e00.
#[inline(always)]
pub(crate) fn narrow<S: Simd>(simd: S, values: &[f32], output: &mut [u16]) {
    assert_eq!(values.len(), output.len(), "lengths");
    let whole = values.len() / S::LANES * S::LANES;
    for start in (0..whole).step_by(S::LANES) {
        // SAFETY: a whole vector of both slices.
        unsafe {
            let value = simd.canonical(simd.load_f32(values.as_ptr().add(start)));
            simd.store_f16(output.as_mut_ptr().add(start), value);
        }
    }
    for (value, output) in values[whole..].iter().zip(&mut output[whole..]) {
        *output = crate::convert::f32_to_f16(*value);
    }
}

/// Rotates the pairs (2i, 2i + 1) of every head by the same (cosine, sine) each.
#[inline(always)]
pub(crate) fn rope_interleaved<S: Simd>(_: S, rotations: &[[f32; 2]], values: &mut [f32]) {
    for head in values.chunks_exact_mut(2 * rotations.len()) {
        for (pair, rotation) in head.as_chunks_mut::<2>().0.iter_mut().zip(rotations) {
            *pair = rotate(*pair, *rotation);
        }
    }
}

/// Rotates the pairs (i, i + half of the head) of every head by the same (cosine, sine) each.
#[inline(always)]
pub(crate) fn rope_halves<S: Simd>(_: S, rotations: &[[f32; 2]], values: &mut [f32]) {
    for head in values.chunks_exact_mut(2 * rotations.len()) {
        let (first, second) = head.split_at_mut(rotations.len());
        for ((a, b), rotation) in first.iter_mut().zip(second).zip(rotations) {
            [*a, *b] = rotate([*a, *b], *rotation);
        }
    }
}

/// (a, b) becomes (a * cos - b * sin, a * sin + b * cos).
#[inline(always)]
fn rotate([a, b]: [f32; 2], [cosine, sine]: [f32; 2]) -> [f32; 2] {
    [
        canonical(a * cosine - b * sine),
        canonical(a * sine + b * cosine),
    ]
}
