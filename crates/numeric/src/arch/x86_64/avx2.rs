//! AVX2: 8 lanes.
//!
//! # Units and bounds
//! maddubs multiplies unsigned by signed bytes and adds pairs with saturation at 32,767, which is never reached because
//! activations are at most 127 in magnitude: a pair of nibbles gives at most 2 * 15 * 127 = 3,810 and eight of them
//! 30,480; a pair of weights up to 127, 32,258; a pair of signed weights, their sign moved to the activation,
//! 2 * 128 * 127 = 32,512.

mod exp;

use std::arch::x86_64::*;

use crate::arch::KernelTable;
use crate::arch::generic::{FLIPPED_CODES, Simd, instantiate, operations};
use crate::convert::CANONICAL_NAN_BITS;

/// Proves AVX2, F16C and FMA, which only the exponential function uses.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The processor has AVX2, F16C and FMA.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

/// The kernels, if this processor can run them.
pub(crate) fn table() -> Option<&'static KernelTable> {
    let available = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma");
    available.then_some(&TABLE)
}

instantiate!(Avx2, "avx2,f16c,fma", rows: 2 / 1, sixteen: 2, attention: 3 x 2);

impl Simd for Avx2 {
    const LANES: usize = 8;
    type F32 = __m256;
    type I32 = __m256i;
    /// 16-bit lanes.
    type NibbleSum = __m256i;
    type ByteSum = __m256i;

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> __m256 {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32, value: __m256) {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u8) -> __m256 {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u8) -> __m256 {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, value: __m256) {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe {
            let narrow = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
            _mm_storeu_si128(to.cast(), narrow);
        }
    }
    #[inline(always)]
    unsafe fn load_i32(self, from: *const u8) -> __m256i {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }
    #[inline(always)]
    fn splat_f16(self, bits: u16) -> __m256 {
        // SAFETY: the token proves the instruction set.
        unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits.cast_signed())) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> __m256i {
        // SAFETY: as the caller's; the token proves the instruction set.
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: __m256i) {
        // SAFETY: as the caller's; the token proves the instruction set. Nothing saturates.
        unsafe {
            let (low, high) = (
                _mm256_castsi256_si128(value),
                _mm256_extracti128_si256::<1>(value),
            );
            let words = _mm_packs_epi32(low, high);
            _mm_storel_epi64(to.cast(), _mm_packs_epi16(words, words));
        }
    }

    operations! {
        fn splat_f32(value: f32) -> __m256 { _mm256_set1_ps(value) }
        fn add(a: __m256, b: __m256) -> __m256 { _mm256_add_ps(a, b) }
        fn sub(a: __m256, b: __m256) -> __m256 { _mm256_sub_ps(a, b) }
        fn mul(a: __m256, b: __m256) -> __m256 { _mm256_mul_ps(a, b) }
        fn div(a: __m256, b: __m256) -> __m256 { _mm256_div_ps(a, b) }
        fn abs(a: __m256) -> __m256 { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
        fn neg(a: __m256) -> __m256 { _mm256_xor_ps(_mm256_set1_ps(-0.0), a) }
        fn max(a: __m256, b: __m256) -> __m256 {
            // The instruction gives b if either is NaN.
            let larger = _mm256_max_ps(a, b);
            _mm256_blendv_ps(larger, a, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a))
        }
        fn max_size(a: __m256, b: __m256) -> __m256 {
            _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)))
        }
        fn largest_size(a: __m256) -> f32 {
            let a = _mm256_castps_si256(a);
            let sizes = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let sizes = _mm_max_epi32(sizes, _mm_shuffle_epi32::<0b01_00_11_10>(sizes));
            let sizes = _mm_max_epi32(sizes, _mm_shuffle_epi32::<0b10_11_00_01>(sizes));
            f32::from_bits(_mm_cvtsi128_si32(sizes) as u32)
        }
        fn canonical(a: __m256) -> __m256 {
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
            _mm256_blendv_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(CANONICAL_NAN_BITS as i32)), nan)
        }
        fn to_quants(a: __m256) -> __m256i {
            let number = _mm256_and_ps(a, _mm256_cmp_ps::<_CMP_ORD_Q>(a, a));
            let (low, high) = (_mm256_set1_ps(-127.0), _mm256_set1_ps(127.0));
            _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(number, low), high))
        }
        fn exp(a: __m256) -> __m256 { exp::exp(a) }

        fn splat_i32(value: i32) -> __m256i { _mm256_set1_epi32(value) }
        fn add_i32(a: __m256i, b: __m256i) -> __m256i { _mm256_add_epi32(a, b) }
        fn mul_i32(a: __m256i, b: __m256i) -> __m256i { _mm256_mullo_epi32(a, b) }
        fn and(a: __m256i, b: __m256i) -> __m256i { _mm256_and_si256(a, b) }
        fn or(a: __m256i, b: __m256i) -> __m256i { _mm256_or_si256(a, b) }
        fn shift_left<const N: i32>(a: __m256i) -> __m256i { _mm256_slli_epi32::<N>(a) }
        fn shift_right<const N: i32>(a: __m256i) -> __m256i { _mm256_srli_epi32::<N>(a) }
        fn shift_right_signed<const N: i32>(a: __m256i) -> __m256i { _mm256_srai_epi32::<N>(a) }
        fn to_f32(a: __m256i) -> __m256 { _mm256_cvtepi32_ps(a) }
        fn sum_lanes(a: __m256i) -> i32 {
            let sums = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            let sums = _mm_add_epi32(sums, _mm_shuffle_epi32::<0b01_00_11_10>(sums));
            _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_shuffle_epi32::<0b10_11_00_01>(sums)))
        }

        fn nibble_start(_correction: __m256i) -> __m256i { _mm256_setzero_si256() }
        fn nibble_dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            _mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, x))
        }
        fn nibble_finish(sum: __m256i, correction: __m256i) -> __m256i {
            _mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), correction)
        }
        fn byte_start(correction: __m256i) -> __m256i { correction }
        fn byte_dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            let pairs = _mm256_maddubs_epi16(weights, x);
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn byte_finish(sum: __m256i, _correction: __m256i) -> __m256i { sum }
        fn flipped_start(_correction: __m256i) -> __m256i { _mm256_setzero_si256() }
        fn flipped_dot(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
            let weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
            _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
        fn flipped_finish(sum: __m256i) -> __m256i { sum }
        fn codes(nibbles: __m256i) -> __m256i {
            let codes = _mm_loadu_si128(FLIPPED_CODES.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(codes), nibbles)
        }

        fn prefetch(address: *const u8) { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}
