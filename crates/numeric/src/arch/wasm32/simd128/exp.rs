//! The exponential function on 4 lanes.

use std::arch::wasm32::*;

use crate::convert::CANONICAL_NAN_BITS;
use crate::elementary::RELATIVE_ERROR;
use crate::elementary::{
    self,
    exp::{EXP2_16_HIGH, HIGHEST, INVERSE_LN2_16, LN2_16_HIGH, LN2_16_LOW, LOWEST, TAYLOR},
};

/// The operations of [`crate::elementary::exp`] on each lane; lanes that fail the rounding test are left to it.
#[inline]
#[target_feature(enable = "simd128")]
pub(super) fn exp(x: v128) -> v128 {
    let (low, low_above) = half(f64x2_promote_low_f32x4(x));
    let (high, high_above) = half(f64x2_promote_low_f32x4(i64x2_shuffle::<1, 1>(x, x)));
    let (below, above) = (
        i64x2_shuffle::<0, 2>(low, high),
        i64x2_shuffle::<0, 2>(low_above, high_above),
    );
    let number = f32x4_eq(x, x);
    let unsure = v128_and(f32x4_ne(below, above), number);
    let value = if v128_any_true(unsure) {
        repair(x, below, unsure)
    } else {
        below
    };
    v128_bitselect(value, u32x4_splat(CANONICAL_NAN_BITS), number)
}

/// e^x for 2 lanes, rounded from both ends of the error interval.
#[inline]
#[target_feature(enable = "simd128")]
fn half(x: v128) -> (v128, v128) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let wide = f64x2_pmin(f64x2_pmax(x, f64x2_splat(LOWEST)), f64x2_splat(HIGHEST));
    let shifted = f64x2_add(
        f64x2_mul(wide, f64x2_splat(INVERSE_LN2_16)),
        f64x2_splat(SHIFT),
    );
    let n = f64x2_sub(shifted, f64x2_splat(SHIFT));
    let r = f64x2_sub(wide, f64x2_mul(n, f64x2_splat(LN2_16_HIGH)));
    let r = f64x2_sub(r, f64x2_mul(n, f64x2_splat(LN2_16_LOW)));
    let mut polynomial = f64x2_splat(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        polynomial = f64x2_add(f64x2_mul(polynomial, r), f64x2_splat(*coefficient));
    }
    let q = f64x2_add(r, f64x2_mul(f64x2_mul(r, r), polynomial));
    let index = i64x2_sub(shifted, u64x2_splat(SHIFT.to_bits()));
    let entry = f64x2(
        EXP2_16_HIGH[(i64x2_extract_lane::<0>(index) & 15) as usize],
        EXP2_16_HIGH[(i64x2_extract_lane::<1>(index) & 15) as usize],
    );
    let value = f64x2_add(entry, f64x2_mul(entry, q));
    // The index is at least -2403: with the bias it is positive, and the logical shift divides by 16.
    let biased = u64x2_shr(i64x2_add(index, i64x2_splat(1023 * 16)), 4);
    let value = f64x2_mul(value, i64x2_shl(biased, 52));

    let error = f64x2_mul(value, f64x2_splat(RELATIVE_ERROR));
    (
        f32x4_demote_f64x2_zero(f64x2_sub(value, error)),
        f32x4_demote_f64x2_zero(f64x2_add(value, error)),
    )
}

#[cold]
#[inline(never)]
#[target_feature(enable = "simd128")]
fn repair(x: v128, value: v128, unsure: v128) -> v128 {
    let (mut inputs, mut outputs, mut chosen) = ([0.0f32; 4], [0.0f32; 4], [0u32; 4]);
    // SAFETY: arrays of 4.
    unsafe {
        v128_store(inputs.as_mut_ptr().cast(), x);
        v128_store(outputs.as_mut_ptr().cast(), value);
        v128_store(chosen.as_mut_ptr().cast(), unsure);
    }
    for lane in (0..4).filter(|lane| chosen[*lane] != 0) {
        outputs[lane] = elementary::exp(inputs[lane]);
    }
    // SAFETY: an array of 4.
    unsafe { v128_load(outputs.as_ptr().cast()) }
}
