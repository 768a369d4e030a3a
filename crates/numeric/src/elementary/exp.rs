//! The exponential function.

use super::double_double::{self, DoubleDouble, EXP2_16, LN2_16};
use super::round_if_safe;
use crate::convert::canonical_nan;

/// Below this, e^x is less than half the smallest subnormal; the interval's end itself rounds to zero.
pub(crate) const LOWEST: f64 = -104.0;
/// Above this, e^x overflows; the interval's end itself rounds to infinity.
pub(crate) const HIGHEST: f64 = 89.0;
/// From here on, e^x is a normal f32; a little more than ln 2^-126.
pub(crate) const LOWEST_NORMAL: f32 = -87.3;
/// 16 / ln 2, rounded.
pub(crate) const INVERSE_LN2_16: f64 = 23.083_120_654_223_414;
/// Leading part of ln 2 / 16, 32 bits.
pub(crate) const LN2_16_HIGH: f64 = LN2_16[0];
/// The rest of ln 2 / 16, rounded.
pub(crate) const LN2_16_LOW: f64 = LN2_16[1];
/// 2^(j/16), rounded, for j from 0 to 15.
pub(crate) const EXP2_16_HIGH: [f64; 16] = {
    let mut table = [0.0; 16];
    let mut j = 0;
    while j < 16 {
        table[j] = EXP2_16[j].high;
        j += 1;
    }
    table
};
/// 1/7!, 1/6!, ..., 1/2!: Taylor coefficients of (e^r - 1 - r) / r^2, highest first.
pub(crate) const TAYLOR: [f64; 6] = [
    1.0 / 5040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
];

/// e^x, correctly rounded.
///
/// # Units and bounds
/// With n = x * 16 / ln 2 rounded to an integer, x - n ln2/16 = r and |r| <= 0.0218. The product n * LN2_16_HIGH and
/// its subtraction are exact; the truncated series leaves r^8/8! < 2^-59; the table entry, the last product and the
/// last sum round by at most 2^-53 each, r and the polynomial by less than 2^-57 together: in all below 2^-51.
#[must_use]
pub fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return canonical_nan();
    }
    let wide = f64::from(x).clamp(LOWEST, HIGHEST);
    match round_if_safe(approximate(wide)) {
        Some(result) => result,
        None => looked_up(x).unwrap_or_else(|| exp_slow(x)),
    }
}

/// The value at one of [`HARD_INPUTS`]: nothing takes long, whatever the input.
#[cold]
fn looked_up(x: f32) -> Option<f32> {
    let index = HARD_INPUTS.iter().position(|bits| *bits == x.to_bits())?;
    Some(HARD_VALUES[index])
}

/// e^x within 2^-51, for x between [`LOWEST`] and [`HIGHEST`].
fn approximate(x: f64) -> f64 {
    // Adding 1.5 * 2^52 rounds half to even at the units and leaves the integer in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = x * INVERSE_LN2_16 + SHIFT;
    let n = shifted - SHIFT;
    let r = (x - n * LN2_16_HIGH) - n * LN2_16_LOW;
    let mut polynomial = TAYLOR[0];
    for coefficient in &TAYLOR[1..] {
        polynomial = polynomial * r + coefficient;
    }
    let q = r + (r * r) * polynomial;
    let index = shifted.to_bits() as i64;
    let entry = EXP2_16_HIGH[(index & 15) as usize];
    let value = entry + entry * q;
    // A product with a power of two in f64's normal range: exact.
    value * f64::from_bits(((n as i64 >> 4) + 1023) as u64 * (1 << 52))
}

/// e^x for finite x between [`LOWEST`] and [`HIGHEST`] by double-double arithmetic.
#[cold]
#[inline(never)]
const fn exp_slow(x: f32) -> f32 {
    double_double::exp(DoubleDouble::new(x as f64)).to_f32()
}

/// The inputs whose exponential lies within 2^-50, relative, of the midpoint between two f32. No others fail the test.
pub(crate) const HARD_INPUTS: [u32; 8] = [
    0x377e_ff81,
    0x39c6_be5b,
    0x4001_b249,
    0x4031_5b33,
    0xb300_0000,
    0xbae0_e25c,
    0xbbf0_edf1,
    0xc169_12cd,
];

/// The exponentials of [`HARD_INPUTS`].
const HARD_VALUES: [f32; 8] = {
    let mut values = [0.0; 8];
    let mut index = 0;
    while index < values.len() {
        values[index] = exp_slow(f32::from_bits(HARD_INPUTS[index]));
        index += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        assert_eq!(exp(0.0).to_bits(), 1f32.to_bits());
        assert_eq!(exp(-0.0).to_bits(), 1f32.to_bits());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(f32::from_bits(0xffff_ffff)).to_bits(), 0x7fc0_0000);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert_eq!(exp(f32::MIN).to_bits(), 0);
        assert_eq!(exp(f32::from_bits(1)).to_bits(), 1f32.to_bits());
    }

    #[test]
    fn hard_inputs_have_the_slow_path_s_values() {
        for bits in HARD_INPUTS {
            let x = f32::from_bits(bits);
            assert_eq!(exp(x).to_bits(), exp_slow(x).to_bits(), "{x:e}");
        }
    }

    #[test]
    fn both_paths_agree_where_the_fast_one_is_sure() {
        for step in -104_000..89_000 {
            let x = step as f32 / 1000.0;
            assert_eq!(exp(x).to_bits(), exp_slow(x).to_bits(), "{x:e}");
        }
    }
}
