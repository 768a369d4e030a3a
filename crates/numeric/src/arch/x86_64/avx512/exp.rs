//! The exponential function on 16 lanes.
//!
//! # Design
//! As [`crate::elementary::exp`], with less precision and so more lanes left to that function, one in 2^15. FMA is
//! allowed here: a result that passes the test is the correctly rounded one, however it was computed.
//!
//! # Units and bounds
//! With n = x * 16 / ln 2 rounded to an integer, |n| <= 2403, and r = x - n * ln2/16, |r| <= 0.0217: the constant's
//! error gives r an error below 2^-46, the truncated series leaves r^6/6! < 2^-42, the table entry and the last sum
//! round by 2^-53 each. Relative to the result that is below 2^-41; the test assumes 2^-40, which is at most 2^13 units
//! in the last place of an f64.

use std::arch::x86_64::*;

use super::canonical;
use crate::elementary::{
    self,
    exp::{EXP2_16_HIGH, HIGHEST, INVERSE_LN2_16, LOWEST, LOWEST_NORMAL},
};

/// ln 2 / 16, rounded.
const LN2_16: f64 = std::f64::consts::LN_2 / 16.0;
/// 2^(j/16), j subtracted from the bits from bit 48 on, where adding n * 2^48 brings it back together with the exponent.
const TABLE: [u64; 16] = {
    let mut table = [0; 16];
    let mut j = 0;
    while j < 16 {
        table[j] = EXP2_16_HIGH[j].to_bits() - ((j as u64) << 48);
        j += 1;
    }
    table
};

#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
pub(super) fn exp(x: __m512) -> __m512 {
    // A NaN becomes the lower end.
    let clamped = _mm512_min_ps(
        _mm512_max_ps(x, _mm512_set1_ps(LOWEST as f32)),
        _mm512_set1_ps(HIGHEST as f32),
    );
    let low = half(_mm512_castps512_ps256(clamped));
    let high = half(_mm512_extractf32x8_ps::<1>(clamped));
    let value = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low.0), high.0);
    // Subnormal results have fewer bits than the test looks at. At the lower end the result is zero for sure.
    let subnormal = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(clamped, _mm512_set1_ps(LOWEST_NORMAL))
        & _mm512_cmp_ps_mask::<_CMP_GT_OQ>(clamped, _mm512_set1_ps(LOWEST as f32));
    let unsure = (u16::from(low.1) | u16::from(high.1) << 8) | subnormal;
    let value = if unsure == 0 {
        value
    } else {
        repair(clamped, value, unsure)
    };
    let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
    canonical(_mm512_mask_mov_ps(x, number, value))
}

/// e^x for 8 lanes, and a mask of those that may be rounded wrongly.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl")]
fn half(x: __m256) -> (__m256, __mmask8) {
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    const MARGIN: i64 = 1 << 13;
    /// Of the 29 bits that rounding to f32 drops, the middle.
    const MIDDLE: i64 = 1 << 28;
    let x = _mm512_cvtps_pd(x);
    let shifted = _mm512_fmadd_pd(x, _mm512_set1_pd(INVERSE_LN2_16), _mm512_set1_pd(SHIFT));
    let n = _mm512_sub_pd(shifted, _mm512_set1_pd(SHIFT));
    let r = _mm512_fnmadd_pd(n, _mm512_set1_pd(LN2_16), x);
    let p = _mm512_fmadd_pd(r, _mm512_set1_pd(1.0 / 120.0), _mm512_set1_pd(1.0 / 24.0));
    let p = _mm512_fmadd_pd(p, r, _mm512_set1_pd(1.0 / 6.0));
    let p = _mm512_fmadd_pd(p, r, _mm512_set1_pd(0.5));
    let p = _mm512_fmadd_pd(p, r, _mm512_set1_pd(1.0));
    // SAFETY: the table has 16 elements, read as two times 8.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(TABLE.as_ptr().cast()),
            _mm512_loadu_si512(TABLE.as_ptr().add(8).cast()),
        )
    };
    // The low four bits of the shifted value select.
    let index = _mm512_castpd_si512(shifted);
    let entry = _mm512_permutex2var_epi64(low, index, high);
    let scaled = _mm512_add_epi64(entry, _mm512_slli_epi64::<48>(index));
    let scaled = _mm512_castsi512_pd(scaled);
    let value = _mm512_fmadd_pd(_mm512_mul_pd(scaled, r), p, scaled);

    let bits = _mm512_castpd_si512(value);
    let offset = _mm512_sub_epi64(bits, _mm512_set1_epi64(MIDDLE - MARGIN));
    let dropped = _mm512_and_si512(offset, _mm512_set1_epi64(2 * MIDDLE - 1));
    let unsure = _mm512_cmple_epi64_mask(dropped, _mm512_set1_epi64(2 * MARGIN));
    (_mm512_cvtpd_ps(value), unsure)
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
        outputs[lane] = elementary::exp(inputs[lane]);
    }
    // SAFETY: an array of 16.
    unsafe { _mm512_loadu_ps(outputs.as_ptr()) }
}
