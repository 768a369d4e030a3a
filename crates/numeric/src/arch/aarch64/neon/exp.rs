//! The exponential function on 4 lanes.

use std::arch::aarch64::*;

use crate::convert::CANONICAL_NAN_BITS;
use crate::elementary::RELATIVE_ERROR;
use crate::elementary::{
    self,
    exp::{EXP2_16_HIGH, HIGHEST, INVERSE_LN2_16, LN2_16_HIGH, LN2_16_LOW, LOWEST, TAYLOR},
};

/// The operations of [`crate::elementary::exp`] on each lane; lanes that fail the rounding test are left to it.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn exp(x: float32x4_t) -> float32x4_t {
    let (low, low_above) = half(vcvt_f64_f32(vget_low_f32(x)));
    let (high, high_above) = half(vcvt_high_f64_f32(x));
    let (below, above) = (vcombine_f32(low, high), vcombine_f32(low_above, high_above));
    let number = vceqq_f32(x, x);
    let unsure = vbicq_u32(number, vceqq_f32(below, above));
    let value = if vmaxvq_u32(unsure) == 0 {
        below
    } else {
        repair(x, below, unsure)
    };
    let nan = vreinterpretq_f32_u32(vdupq_n_u32(CANONICAL_NAN_BITS));
    vbslq_f32(number, value, nan)
}

/// e^x for 2 lanes, rounded from both ends of the error interval.
#[inline]
#[target_feature(enable = "neon")]
fn half(x: float64x2_t) -> (float32x2_t, float32x2_t) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let wide = vminq_f64(vmaxq_f64(x, vdupq_n_f64(LOWEST)), vdupq_n_f64(HIGHEST));
    let shifted = vaddq_f64(vmulq_n_f64(wide, INVERSE_LN2_16), vdupq_n_f64(SHIFT));
    let n = vsubq_f64(shifted, vdupq_n_f64(SHIFT));
    let r = vsubq_f64(wide, vmulq_n_f64(n, LN2_16_HIGH));
    let r = vsubq_f64(r, vmulq_n_f64(n, LN2_16_LOW));
    let mut polynomial = vdupq_n_f64(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        polynomial = vaddq_f64(vmulq_f64(polynomial, r), vdupq_n_f64(*coefficient));
    }
    let q = vaddq_f64(r, vmulq_f64(vmulq_f64(r, r), polynomial));
    let index = vsubq_s64(
        vreinterpretq_s64_f64(shifted),
        vdupq_n_s64(SHIFT.to_bits() as i64),
    );
    let entry = [
        EXP2_16_HIGH[(vgetq_lane_s64::<0>(index) & 15) as usize],
        EXP2_16_HIGH[(vgetq_lane_s64::<1>(index) & 15) as usize],
    ];
    // SAFETY: an array of 2.
    let entry = unsafe { vld1q_f64(entry.as_ptr()) };
    let value = vaddq_f64(entry, vmulq_f64(entry, q));
    // The index is at least -2403: with the bias it is positive.
    let biased = vshrq_n_s64::<4>(vaddq_s64(index, vdupq_n_s64(1023 * 16)));
    let value = vmulq_f64(value, vreinterpretq_f64_s64(vshlq_n_s64::<52>(biased)));

    let error = vmulq_n_f64(value, RELATIVE_ERROR);
    (
        vcvt_f32_f64(vsubq_f64(value, error)),
        vcvt_f32_f64(vaddq_f64(value, error)),
    )
}

#[cold]
#[inline(never)]
#[target_feature(enable = "neon")]
fn repair(x: float32x4_t, value: float32x4_t, unsure: uint32x4_t) -> float32x4_t {
    let (mut inputs, mut outputs, mut chosen) = ([0.0f32; 4], [0.0f32; 4], [0u32; 4]);
    // SAFETY: arrays of 4.
    unsafe {
        vst1q_f32(inputs.as_mut_ptr(), x);
        vst1q_f32(outputs.as_mut_ptr(), value);
        vst1q_u32(chosen.as_mut_ptr(), unsure);
    }
    for lane in (0..4).filter(|lane| chosen[*lane] != 0) {
        outputs[lane] = elementary::exp(inputs[lane]);
    }
    // SAFETY: an array of 4.
    unsafe { vld1q_f32(outputs.as_ptr()) }
}
