//! The exponential function on 16 lanes.

use std::arch::x86_64::*;

use super::canonical;
use crate::elementary::RELATIVE_ERROR;
use crate::elementary::exp::{
    EXP2_16_HIGH, HIGHEST, INVERSE_LN2_16, LN2_16_HIGH, LN2_16_LOW, LOWEST, TAYLOR, exp_slow,
};

/// The operations of [`crate::elementary::exp`] on each lane; lanes that fail the rounding test take its slow path.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn exp(x: __m512) -> __m512 {
    let low_half = half(_mm512_castps512_ps256(x));
    let high_half = half(_mm512_extractf32x8_ps::<1>(x));
    let value = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low_half.0), high_half.0);
    let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
    let unsure = (u16::from(low_half.1) | u16::from(high_half.1) << 8) & number;
    let value = if unsure == 0 {
        value
    } else {
        repair(x, value, unsure)
    };
    // The sum is a NaN where x is one.
    canonical(_mm512_mask_mov_ps(x, number, value))
}

/// e^x for 8 lanes, and a mask of those that may be rounded wrongly.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn half(x: __m256) -> (__m256, __mmask8) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let wide = _mm512_cvtps_pd(x);
    let wide = _mm512_min_pd(
        _mm512_max_pd(wide, _mm512_set1_pd(LOWEST)),
        _mm512_set1_pd(HIGHEST),
    );
    let shifted = _mm512_add_pd(
        _mm512_mul_pd(wide, _mm512_set1_pd(INVERSE_LN2_16)),
        _mm512_set1_pd(SHIFT),
    );
    let n = _mm512_sub_pd(shifted, _mm512_set1_pd(SHIFT));
    let r = _mm512_sub_pd(wide, _mm512_mul_pd(n, _mm512_set1_pd(LN2_16_HIGH)));
    let r = _mm512_sub_pd(r, _mm512_mul_pd(n, _mm512_set1_pd(LN2_16_LOW)));
    let mut polynomial = _mm512_set1_pd(TAYLOR[0]);
    for coefficient in &TAYLOR[1..] {
        polynomial = _mm512_add_pd(_mm512_mul_pd(polynomial, r), _mm512_set1_pd(*coefficient));
    }
    let q = _mm512_add_pd(r, _mm512_mul_pd(_mm512_mul_pd(r, r), polynomial));
    let index = _mm512_sub_epi64(
        _mm512_castpd_si512(shifted),
        _mm512_castpd_si512(_mm512_set1_pd(SHIFT)),
    );
    // SAFETY: the table has 16 elements, read as two times 8.
    let (low, high) = unsafe {
        (
            _mm512_loadu_pd(EXP2_16_HIGH.as_ptr()),
            _mm512_loadu_pd(EXP2_16_HIGH.as_ptr().add(8)),
        )
    };
    // The low four bits of the index select.
    let entry = _mm512_permutex2var_pd(low, index, high);
    let value = _mm512_add_pd(entry, _mm512_mul_pd(entry, q));
    let exponent = _mm512_srai_epi64::<4>(index);
    let factor = _mm512_slli_epi64::<52>(_mm512_add_epi64(exponent, _mm512_set1_epi64(1023)));
    let value = _mm512_mul_pd(value, _mm512_castsi512_pd(factor));

    let error = _mm512_mul_pd(value, _mm512_set1_pd(RELATIVE_ERROR));
    let below = _mm512_cvtpd_ps(_mm512_sub_pd(value, error));
    let above = _mm512_cvtpd_ps(_mm512_add_pd(value, error));
    (below, _mm256_cmp_ps_mask::<_CMP_NEQ_OQ>(below, above))
}

#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f")]
fn repair(x: __m512, value: __m512, unsure: __mmask16) -> __m512 {
    let (mut inputs, mut outputs) = ([0.0f32; 16], [0.0f32; 16]);
    // SAFETY: arrays of 16.
    unsafe {
        _mm512_storeu_ps(inputs.as_mut_ptr(), x);
        _mm512_storeu_ps(outputs.as_mut_ptr(), value);
    }
    for lane in (0..16).filter(|lane| unsure >> lane & 1 == 1) {
        outputs[lane] = exp_slow(inputs[lane]);
    }
    // SAFETY: an array of 16.
    unsafe { _mm512_loadu_ps(outputs.as_ptr()) }
}
