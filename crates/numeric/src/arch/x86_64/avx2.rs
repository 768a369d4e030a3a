//! AVX2 kernels: a tile as two halves of 8 rows.
//!
//! # Safety
//! Every function needs AVX2 and F16C; [`table`] looks for them.

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
    (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")).then_some(&TABLE)
}

/// `values` with every NaN replaced by the canonical one.
#[inline]
#[target_feature(enable = "avx2")]
fn canonical(values: __m256) -> __m256 {
    let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values);
    _mm256_blendv_ps(
        values,
        _mm256_castsi256_ps(_mm256_set1_epi32(CANONICAL_NAN_BITS as i32)),
        nan,
    )
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[f32; 8]) -> __m256 {
    // SAFETY: 32 bytes, any alignment.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(values: &mut [f32; 8], lanes: __m256) {
    // SAFETY: 32 bytes, any alignment.
    unsafe { _mm256_storeu_ps(values.as_mut_ptr(), lanes) }
}

/// 8 f16, widened.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_f16(values: &[u16; 8]) -> __m256 {
    // SAFETY: 16 bytes, any alignment.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}
