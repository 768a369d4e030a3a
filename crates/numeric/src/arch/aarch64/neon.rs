//! NEON: 4 lanes, with and without the dot product instructions.
//!
//! # Units and bounds
//! sdot adds four products of signed bytes to 32 bits: at most 32 * 128 * 127 < 2^20 in magnitude. Without it products
//! have 16 bits: one of nibbles gives at most 15 * 127 = 1,905 in magnitude and eight of them, added up lane by lane,
//! 15,240; a pair of weights up to 127, 2 * 127 * 127 = 32,258; a pair of signed weights, 2 * 128 * 127 = 32,512.

mod exp;

use std::arch::aarch64::*;
use std::arch::asm;
use std::arch::is_aarch64_feature_detected;

use crate::arch::KernelTable;
use crate::convert::CANONICAL_NAN_BITS;

/// The instance that uses `$token`'s integer dots.
macro_rules! instance {
    (
        $module:ident, $token:ident, $features:literal, $detected:expr, $doc:literal, rows: $decode:literal / $prefill:literal,
        nibbles: $nibbles:ty, { $($dots:tt)* }
    ) => {
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
                $detected.then_some(&TABLE)
            }

            instantiate!($token, $features, rows: $decode / $prefill, sixteen: 4, attention: 3 x 4);

            impl Simd for $token {
                const LANES: usize = 4;
                type F32 = float32x4_t;
                type I32 = int32x4_t;
                type NibbleSum = $nibbles;
                type ByteSum = int32x4_t;

                #[inline(always)]
                unsafe fn load_f32(self, from: *const f32) -> float32x4_t {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { vld1q_f32(from) }
                }
                #[inline(always)]
                unsafe fn store_f32(self, to: *mut f32, value: float32x4_t) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { vst1q_f32(to, value) }
                }
                #[inline(always)]
                unsafe fn load_f16(self, from: *const u8) -> float32x4_t {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))) }
                }
                #[inline(always)]
                unsafe fn load_bf16(self, from: *const u8) -> float32x4_t {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe {
                        let narrow = vreinterpret_u16_u8(vld1_u8(from));
                        vreinterpretq_f32_u32(vshll_n_u16::<16>(narrow))
                    }
                }
                #[inline(always)]
                unsafe fn store_f16(self, to: *mut u16, value: float32x4_t) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(value))) }
                }
                #[inline(always)]
                unsafe fn load_i32(self, from: *const u8) -> int32x4_t {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe { vreinterpretq_s32_u8(vld1q_u8(from)) }
                }
                #[inline(always)]
                unsafe fn load_i8(self, from: *const u8) -> int32x4_t {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe {
                        let four = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
                        vmovl_s16(vget_low_s16(vmovl_s8(four)))
                    }
                }
                #[inline(always)]
                unsafe fn store_i8(self, to: *mut i8, value: int32x4_t) {
                    // SAFETY: as the caller's; the token proves the instruction set.
                    unsafe {
                        let words = vmovn_s32(value);
                        let bytes = vmovn_s16(vcombine_s16(words, words));
                        let four = vget_lane_s32::<0>(vreinterpret_s32_s8(bytes));
                        to.cast::<i32>().write_unaligned(four);
                    }
                }

                operations! {
                    fn splat_f32(value: f32) -> float32x4_t { vdupq_n_f32(value) }
                    fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t { vaddq_f32(a, b) }
                    fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t { vsubq_f32(a, b) }
                    fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmulq_f32(a, b) }
                    fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t { vdivq_f32(a, b) }
                    fn abs(a: float32x4_t) -> float32x4_t { vabsq_f32(a) }
                    fn neg(a: float32x4_t) -> float32x4_t { vnegq_f32(a) }
                    fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t { vmaxq_f32(a, b) }
                    fn max_size(a: float32x4_t, b: float32x4_t) -> float32x4_t {
                        let (a, b) = (vreinterpretq_s32_f32(a), vreinterpretq_s32_f32(b));
                        vreinterpretq_f32_s32(vmaxq_s32(a, b))
                    }
                    fn largest_size(a: float32x4_t) -> f32 {
                        f32::from_bits(vmaxvq_s32(vreinterpretq_s32_f32(a)) as u32)
                    }
                    fn canonical(a: float32x4_t) -> float32x4_t {
                        let nan = vreinterpretq_f32_u32(vdupq_n_u32(CANONICAL_NAN_BITS));
                        vbslq_f32(vceqq_f32(a, a), a, nan)
                    }
                    fn to_quants(a: float32x4_t) -> int32x4_t {
                        // The conversion gives 0 for a NaN and saturates.
                        let rounded = vcvtnq_s32_f32(a);
                        vminq_s32(vmaxq_s32(rounded, vdupq_n_s32(-127)), vdupq_n_s32(127))
                    }
                    fn exp(a: float32x4_t) -> float32x4_t { exp::exp(a) }

                    fn splat_i32(value: i32) -> int32x4_t { vdupq_n_s32(value) }
                    fn add_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t { vaddq_s32(a, b) }
                    fn mul_i32(a: int32x4_t, b: int32x4_t) -> int32x4_t { vmulq_s32(a, b) }
                    fn and(a: int32x4_t, b: int32x4_t) -> int32x4_t { vandq_s32(a, b) }
                    fn or(a: int32x4_t, b: int32x4_t) -> int32x4_t { vorrq_s32(a, b) }
                    // A shift to the right is one to the left by a negative number.
                    fn shift_left<const N: i32>(a: int32x4_t) -> int32x4_t { vshlq_s32(a, vdupq_n_s32(N)) }
                    fn shift_right<const N: i32>(a: int32x4_t) -> int32x4_t {
                        vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-N)))
                    }
                    fn shift_right_signed<const N: i32>(a: int32x4_t) -> int32x4_t { vshlq_s32(a, vdupq_n_s32(-N)) }
                    fn codes(nibbles: int32x4_t) -> int32x4_t {
                        let codes = vld1q_u8(FLIPPED_CODES.as_ptr());
                        vreinterpretq_s32_u8(vqtbl1q_u8(codes, vreinterpretq_u8_s32(nibbles)))
                    }
                    fn to_f32(a: int32x4_t) -> float32x4_t { vcvtq_f32_s32(a) }
                    fn sum_lanes(a: int32x4_t) -> i32 { vaddvq_s32(a) }

                    $($dots)*

                    fn prefetch(address: *const u8) {
                        asm!(
                            "prfm pldl1keep, [{}]", in(reg) address,
                            options(readonly, nostack, preserves_flags),
                        )
                    }
                }
            }
        }
    };
}

instance!(
    dotprod,
    NeonDotprod,
    "neon,dotprod",
    is_aarch64_feature_detected!("dotprod"),
    "Proves NEON and its dot product instructions.",
    rows: 4 / 2,
    nibbles: int32x4_t,
    {
        fn nibble_start(correction: int32x4_t) -> int32x4_t {
            correction
        }
        fn nibble_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
            sdot(sum, weights, x)
        }
        fn nibble_finish(sum: int32x4_t, _correction: int32x4_t) -> int32x4_t {
            sum
        }
        fn byte_start(correction: int32x4_t) -> int32x4_t {
            correction
        }
        fn byte_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
            sdot(sum, weights, x)
        }
        fn byte_finish(sum: int32x4_t, _correction: int32x4_t) -> int32x4_t {
            sum
        }
        fn flipped_start(_correction: int32x4_t) -> int32x4_t {
            vdupq_n_s32(0)
        }
        fn flipped_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
            sdot(sum, unflip(weights), x)
        }
        fn flipped_finish(sum: int32x4_t) -> int32x4_t {
            sum
        }
    }
);

instance!(
    plain,
    Neon,
    "neon",
    is_aarch64_feature_detected!("neon"),
    "Proves NEON.",
    rows: 4 / 1,
    // 16-bit lanes: the first and the second half of the bytes.
    nibbles: [int16x8_t; 2],
    {
        fn nibble_start(_correction: int32x4_t) -> [int16x8_t; 2] {
            [vdupq_n_s16(0); 2]
        }
        fn nibble_dot(sum: [int16x8_t; 2], weights: int32x4_t, x: int32x4_t) -> [int16x8_t; 2] {
            let (weights, x) = (vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(x));
            [
                vmlal_s8(sum[0], vget_low_s8(weights), vget_low_s8(x)),
                vmlal_high_s8(sum[1], weights, x),
            ]
        }
        fn nibble_finish(sum: [int16x8_t; 2], correction: int32x4_t) -> int32x4_t {
            let pairs = vpaddq_s32(vpaddlq_s16(sum[0]), vpaddlq_s16(sum[1]));
            vaddq_s32(pairs, correction)
        }
        fn byte_start(correction: int32x4_t) -> int32x4_t {
            correction
        }
        fn byte_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
            wide_dot(sum, weights, x)
        }
        fn byte_finish(sum: int32x4_t, _correction: int32x4_t) -> int32x4_t {
            sum
        }
        fn flipped_start(_correction: int32x4_t) -> int32x4_t {
            vdupq_n_s32(0)
        }
        fn flipped_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
            wide_dot(sum, unflip(weights), x)
        }
        fn flipped_finish(sum: int32x4_t) -> int32x4_t {
            sum
        }
    }
);

/// The signed weights whose top bits are flipped.
#[inline]
#[target_feature(enable = "neon")]
fn unflip(weights: int32x4_t) -> int32x4_t {
    veorq_s32(weights, vreinterpretq_s32_u8(vdupq_n_u8(0x80)))
}

/// Adds four products of signed bytes to each lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
    let result;
    // SAFETY: an instruction on registers, which the function's features include.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.16b",
            sum = inlateout(vreg) sum => result,
            weights = in(vreg) weights,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    result
}

/// As [`sdot`], by pairs of 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn wide_dot(sum: int32x4_t, weights: int32x4_t, x: int32x4_t) -> int32x4_t {
    let (weights, x) = (vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(x));
    let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
    vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(weights, x)))
}
