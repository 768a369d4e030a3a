//! Minimum and maximum against the order of bit patterns, conversions against integer arithmetic.

use super::*;
use crate::convert::{CANONICAL_NAN_BITS, bf16_to_f32, f16_to_f32};
use crate::selftest::Generator;

/// A key whose order is that of IEEE 754 without NaNs, with -0 below +0.
fn key(value: f32) -> i32 {
    let bits = value.to_bits() as i32;
    bits ^ ((bits >> 31) as u32 >> 1) as i32
}

fn check_pair(a: f32, b: f32) {
    let (low, high) = if a.is_nan() || b.is_nan() {
        (CANONICAL_NAN_BITS, CANONICAL_NAN_BITS)
    } else if key(a) <= key(b) {
        (a.to_bits(), b.to_bits())
    } else {
        (b.to_bits(), a.to_bits())
    };
    assert_eq!(minimum(a, b).to_bits(), low, "minimum of {a:e} and {b:e}");
    assert_eq!(maximum(a, b).to_bits(), high, "maximum of {a:e} and {b:e}");
}

#[test]
fn minimum_and_maximum_follow_the_total_order_without_nans() {
    // Every f16 and every bf16 beside every special value, and random pairs.
    let special = [
        0.0,
        -0.0,
        1.0,
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::from_bits(1),
        f32::from_bits(0xffff_ffff),
        f32::from_bits(0x7f80_0001),
    ];
    for bits in 0..=u16::MAX {
        for value in [f16_to_f32(bits), bf16_to_f32(bits)] {
            for other in special {
                check_pair(value, other);
                check_pair(other, value);
            }
        }
    }
    let mut generator = Generator::new(7);
    for _ in 0..100_000 {
        check_pair(generator.any(), generator.any());
    }
}

/// The nearest integer, ties to even, saturated to a range; by integer arithmetic on the float's parts.
fn expected(value: f64, low: i128, high: i128) -> i128 {
    if value.is_nan() {
        return 0;
    }
    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let mantissa = fraction | i128::from(exponent != 0) << 52;
    let shift = exponent.max(1) - 1075;
    let magnitude = if shift >= 12 {
        // 2^64 and above, infinity included.
        1 << 64
    } else if shift >= 0 {
        mantissa << shift
    } else {
        // Below 2^-60 everything rounds to 0 as the smallest mantissa at a shift of 100 does.
        let shift = (-shift).min(100);
        let (floor, rest, half) = (
            mantissa >> shift,
            mantissa & ((1 << shift) - 1),
            1 << (shift - 1),
        );
        floor + i128::from(rest > half || (rest == half && floor & 1 == 1))
    };
    let signed = if bits >> 63 == 0 {
        magnitude
    } else {
        -magnitude
    };
    signed.clamp(low, high)
}

fn check_f64(value: f64) {
    macro_rules! check {
        ($($name:ident: $integer:ty;)*) => {$(
            let range = (i128::from(<$integer>::MIN), i128::from(<$integer>::MAX));
            assert_eq!(
                i128::from($name(value)),
                expected(value, range.0, range.1),
                "{} of {value:e}", stringify!($name)
            );
        )*};
    }
    check! { f64_to_i8: i8; f64_to_i16: i16; f64_to_i32: i32; f64_to_i64: i64; f64_to_u8: u8; f64_to_u32: u32; }
}

fn check_f32(value: f32) {
    macro_rules! check {
        ($($name:ident: $integer:ty;)*) => {$(
            let range = (i128::from(<$integer>::MIN), i128::from(<$integer>::MAX));
            assert_eq!(
                i128::from($name(value)),
                expected(f64::from(value), range.0, range.1),
                "{} of {value:e}", stringify!($name)
            );
        )*};
    }
    check! { f32_to_i8: i8; f32_to_i16: i16; f32_to_i32: i32; f32_to_i64: i64; f32_to_u8: u8; f32_to_u32: u32; }
}

#[test]
fn floats_become_the_nearest_integer() {
    for bits in 0..=u16::MAX {
        check_f32(f16_to_f32(bits));
        check_f32(bf16_to_f32(bits));
        check_f64(f64::from(f16_to_f32(bits)));
    }
    let mut generator = Generator::new(11);
    for _ in 0..100_000 {
        check_f32(generator.any());
        check_f64(f64::from_bits(generator.bits()));
    }
}

#[test]
fn ties_and_ends_of_ranges() {
    for end in [7, 8, 15, 16, 31, 32, 63, 64] {
        let power = (1u128 << end) as f64;
        for value in [power, -power] {
            for offset in [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5] {
                let value = value + offset;
                for neighbour in [value.next_down(), value, value.next_up()] {
                    check_f64(neighbour);
                    check_f32(neighbour as f32);
                }
            }
        }
    }
    assert_eq!(
        [0.5, 1.5, 2.5, -0.5, -1.5, 0.500_000_06].map(f32_to_i32),
        [0, 2, 2, 0, -2, 1]
    );
    assert_eq!(
        [300.0, -300.0, f32::NAN, f32::INFINITY].map(f32_to_i8),
        [127, -128, 0, 127]
    );
    assert_eq!([-0.5, -1.0, 255.5, 254.5].map(f32_to_u8), [0, 0, 255, 254]);
    assert_eq!(f64_to_i64(9_223_372_036_854_775_808.0), i64::MAX);
    assert_eq!(f64_to_i64(-9_223_372_036_854_775_808.0), i64::MIN);
}

#[test]
fn integers_round_half_to_even_beyond_the_mantissa() {
    for value in [0, 1, -1, 1 << 24, -(1 << 24), i32::MIN] {
        assert_eq!(f64::from(i32_to_f32(value)), f64::from(value));
    }
    // Between 2^24 and 2^25 the last place is 2.
    assert_eq!(i32_to_f32((1 << 24) + 1), 16_777_216.0);
    assert_eq!(i32_to_f32((1 << 24) + 3), 16_777_220.0);
    assert_eq!(i32_to_f32(i32::MAX), 2_147_483_648.0);
}
