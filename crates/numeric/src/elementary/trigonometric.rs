//! Sine and cosine.
//!
//! # Design
//! The argument is reduced by whole quarter turns with integer arithmetic: the product of its 24-bit mantissa and a
//! 192-bit window of the binary expansion of 2/pi (Payne and Hanek). No f32 comes nearer to a multiple of pi/2 than
//! about 2^-32, so the 128 bits of the fraction that are kept give the reduced argument with 96 correct bits.

use super::double_double::DoubleDouble;
use super::round_if_safe;
use crate::convert::canonical_nan;

/// The first 320 bits of 2/pi after the binary point.
const TWO_OVER_PI: [u64; 5] = [
    0xa2f9_836e_4e44_1529,
    0xfc27_57d1_f534_ddc0,
    0xdb62_9599_3c43_9041,
    0xfe51_63ab_debb_c561,
    0xb724_6e3a_424d_d2e0,
];

const PI_OVER_TWO: DoubleDouble =
    DoubleDouble::from_bits(0x3ff9_21fb_5444_2d18, 0x3c91_a626_3314_5c07);

/// Below pi/4: no reduction is needed.
const QUARTER_PI: f32 = std::f32::consts::FRAC_PI_4;

/// The sine of `x`, correctly rounded.
#[must_use]
pub fn sin(x: f32) -> f32 {
    sin_cos(x).0
}

/// The cosine of `x`, correctly rounded.
#[must_use]
pub fn cos(x: f32) -> f32 {
    sin_cos(x).1
}

/// Sine and cosine of `x`, each correctly rounded. Infinities give NaN.
#[must_use]
pub fn sin_cos(x: f32) -> (f32, f32) {
    if !x.is_finite() {
        return (canonical_nan(), canonical_nan());
    }
    if x == 0.0 {
        return (x, 1.0);
    }
    let (quadrant, r) = reduce(x);
    let (sin, cos) = (sin_reduced(r), cos_reduced(r));
    match quadrant {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Quarter turns modulo 4 and the rest, of magnitude at most pi/4 (a little more after rounding).
fn reduce(x: f32) -> (u32, DoubleDouble) {
    if x.abs() < QUARTER_PI {
        return (0, DoubleDouble::new(f64::from(x)));
    }
    // |x| = mantissa * 2^exponent, 24 bits, exponent from -24 to 104.
    let bits = x.to_bits() & 0x7fff_ffff;
    let mantissa = u64::from((bits & 0x007f_ffff) | 0x0080_0000);
    let exponent = (bits >> 23) as i32 - 150;

    // Bits of 2/pi whose product with the mantissa is a multiple of 4 turns to nothing: start past them. The window is
    // cut after 192 bits, an error below 2^24 * 2^-190 quarter turns.
    let start = (exponent - 2).max(0) as usize;
    let product = multiply(mantissa, window(start));
    // product * 2^(exponent - start - 192) quarter turns; shifted so that the point lies 190 bits up.
    let shift = (2 - exponent).max(0) as u32;
    let turns = shift_right(product, shift);
    let mut quadrant = (turns[0] >> 62) as u32;
    // 128 bits of the fraction of a quarter turn.
    let fraction = (u128::from(turns[0] << 2 | turns[1] >> 62) << 64)
        | u128::from(turns[1] << 2 | turns[2] >> 62);
    let (negative, magnitude) = if fraction >> 127 == 1 {
        quadrant += 1;
        (true, fraction.wrapping_neg())
    } else {
        (false, fraction)
    };
    const UNIT: f64 = 1.0 / (1u128 << 127) as f64 / 2.0;
    let high = magnitude as f64;
    // The difference is at most half a last place of `high`, so it fits easily in 128 bits with its sign.
    let low = magnitude.wrapping_sub(high as u128) as i128 as f64;
    let r = DoubleDouble { high, low }.scale(UNIT).mul(PI_OVER_TWO);
    let flip = negative != (x < 0.0);
    let r = if flip { r.negate() } else { r };
    let quadrant = if x < 0.0 {
        quadrant.wrapping_neg()
    } else {
        quadrant
    };
    (quadrant & 3, r)
}

/// 192 bits of 2/pi from bit `start` after the point, most significant word first.
fn window(start: usize) -> [u64; 3] {
    let (word, bit) = (start / 64, start % 64);
    std::array::from_fn(|index| {
        let high = TWO_OVER_PI[word + index] << bit;
        let low = if bit == 0 {
            0
        } else {
            TWO_OVER_PI[word + index + 1] >> (64 - bit)
        };
        high | low
    })
}

/// The 256-bit product, most significant word first.
fn multiply(factor: u64, words: [u64; 3]) -> [u64; 4] {
    let mut product = [0; 4];
    let mut carry = 0u128;
    for index in (0..3).rev() {
        let partial = u128::from(factor) * u128::from(words[index]) + carry;
        product[index + 1] = partial as u64;
        carry = partial >> 64;
    }
    product[0] = carry as u64;
    product
}

/// The low 192 bits of `product >> shift`, for shifts up to 26.
fn shift_right(product: [u64; 4], shift: u32) -> [u64; 3] {
    std::array::from_fn(|index| {
        let (above, here) = (product[index], product[index + 1]);
        if shift == 0 {
            here
        } else {
            above << (64 - shift) | here >> shift
        }
    })
}

/// (-1)^k / (2k + 3)! for k from 0: Taylor coefficients of (sin r - r) / r^3.
const SIN_TAYLOR: [f64; 8] = [
    -1.0 / 6.0,
    1.0 / 120.0,
    -1.0 / 5_040.0,
    1.0 / 362_880.0,
    -1.0 / 39_916_800.0,
    1.0 / 6_227_020_800.0,
    -1.0 / 1_307_674_368_000.0,
    1.0 / 355_687_428_096_000.0,
];

/// (-1)^k / (2k + 4)! for k from 0: Taylor coefficients of (cos r - 1 + r^2/2) / r^4.
const COS_TAYLOR: [f64; 8] = [
    1.0 / 24.0,
    -1.0 / 720.0,
    1.0 / 40_320.0,
    -1.0 / 3_628_800.0,
    1.0 / 479_001_600.0,
    -1.0 / 87_178_291_200.0,
    1.0 / 20_922_789_888_000.0,
    -1.0 / 6_402_373_705_728_000.0,
];

fn horner(coefficients: &[f64; 8], z: f64) -> f64 {
    coefficients
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * z + coefficient)
}

/// sin r for |r| <= pi/4 + 2^-50. The fast path's error: r itself 2^-53, the series' rest below 2^-60, the last sum
/// 2^-53, the correction (at most 0.11 of the result) below 2^-54: in all below 2^-51.
fn sin_reduced(r: DoubleDouble) -> f32 {
    let z = r.high * r.high;
    let value = r.high + r.high * z * horner(&SIN_TAYLOR, z);
    round_if_safe(value).unwrap_or_else(|| sin_slow(r))
}

/// cos r for |r| <= pi/4 + 2^-50. The fast path's error: with c = r^2/2 at most 0.31, c carries 1.5 * 2^-52 * c, the
/// difference 1 - c rounds by 2^-54, the last sum by 2^-53, all against a result of at least 0.70: below 2^-51.
fn cos_reduced(r: DoubleDouble) -> f32 {
    let z = r.high * r.high;
    let value = (1.0 - 0.5 * z) + z * z * horner(&COS_TAYLOR, z);
    round_if_safe(value).unwrap_or_else(|| cos_slow(r))
}

#[cold]
#[inline(never)]
fn sin_slow(r: DoubleDouble) -> f32 {
    // Terms up to r^29/29!, below 2^-110 relative to r.
    let z = r.mul(r).negate();
    let mut sum = DoubleDouble::ZERO;
    for k in (1..=14).rev() {
        let divisor = f64::from(2 * k * (2 * k + 1));
        sum = sum.add(DoubleDouble::ONE).mul(z).divide(divisor);
    }
    r.add(r.mul(sum)).to_f32()
}

#[cold]
#[inline(never)]
fn cos_slow(r: DoubleDouble) -> f32 {
    let z = r.mul(r).negate();
    let mut sum = DoubleDouble::ZERO;
    for k in (1..=14).rev() {
        let divisor = f64::from(2 * k * (2 * k - 1));
        sum = sum.add(DoubleDouble::ONE).mul(z).divide(divisor);
    }
    DoubleDouble::ONE.add(sum).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        assert_eq!(sin(0.0).to_bits(), 0f32.to_bits());
        assert_eq!(sin(-0.0).to_bits(), (-0f32).to_bits());
        assert_eq!(cos(-0.0), 1.0);
        for x in [
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::from_bits(0xff80_0001),
        ] {
            assert_eq!(sin(x).to_bits(), 0x7fc0_0000);
            assert_eq!(cos(x).to_bits(), 0x7fc0_0000);
        }
        assert_eq!(sin(f32::from_bits(1)).to_bits(), 1);
        assert_eq!(sin(f32::from_bits(0x8000_0001)).to_bits(), 0x8000_0001);
    }

    #[test]
    fn both_paths_agree_where_the_fast_one_is_sure() {
        for step in 0..200_000u32 {
            let x = f32::from_bits(step.wrapping_mul(0x9e37_79b1) & 0xff7f_ffff);
            if !x.is_finite() || x == 0.0 {
                continue;
            }
            let (_, r) = reduce(x);
            assert_eq!(sin_reduced(r).to_bits(), sin_slow(r).to_bits(), "{x:e}");
            assert_eq!(cos_reduced(r).to_bits(), cos_slow(r).to_bits(), "{x:e}");
        }
    }
}
