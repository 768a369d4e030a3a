//! The exponential function on 8 lanes.
//!
//! # Design
//! Without a table, since looking one up is slow here; with less precision than [`crate::elementary::exp`] and so more
//! lanes left to that one, one in 2^15. FMA is allowed here: a result that passes the test is the correctly
//! rounded one, however it was computed.
//!
//! # Units and bounds
//! With n = x / ln 2 rounded to an integer, |n| <= 151, and r = x - n * ln2, |r| <= 0.3467: the constant's error gives
//! r an error below 2^-46, the truncated series leaves r^12/12! < 2^-47, and the operations round by less than 2^-50
//! together. Relative to the result, of at least 0.7 before scaling, that is below 2^-44; the test assumes 2^-40, which
//! is at most 2^13 units in the last place of an f64.

use std::arch::x86_64::*;

use crate::convert::CANONICAL_NAN_BITS;
use crate::elementary::{
    self,
    exp::{HIGHEST, LOWEST, LOWEST_NORMAL},
};

/// 1/10!, 1/9!, ..., 1/0!; the first coefficient, 1/11!, starts the sum.
const TAYLOR: [f64; 11] = [
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) fn exp(x: __m256) -> __m256 {
    // A NaN becomes the lower end.
    let clamped = _mm256_min_ps(
        _mm256_max_ps(x, _mm256_set1_ps(LOWEST as f32)),
        _mm256_set1_ps(HIGHEST as f32),
    );
    let (low, low_unsure) = half(_mm256_castps256_ps128(clamped));
    let (high, high_unsure) = half(_mm256_extractf128_ps::<1>(clamped));
    let value = _mm256_set_m128(high, low);
    // Subnormal results have fewer bits than the test looks at. At the lower end the result is zero for sure.
    let subnormal = _mm256_and_ps(
        _mm256_cmp_ps::<_CMP_LT_OQ>(clamped, _mm256_set1_ps(LOWEST_NORMAL)),
        _mm256_cmp_ps::<_CMP_GT_OQ>(clamped, _mm256_set1_ps(LOWEST as f32)),
    );
    let unsure = _mm256_movemask_ps(subnormal) | low_unsure | high_unsure << 4;
    let value = if unsure == 0 {
        value
    } else {
        repair(clamped, value, unsure)
    };
    let number = _mm256_cmp_ps::<_CMP_ORD_Q>(x, x);
    let nan = _mm256_castsi256_ps(_mm256_set1_epi32(CANONICAL_NAN_BITS as i32));
    _mm256_blendv_ps(nan, value, number)
}

/// e^x for 4 lanes, and a mask of those that may be rounded wrongly.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn half(x: __m128) -> (__m128, i32) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    const MARGIN: i64 = 1 << 13;
    /// Of the 29 bits that rounding to f32 drops, the middle.
    const MIDDLE: i64 = 1 << 28;
    let x = _mm256_cvtps_pd(x);
    let inverse = _mm256_set1_pd(std::f64::consts::LOG2_E);
    let shifted = _mm256_fmadd_pd(x, inverse, _mm256_set1_pd(SHIFT));
    let n = _mm256_sub_pd(shifted, _mm256_set1_pd(SHIFT));
    let r = _mm256_fnmadd_pd(n, _mm256_set1_pd(std::f64::consts::LN_2), x);
    let mut p = _mm256_set1_pd(1.0 / 39_916_800.0);
    for coefficient in TAYLOR {
        p = _mm256_fmadd_pd(p, r, _mm256_set1_pd(coefficient));
    }
    // Adds n to the exponent: p is between 0.7 and 1.5, and the result is normal in f64.
    let exponent = _mm256_slli_epi64::<52>(_mm256_castpd_si256(shifted));
    let bits = _mm256_add_epi64(_mm256_castpd_si256(p), exponent);

    let offset = _mm256_sub_epi64(bits, _mm256_set1_epi64x(MIDDLE - MARGIN));
    let dropped = _mm256_and_si256(offset, _mm256_set1_epi64x(2 * MIDDLE - 1));
    let sure = _mm256_cmpgt_epi64(dropped, _mm256_set1_epi64x(2 * MARGIN));
    let unsure = !_mm256_movemask_pd(_mm256_castsi256_pd(sure)) & 15;
    (_mm256_cvtpd_ps(_mm256_castsi256_pd(bits)), unsure)
}

#[cold]
#[inline(never)]
#[target_feature(enable = "avx2")]
fn repair(x: __m256, value: __m256, unsure: i32) -> __m256 {
    let (mut inputs, mut outputs) = ([0.0f32; 8], [0.0f32; 8]);
    // SAFETY: arrays of 8.
    unsafe {
        _mm256_storeu_ps(inputs.as_mut_ptr(), x);
        _mm256_storeu_ps(outputs.as_mut_ptr(), value);
    }
    for lane in (0..8).filter(|lane| unsure >> lane & 1 == 1) {
        outputs[lane] = elementary::exp(inputs[lane]);
    }
    // SAFETY: an array of 8.
    unsafe { _mm256_loadu_ps(outputs.as_ptr()) }
}
