//! 128-bit vectors: 4 lanes.
//!
//! # Units and bounds
//! Bytes widen to 16 bits, the even ones and the odd ones of a lane apart. i32x4.dot_i16x8 adds pairs of products to
//! 32 bits, at most 2 * 128 * 127 = 32,512 in magnitude; a block's sum stays below 32 * 128 * 127 < 2^20.

mod exp;

use std::arch::wasm32::*;

use crate::arch::KernelTable;
use crate::arch::generic::{FLIPPED_CODES, Simd, instantiate, operations};
use crate::convert::{CANONICAL_NAN_BITS, CANONICAL_NAN_F16_BITS};

/// Proves 128-bit vectors.
#[derive(Clone, Copy)]
pub(super) struct Simd128(());

impl Simd128 {
    /// # Safety
    /// The engine has 128-bit vectors.
    #[inline(always)]
    unsafe fn new() -> Self {
        Self(())
    }
}

/// The kernels, which a module built with vectors can run wherever it is instantiated.
pub(crate) fn table() -> Option<&'static KernelTable> {
    Some(&TABLE)
}

instantiate!(Simd128, "simd128", rows: 4 / 2, sixteen: 4, attention: 3 x 4);

impl Simd for Simd128 {
    const LANES: usize = 4;
    type F32 = v128;
    type I32 = v128;
    type NibbleSum = v128;
    type ByteSum = v128;

    #[inline(always)]
    unsafe fn load_f32(self, from: *const f32) -> v128 {
        // SAFETY: as the caller's.
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn store_f32(self, to: *mut f32, value: v128) {
        // SAFETY: as the caller's.
        unsafe { v128_store(to.cast(), value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const u8) -> v128 {
        // SAFETY: as the caller's.
        widen(unsafe { i32x4_load_extend_i16x4(from.cast()) })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const u8) -> v128 {
        // SAFETY: as the caller's.
        i32x4_shl(unsafe { i32x4_load_extend_u16x4(from.cast()) }, 16)
    }
    #[inline(always)]
    unsafe fn store_f16(self, to: *mut u16, value: v128) {
        let halves = narrow(value);
        // SAFETY: as the caller's.
        unsafe { v128_store64_lane::<0>(u16x8_narrow_i32x4(halves, halves), to.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i32(self, from: *const u8) -> v128 {
        // SAFETY: as the caller's.
        unsafe { v128_load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn load_i8(self, from: *const u8) -> v128 {
        // SAFETY: as the caller's.
        let four = unsafe { v128_load32_zero(from.cast()) };
        i32x4_extend_low_i16x8(i16x8_extend_low_i8x16(four))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8, value: v128) {
        // Nothing saturates.
        let words = i16x8_narrow_i32x4(value, value);
        // SAFETY: as the caller's.
        unsafe { v128_store32_lane::<0>(i8x16_narrow_i16x8(words, words), to.cast()) }
    }

    operations! {
        fn splat_f32(value: f32) -> v128 { f32x4_splat(value) }
        fn add(a: v128, b: v128) -> v128 { f32x4_add(a, b) }
        fn sub(a: v128, b: v128) -> v128 { f32x4_sub(a, b) }
        fn mul(a: v128, b: v128) -> v128 { f32x4_mul(a, b) }
        fn div(a: v128, b: v128) -> v128 { f32x4_div(a, b) }
        fn abs(a: v128) -> v128 { f32x4_abs(a) }
        fn neg(a: v128) -> v128 { f32x4_neg(a) }
        fn max(a: v128, b: v128) -> v128 { f32x4_max(a, b) }
        fn max_size(a: v128, b: v128) -> v128 { i32x4_max(a, b) }
        fn largest_size(a: v128) -> f32 {
            let size = i32x4_extract_lane::<0>(a)
                .max(i32x4_extract_lane::<1>(a))
                .max(i32x4_extract_lane::<2>(a))
                .max(i32x4_extract_lane::<3>(a));
            f32::from_bits(size as u32)
        }
        fn canonical(a: v128) -> v128 {
            v128_bitselect(a, u32x4_splat(CANONICAL_NAN_BITS), f32x4_eq(a, a))
        }
        fn to_quants(a: v128) -> v128 {
            // Adding 1.5 * 2^23 rounds half to even at the units and leaves the integer in the low bits.
            const SHIFT: f32 = 12_582_912.0;
            let number = v128_and(a, f32x4_eq(a, a));
            let clamped = f32x4_pmin(f32x4_pmax(number, f32x4_splat(-127.0)), f32x4_splat(127.0));
            i32x4_sub(f32x4_add(clamped, f32x4_splat(SHIFT)), u32x4_splat(SHIFT.to_bits()))
        }
        fn exp(a: v128) -> v128 { exp::exp(a) }

        fn splat_i32(value: i32) -> v128 { i32x4_splat(value) }
        fn add_i32(a: v128, b: v128) -> v128 { i32x4_add(a, b) }
        fn mul_i32(a: v128, b: v128) -> v128 { i32x4_mul(a, b) }
        fn and(a: v128, b: v128) -> v128 { v128_and(a, b) }
        fn or(a: v128, b: v128) -> v128 { v128_or(a, b) }
        fn shift_left<const N: i32>(a: v128) -> v128 { i32x4_shl(a, N as u32) }
        fn shift_right<const N: i32>(a: v128) -> v128 { u32x4_shr(a, N as u32) }
        fn shift_right_signed<const N: i32>(a: v128) -> v128 { i32x4_shr(a, N as u32) }
        fn to_f32(a: v128) -> v128 { f32x4_convert_i32x4(a) }
        fn sum_lanes(a: v128) -> i32 {
            i32x4_extract_lane::<0>(a)
                + i32x4_extract_lane::<1>(a)
                + i32x4_extract_lane::<2>(a)
                + i32x4_extract_lane::<3>(a)
        }

        fn nibble_start(correction: v128) -> v128 { correction }
        fn nibble_dot(sum: v128, weights: v128, x: v128) -> v128 { unsigned_dot(sum, weights, x) }
        fn nibble_finish(sum: v128, _correction: v128) -> v128 { sum }
        fn byte_start(correction: v128) -> v128 { correction }
        fn byte_dot(sum: v128, weights: v128, x: v128) -> v128 { unsigned_dot(sum, weights, x) }
        fn byte_finish(sum: v128, _correction: v128) -> v128 { sum }
        fn flipped_start(correction: v128) -> v128 { correction }
        fn flipped_dot(sum: v128, weights: v128, x: v128) -> v128 { unsigned_dot(sum, weights, x) }
        fn flipped_finish(sum: v128) -> v128 { sum }
        fn codes(nibbles: v128) -> v128 { u8x16_swizzle(v128_load(FLIPPED_CODES.as_ptr().cast()), nibbles) }

        fn prefetch(_address: *const u8) {}
    }
}

/// Adds four products of unsigned and signed bytes to each lane.
#[inline]
#[target_feature(enable = "simd128")]
fn unsigned_dot(sum: v128, weights: v128, x: v128) -> v128 {
    let even = i32x4_dot_i16x8(
        v128_and(weights, u16x8_splat(0xff)),
        i16x8_shr(i16x8_shl(x, 8), 8),
    );
    let odd = i32x4_dot_i16x8(u16x8_shr(weights, 8), i16x8_shr(x, 8));
    i32x4_add(i32x4_add(sum, even), odd)
}

/// f16 with the sign extended to 32 bits, widened exactly.
#[inline]
#[target_feature(enable = "simd128")]
fn widen(halves: v128) -> v128 {
    // The exponent's bits in place, too small by 112, which the product with 2^112 mends, subnormals included.
    let moved = v128_and(i32x4_shl(halves, 13), u32x4_splat(0x8fff_ffff));
    let value = f32x4_mul(moved, f32x4_splat(f32::from_bits((127 + 112) << 23)));
    // Infinities and NaNs.
    let top = u32x4_splat(0x0f80_0000);
    let special = i32x4_eq(v128_and(moved, top), top);
    v128_or(value, v128_and(special, u32x4_splat(0x7f80_0000)))
}

/// The operations of [`crate::convert::f32_to_f16`] on each lane; a NaN must be canonical.
#[inline]
#[target_feature(enable = "simd128")]
fn narrow(values: v128) -> v128 {
    let sign = v128_and(u32x4_shr(values, 16), u32x4_splat(0x8000));
    let magnitude = v128_and(values, u32x4_splat(0x7fff_ffff));

    let odd = v128_and(u32x4_shr(magnitude, 13), u32x4_splat(1));
    let rebased = i32x4_sub(magnitude, u32x4_splat((112 << 23) - 0xfff));
    let normal = u32x4_shr(i32x4_add(rebased, odd), 13);

    let shifted = f32x4_add(magnitude, f32x4_splat(0.5));
    let subnormal = i32x4_sub(shifted, f32x4_splat(0.5));

    let small = i32x4_lt(magnitude, u32x4_splat(0x3880_0000));
    let large = i32x4_ge(magnitude, u32x4_splat(0x4780_0000));
    let nan = f32x4_ne(values, values);
    let result = v128_bitselect(subnormal, normal, small);
    let result = v128_bitselect(u32x4_splat(0x7c00), result, large);
    let result = v128_bitselect(u32x4_splat(CANONICAL_NAN_F16_BITS.into()), result, nan);
    v128_or(result, sign)
}
