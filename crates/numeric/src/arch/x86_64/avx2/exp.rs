//! The exponential function on 8 lanes.

use std::arch::x86_64::*;

use crate::convert::CANONICAL_NAN_BITS;
use crate::elementary::RELATIVE_ERROR;
use crate::elementary::exp::{
    EXP2_16_HIGH, HIGHEST, INVERSE_LN2_16, LN2_16_HIGH, LN2_16_LOW, LOWEST, TAYLOR, exp_slow,
};

/// The operations of [`crate::elementary::exp`] on each lane; lanes that fail the rounding test take its slow path.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn exp(x: __m256) -> __m256 {
    let (low, low_above) = half(_mm256_castps256_ps128(x));
    let (high, high_above) = half(_mm256_extractf128_ps::<1>(x));
    let (below, above) = (
        _mm256_set_m128(high, low),
        _mm256_set_m128(high_above, low_above),
    );
    let number = _mm256_cmp_ps::<_CMP_ORD_Q>(x, x);
    let unsure = _mm256_and_ps(_mm256_cmp_ps::<_CMP_NEQ_OQ>(below, above), number);
    let unsure = _mm256_movemask_ps(unsure);
    let value = if unsure == 0 {
        below
    } else {
        repair(x, below, unsure)
    };
    let nan = _mm256_castsi256_ps(_mm256_set1_epi32(CANONICAL_NAN_BITS as i32));
    _mm256_blendv_ps(nan, value, number)
}

/// e^x for 4 lanes, rounded from both ends of the error interval.
#[inline]
#[target_feature(enable = "avx2")]
fn half(x: __m128) -> (__m128, __m128) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let wide = _mm256_cvtps_pd(x);
    let wide = _mm256_min_pd(
        _mm256_max_pd(wide, _mm256_set1_pd(LOWEST)),
        _mm256_set1_pd(HIGHEST),
    );
    let shifted = _mm256_add_pd(
        _mm256_mul_pd(wide, _mm256_set1_pd(INVERSE_LN2_16)),
        _mm256_set1_pd(SHIFT),
    );
    let n = _mm256_sub_pd(shifted, _mm256_set1_pd(SHIFT));
    let r = _mm256_sub_pd(wide, _mm256_mul_pd(n, _mm256_set1_pd(LN2_16_HIGH)));
    let r = _mm256_sub_pd(r, _mm256_mul_pd(n, _mm256_set1_pd(LN2_16_LOW)));
    let mut polynomial = _mm256_set1_pd(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        polynomial = _mm256_add_pd(_mm256_mul_pd(polynomial, r), _mm256_set1_pd(*coefficient));
    }
    let q = _mm256_add_pd(r, _mm256_mul_pd(_mm256_mul_pd(r, r), polynomial));
    let index = _mm256_sub_epi64(
        _mm256_castpd_si256(shifted),
        _mm256_castpd_si256(_mm256_set1_pd(SHIFT)),
    );
    let place = _mm256_and_si256(index, _mm256_set1_epi64x(15));
    // SAFETY: indices from 0 to 15 into a table of 16.
    let entry = unsafe { _mm256_i64gather_pd::<8>(EXP2_16_HIGH.as_ptr(), place) };
    let value = _mm256_add_pd(entry, _mm256_mul_pd(entry, q));
    // The index is at least -2403: with the bias it is positive, and the logical shift divides by 16.
    let biased = _mm256_srli_epi64::<4>(_mm256_add_epi64(index, _mm256_set1_epi64x(1023 * 16)));
    let value = _mm256_mul_pd(value, _mm256_castsi256_pd(_mm256_slli_epi64::<52>(biased)));

    let error = _mm256_mul_pd(value, _mm256_set1_pd(RELATIVE_ERROR));
    (
        _mm256_cvtpd_ps(_mm256_sub_pd(value, error)),
        _mm256_cvtpd_ps(_mm256_add_pd(value, error)),
    )
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
        outputs[lane] = exp_slow(inputs[lane]);
    }
    // SAFETY: an array of 8.
    unsafe { _mm256_loadu_ps(outputs.as_ptr()) }
}
