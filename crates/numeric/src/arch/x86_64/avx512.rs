//! AVX-512: 16 lanes, with and without VNNI.
//!
//! # Units and bounds
//! VNNI's dpbusd multiplies unsigned weights by signed activations and adds without saturation: at most
//! 32 * 255 * 127 < 2^20 in magnitude. Without it, as in AVX2: maddubs saturates at 32,767, which pairs of weights up
//! to 128 in magnitude never reach (2 * 128 * 127 = 32,512), nor eight pairs of nibbles (30,480).

mod exp;

use std::arch::x86_64::*;

use crate::arch::KernelTable;
use crate::convert::CANONICAL_NAN_BITS;

/// The instance that uses `$token`'s integer dots.
macro_rules! instance {
    ($module:ident, $token:ident, $features:literal, $detected:expr, $doc:literal, { $($dots:tt)* }) => {
        pub(crate) mod $module {
            use super::*;
            use crate::arch::generic::{FLIPPED_CODES, Simd, instantiate, operations};

            #[doc = $doc]
            #[derive(Clone, Copy)]
            pub(crate) struct $token(());

            impl $token {
                /// # Safety
                /// The processor has the instruction set.
                #[inline(always)]
                unsafe fn new() -> Self {
                    Self(())
                }
            }

            /// The kernels, if this processor can run them.
            pub(crate) fn table() -> Option<&'static KernelTable> {
                ($detected && base_detected()).then_some(&TABLE)
            }

            instantiate!($token, $features, rows: 4 / 2, sixteen: 1, attention: 6 x 2);

            impl Simd for $token {
                const LANES: usize = 16;
                type F32 = __m512;
                type I32 = __m512i;
                type NibbleSum = __m512i;
                type ByteSum = __m512i;

                #[inline(always)]
                unsafe fn load_f32(self, from: *const f32) -> __m512 {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm512_loadu_ps(from) }
                }
                #[inline(always)]
                unsafe fn store_f32(self, to: *mut f32, value: __m512) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm512_storeu_ps(to, value) }
                }
                #[inline(always)]
                unsafe fn load_f16(self, from: *const u8) -> __m512 {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
                }
                #[inline(always)]
                unsafe fn load_bf16(self, from: *const u8) -> __m512 {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe {
                        let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
                    }
                }
                #[inline(always)]
                unsafe fn store_f16(self, to: *mut u16, value: __m512) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe {
                        let narrow = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value);
                        _mm256_storeu_si256(to.cast(), narrow);
                    }
                }
                #[inline(always)]
                unsafe fn load_i32(self, from: *const u8) -> __m512i {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm512_loadu_si512(from.cast()) }
                }
                #[inline(always)]
                fn splat_f16(self, bits: u16) -> __m512 {
                    // SAFETY: the token proves the instruction set.
                    unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits.cast_signed())) }
                }
                #[inline(always)]
                unsafe fn load_i8(self, from: *const u8) -> __m512i {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
                }
                #[inline(always)]
                unsafe fn store_i8(self, to: *mut i8, value: __m512i) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(value)) }
                }

                operations! {
                    fn splat_f32(value: f32) -> __m512 { _mm512_set1_ps(value) }
                    fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
                    fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
                    fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
                    fn div(a: __m512, b: __m512) -> __m512 { _mm512_div_ps(a, b) }
                    fn abs(a: __m512) -> __m512 { _mm512_abs_ps(a) }
                    fn neg(a: __m512) -> __m512 { _mm512_xor_ps(a, _mm512_set1_ps(-0.0)) }
                    fn max(a: __m512, b: __m512) -> __m512 {
                        // The instruction gives b if either is NaN.
                        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
                        _mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a)
                    }
                    fn max_size(a: __m512, b: __m512) -> __m512 {
                        _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)))
                    }
                    fn largest_size(a: __m512) -> f32 {
                        f32::from_bits(_mm512_reduce_max_epi32(_mm512_castps_si512(a)) as u32)
                    }
                    fn canonical(a: __m512) -> __m512 { canonical(a) }
                    fn to_quants(a: __m512) -> __m512i {
                        let number = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a);
                        let (low, high) = (_mm512_set1_ps(-127.0), _mm512_set1_ps(127.0));
                        _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(number, low), high))
                    }
                    fn exp(a: __m512) -> __m512 { exp::exp(a) }

                    fn splat_i32(value: i32) -> __m512i { _mm512_set1_epi32(value) }
                    fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
                    fn mul_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_mullo_epi32(a, b) }
                    fn and(a: __m512i, b: __m512i) -> __m512i { _mm512_and_si512(a, b) }
                    fn or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
                    fn shift_left<const N: i32>(a: __m512i) -> __m512i {
                        _mm512_sll_epi32(a, _mm_cvtsi32_si128(N))
                    }
                    fn shift_right<const N: i32>(a: __m512i) -> __m512i {
                        _mm512_srl_epi32(a, _mm_cvtsi32_si128(N))
                    }
                    fn shift_right_signed<const N: i32>(a: __m512i) -> __m512i {
                        _mm512_sra_epi32(a, _mm_cvtsi32_si128(N))
                    }
                    fn codes(nibbles: __m512i) -> __m512i {
                        let codes = _mm_loadu_si128(FLIPPED_CODES.as_ptr().cast());
                        _mm512_shuffle_epi8(_mm512_broadcast_i32x4(codes), nibbles)
                    }
                    fn to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
                    fn sum_lanes(a: __m512i) -> i32 { _mm512_reduce_add_epi32(a) }

                    $($dots)*

                    fn prefetch(address: *const u8) { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
                }
            }
        }
    };
}

instance!(
    vnni,
    Avx512Vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c,fma",
    is_x86_feature_detected!("avx512vnni"),
    "Proves AVX-512 F, BW, DQ, VL and VNNI.",
    {
        fn nibble_start(correction: __m512i) -> __m512i {
            correction
        }
        fn nibble_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, x)
        }
        fn nibble_finish(sum: __m512i, _correction: __m512i) -> __m512i {
            sum
        }
        fn byte_start(correction: __m512i) -> __m512i {
            correction
        }
        fn byte_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, x)
        }
        fn byte_finish(sum: __m512i, _correction: __m512i) -> __m512i {
            sum
        }
        fn flipped_start(correction: __m512i) -> __m512i {
            correction
        }
        fn flipped_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, x)
        }
        fn flipped_finish(sum: __m512i) -> __m512i {
            sum
        }
    }
);

instance!(
    plain,
    Avx512,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,fma",
    true,
    "Proves AVX-512 F, BW, DQ and VL.",
    {
        fn nibble_start(_correction: __m512i) -> __m512i {
            _mm512_setzero_si512()
        }
        fn nibble_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            _mm512_add_epi16(sum, _mm512_maddubs_epi16(weights, x))
        }
        fn nibble_finish(sum: __m512i, correction: __m512i) -> __m512i {
            _mm512_add_epi32(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)), correction)
        }
        fn byte_start(correction: __m512i) -> __m512i {
            correction
        }
        fn byte_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            let pairs = _mm512_maddubs_epi16(weights, x);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
        fn byte_finish(sum: __m512i, _correction: __m512i) -> __m512i {
            sum
        }
        fn flipped_start(_correction: __m512i) -> __m512i {
            _mm512_setzero_si512()
        }
        fn flipped_dot(sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
            // Negative weights lack the flipped top bit.
            let weights = _mm512_xor_si512(weights, _mm512_set1_epi8(-128));
            let negative = _mm512_movepi8_mask(weights);
            let x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), x);
            _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
        fn flipped_finish(sum: __m512i) -> __m512i {
            sum
        }
    }
);

fn base_detected() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma")
}

/// `values` with every NaN replaced by the canonical one.
#[inline]
#[target_feature(enable = "avx512f")]
fn canonical(values: __m512) -> __m512 {
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    let canonical = _mm512_castsi512_ps(_mm512_set1_epi32(CANONICAL_NAN_BITS as i32));
    _mm512_mask_mov_ps(values, nan, canonical)
}
