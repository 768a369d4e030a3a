//! The natural logarithm.

use super::double_double::{self, DoubleDouble, LN2_16};
use super::round_if_safe;
use crate::convert::canonical_nan;

/// Intervals into which one binade of arguments is divided.
const INTERVALS: usize = 64;
/// Distance of the intervals' centres, as bits of an f64.
const STEP: u64 = 1 << 46;
/// Intervals below the one around 1.
const BELOW_ONE: u64 = 37;
const ONE: u64 = 0x3ff0_0000_0000_0000;
/// Start of the first interval, about the square root of 1/2.
const FIRST: u64 = ONE - BELOW_ONE * STEP - STEP / 2;

/// An interval of mantissas.
#[derive(Clone, Copy)]
struct Interval {
    /// The inverse of the centre, rounded to 29 bits: its product with an f32 is exact in f64.
    inverse: f64,
    /// -ln `inverse` to a multiple of 2^-32, as is 16 times the first part of [`LN2_16`].
    log_high: f64,
    /// The rest of it, rounded.
    log_low: f64,
}

static TABLE: [Interval; INTERVALS] = {
    const UNIT: f64 = (1u64 << 28) as f64;
    const GRID: f64 = (1u64 << 32) as f64;
    let mut table = [Interval {
        inverse: 1.0,
        log_high: 0.0,
        log_low: 0.0,
    }; INTERVALS];
    let mut index = 0;
    while index < INTERVALS {
        let centre = f64::from_bits(FIRST + STEP / 2 + index as u64 * STEP);
        let inverse = (UNIT / centre).round_ties_even() / UNIT;
        let log = double_double::ln(inverse).negate();
        let log_high = (log.high * GRID).round_ties_even() / GRID;
        table[index] = Interval {
            inverse,
            log_high,
            log_low: (log.high - log_high) + log.low,
        };
        index += 1;
    }
    table
};

/// (-1)^(k + 1) / k for k from 2 to 8: Taylor coefficients of (ln(1 + r) - r) / r^2.
const TAYLOR: [f64; 7] = [
    -1.0 / 2.0,
    1.0 / 3.0,
    -1.0 / 4.0,
    1.0 / 5.0,
    -1.0 / 6.0,
    1.0 / 7.0,
    -1.0 / 8.0,
];

/// The natural logarithm of `x`, correctly rounded: NaN below zero, -infinity at either zero.
///
/// # Units and bounds
/// x = 2^n * m with m between sqrt(1/2) and sqrt(2), and r = m * inverse - 1, exact, is at most 2^-7 in magnitude (a
/// little more after the inverse's rounding). ln x = n ln 2 - ln inverse + ln(1 + r), where the high parts of the first
/// two are added exactly. In the interval around 1, where they are zero, the result is r + r^2 p(r): the last sum
/// rounds by 2^-53, the rest by 2^-60, and the terms left out are below 2^-58. Elsewhere |ln x| >= 2^-8 and at least
/// |r|: the last two sums round by 2^-53 each, the rest by less than 2^-57. In all below 2^-51.
#[must_use]
pub fn log(x: f32) -> f32 {
    if x == 0.0 {
        return f32::NEG_INFINITY;
    }
    if x.is_nan() || x < 0.0 {
        return canonical_nan();
    }
    if x == f32::INFINITY {
        return x;
    }
    let (exponent, interval, r) = reduce(x);
    let high = exponent * LN2_16[0] + interval.log_high;
    let low = exponent * LN2_16[1] + interval.log_low;
    let mut polynomial = 0.0;
    for coefficient in TAYLOR.iter().rev() {
        polynomial = polynomial * r + coefficient;
    }
    let value = high + (r + (r * r * polynomial + low));
    match round_if_safe(value) {
        Some(result) => result,
        None => log_slow(x),
    }
}

/// 16 n, the interval and r.
fn reduce(x: f32) -> (f64, &'static Interval, f64) {
    // Every positive f32 is a normal f64.
    let bits = f64::from(x).to_bits();
    let offset = bits.wrapping_sub(FIRST) as i64;
    let exponent = offset >> 52;
    let interval = &TABLE[(offset >> 46) as usize % INTERVALS];
    let mantissa = f64::from_bits(bits.wrapping_sub((exponent << 52) as u64));
    let r = mantissa * interval.inverse - 1.0;
    ((16 * exponent) as f64, interval, r)
}

/// ln x for positive finite x with a relative error below 2^-80.
#[cold]
#[inline(never)]
fn log_slow(x: f32) -> f32 {
    let (exponent, interval, r) = reduce(x);
    // r - r^2/2 + r^3/3 - ...: the terms left out are below 2^-109 relative to r.
    let mut series = DoubleDouble::ZERO;
    for k in (1..=15).rev() {
        series = series
            .mul(DoubleDouble::new(-r))
            .add(DoubleDouble::ONE.divide(f64::from(k)));
    }
    let series = series.mul(DoubleDouble::new(r));
    DoubleDouble::product(exponent, LN2_16[0])
        .add(DoubleDouble::sum(interval.log_high, interval.log_low))
        .add(DoubleDouble::product(exponent, LN2_16[1]))
        .add(DoubleDouble::product(exponent, LN2_16[2]))
        .add(series)
        .to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        assert_eq!(log(0.0), f32::NEG_INFINITY);
        assert_eq!(log(-0.0), f32::NEG_INFINITY);
        assert_eq!(log(1.0).to_bits(), 0);
        assert_eq!(log(f32::INFINITY), f32::INFINITY);
        for bits in [
            0x8000_0001,
            0xbf80_0000,
            0xff80_0000,
            0x7f80_0001,
            0xffff_ffff,
        ] {
            assert_eq!(log(f32::from_bits(bits)).to_bits(), 0x7fc0_0000);
        }
    }

    #[test]
    fn reduction_is_exact_and_small() {
        assert_eq!(TABLE[BELOW_ONE as usize].inverse, 1.0);
        assert_eq!(TABLE[BELOW_ONE as usize].log_high, 0.0);
        assert_eq!(TABLE[BELOW_ONE as usize].log_low, 0.0);
        for step in 0..1 << 17 {
            let x = f32::from_bits((step << 14) + 1);
            if x.is_finite() {
                let (_, interval, r) = reduce(x);
                assert!(r.abs() <= 1.0 / 128.0 + 1e-8, "{x:e}: {r:e}");
                assert_eq!(interval.inverse * f64::from(1u32 << 28) % 1.0, 0.0);
            }
        }
    }

    #[test]
    fn both_paths_agree_where_the_fast_one_is_sure() {
        for step in 0..1u32 << 17 {
            let x = f32::from_bits(step.wrapping_mul(0x9e37_79b1) & 0x7fff_ffff);
            if x.is_finite() && x != 0.0 {
                assert_eq!(log(x).to_bits(), log_slow(x).to_bits(), "{x:e}");
            }
        }
    }
}
