//! AVX-512 kernels: 16 lanes, one per row of a tile, with VNNI for the integer dots.
//!
//! # Safety
//! Every function needs AVX-512 F, BW, DQ, VL and VNNI; [`table`] looks for them.

mod attention;
mod exp;
mod matmul;
mod row;

use std::arch::x86_64::*;

use crate::arch::KernelTable;
use crate::convert::CANONICAL_NAN_BITS;

static TABLE: KernelTable = KernelTable {
    quantize_f32_i8: row::quantize_f32_i8,
    matmul_q8_0_f32: matmul::matmul_q8_0_f32,
    matmul_q4_1_f32: matmul::matmul_q4_1_f32,
    matmul_f32_f32: matmul::matmul_f32_f32,
    rms_norm_f32_f32: row::rms_norm_f32_f32,
    scores_f16_f32: attention::scores_f16_f32,
    softmax_f32_f32: row::softmax_f32_f32,
    values_f16_f32: attention::values_f16_f32,
    silu_mul_f32_f32: row::silu_mul_f32_f32,
};

/// The kernels, if this processor can run them.
pub(crate) fn table() -> Option<&'static KernelTable> {
    let available = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c");
    available.then_some(&TABLE)
}

/// `values` with every NaN replaced by the canonical one.
#[inline]
#[target_feature(enable = "avx512f")]
fn canonical(values: __m512) -> __m512 {
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    _mm512_mask_mov_ps(
        values,
        nan,
        _mm512_castsi512_ps(_mm512_set1_epi32(CANONICAL_NAN_BITS as i32)),
    )
}

/// The first `count` lanes.
#[inline]
fn first_lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Up to 16 elements; lanes past the end are +0.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32]) -> __m512 {
    if values.len() >= 16 {
        // SAFETY: 64 bytes of the slice, any alignment.
        return unsafe { _mm512_loadu_ps(values.as_ptr()) };
    }
    // SAFETY: only the lanes within the slice are read.
    unsafe { _mm512_maskz_loadu_ps(first_lanes(values.len()), values.as_ptr()) }
}

/// Writes up to 16 elements; masked stores, slow on some processors, only where needed.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(values: &mut [f32], lanes: __m512) {
    if values.len() >= 16 {
        // SAFETY: 64 bytes of the slice, any alignment.
        return unsafe { _mm512_storeu_ps(values.as_mut_ptr(), lanes) };
    }
    // SAFETY: only the lanes within the slice are written.
    unsafe { _mm512_mask_storeu_ps(values.as_mut_ptr(), first_lanes(values.len()), lanes) }
}

/// 16 f16, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_f16(values: &[u16; 16]) -> __m512 {
    // SAFETY: 32 bytes, any alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) })
}
