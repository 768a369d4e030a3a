//! The error function.

use super::double_double::{self, DoubleDouble};
use super::piecewise::{Piecewise, ROW_TERMS, Taylor, ZERO_TERMS};
use super::round_if_safe;
use crate::convert::canonical_nan;

/// From here on, 1 - erf x < e^(-x^2) / (x sqrt(pi)) < 2^-25, half of what separates 1 from the f32 below it.
const LIMIT: f32 = 63.0 / 16.0;

const ROWS: usize = 64;

/// 2 / sqrt(pi).
const TWO_OVER_SQRT_PI: DoubleDouble =
    DoubleDouble::from_bits(0x3ff2_0dd7_5042_9b6d, 0x3c71_ae3a_914f_ed80);

static TABLE: Piecewise<ROWS> = {
    let mut expansions = [[DoubleDouble::ZERO; ROW_TERMS]; ROWS];
    let mut row = 0;
    while row < ROWS {
        expansions[row] = taylor(row as f64 / 16.0);
        row += 1;
    }
    Piecewise::new(&taylor::<ZERO_TERMS>(0.0), &expansions)
};

/// The error function of `x`, 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x, correctly rounded.
///
/// # Units and bounds
/// The fast path, a table of Taylor polynomials, has a relative error below 2^-51, subnormal results included: they are
/// normal in f64, and the ends of the error interval are rounded to f32 once.
#[must_use]
pub fn erf(x: f32) -> f32 {
    if x.is_nan() {
        return canonical_nan();
    }
    let magnitude = x.abs();
    if magnitude >= LIMIT {
        return 1f32.copysign(x);
    }
    if x == 0.0 {
        return x;
    }
    match round_if_safe(TABLE.value(f64::from(magnitude))) {
        Some(result) => result.copysign(x),
        None => erf_slow(magnitude).copysign(x),
    }
}

/// erf x for x from 0 to [`LIMIT`].
#[cold]
#[inline(never)]
fn erf_slow(x: f32) -> f32 {
    value(f64::from(x)).to_f32()
}

/// 2 / sqrt(pi) * e^(-x^2) * sum over k of x (2 x^2)^k / (1 * 3 * 5 * ... * (2k + 1)), for x from 0 to 4 whose square
/// is exact in f64, with a relative error below 2^-90.
///
/// All terms are positive, so nothing cancels; those after the 90th are below 2^-120 of the sum.
const fn value(x: f64) -> DoubleDouble {
    let square = DoubleDouble::product(x, x);
    let mut sum = DoubleDouble::ONE;
    let mut k = 90;
    while k > 0 {
        sum = sum
            .mul(square.scale(2.0))
            .divide((2 * k + 1) as f64)
            .add(DoubleDouble::ONE);
        k -= 1;
    }
    sum.mul(DoubleDouble::new(x)).mul(derivative(square))
}

/// 2 / sqrt(pi) * e^(-square): the derivative of erf.
const fn derivative(square: DoubleDouble) -> DoubleDouble {
    TWO_OVER_SQRT_PI.mul(double_double::exp(square.negate()))
}

/// The expansion around `centre`. The derivative's coefficients g follow from g' = -2 x g:
/// (k + 1) g[k + 1] = -2 (centre g[k] + g[k - 1]); erf's are a[k + 1] = g[k] / (k + 1).
const fn taylor<const N: usize>(centre: f64) -> Taylor<N> {
    let mut a = [DoubleDouble::ZERO; N];
    a[0] = value(centre);
    let mut previous = DoubleDouble::ZERO;
    let mut g = derivative(DoubleDouble::product(centre, centre));
    let mut k = 1;
    while k < N {
        a[k] = g.divide(k as f64);
        let next = g
            .mul(DoubleDouble::new(centre))
            .add(previous)
            .scale(-2.0)
            .divide(k as f64);
        (previous, g) = (g, next);
        k += 1;
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        assert_eq!(erf(0.0).to_bits(), 0);
        assert_eq!(erf(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(erf(f32::INFINITY), 1.0);
        assert_eq!(erf(f32::NEG_INFINITY), -1.0);
        assert_eq!(erf(f32::MAX), 1.0);
        assert_eq!(erf(f32::from_bits(0xff80_0001)).to_bits(), 0x7fc0_0000);
    }

    #[test]
    fn subnormal_results_are_rounded_once() {
        // An f64 product decides all of these: none comes within 2^-29 of a midpoint.
        for bits in 1..0x0070_0000u32 {
            let exact = f64::from(bits) * std::f64::consts::FRAC_2_SQRT_PI;
            let expected = (exact + 0.5) as u32;
            assert_eq!(erf(f32::from_bits(bits)).to_bits(), expected, "{bits:#x}");
        }
    }

    #[test]
    fn both_paths_agree_where_the_fast_one_is_sure() {
        for step in 1..39_000 {
            let x = step as f32 / 10_000.0;
            assert_eq!(erf(x).to_bits(), erf_slow(x).to_bits(), "{x:e}");
            assert_eq!(erf(-x).to_bits(), (-erf_slow(x)).to_bits(), "{x:e}");
        }
    }
}
