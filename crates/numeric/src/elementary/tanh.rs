//! The hyperbolic tangent.

use super::double_double::{self, DoubleDouble};
use super::piecewise::{Piecewise, ROW_TERMS, Taylor, ZERO_TERMS};
use super::round_if_safe;
use crate::convert::canonical_nan;

/// From here on, 1 - tanh x < 2 e^(-2x) < 2^-25, half of what separates 1 from the f32 below it.
const LIMIT: f32 = 289.0 / 32.0;

const ROWS: usize = 145;

static TABLE: Piecewise<ROWS> = {
    let mut expansions = [[DoubleDouble::ZERO; ROW_TERMS]; ROWS];
    let mut row = 0;
    while row < ROWS {
        expansions[row] = taylor(row as f64 / 16.0);
        row += 1;
    }
    Piecewise::new(&taylor::<ZERO_TERMS>(0.0), &expansions)
};

/// The hyperbolic tangent of `x`, correctly rounded.
///
/// # Units and bounds
/// The fast path, a table of Taylor polynomials, has a relative error below 2^-51, subnormal `x` included: their
/// results are normal in f64, and are rounded to f32 once.
#[must_use]
pub fn tanh(x: f32) -> f32 {
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
        None => tanh_slow(magnitude).copysign(x),
    }
}

/// tanh x for x from 0 to [`LIMIT`].
///
/// The numerator's error is below 2^-94, absolute for small x. The fast path decides below 2^-13, where x - tanh x is
/// less than a quarter of x's last place; above, the relative error is below 2^-80.
#[cold]
#[inline(never)]
fn tanh_slow(x: f32) -> f32 {
    value(f64::from(x)).to_f32()
}

/// (e^2x - 1) / (e^2x + 1).
const fn value(x: f64) -> DoubleDouble {
    let power = double_double::exp(DoubleDouble::new(2.0 * x));
    power
        .add(DoubleDouble::new(-1.0))
        .quotient(power.add(DoubleDouble::ONE))
}

/// The expansion around `centre`, from tanh' = 1 - tanh^2: (k + 1) a[k + 1] = [k = 0] - sum over j of a[j] a[k - j].
const fn taylor<const N: usize>(centre: f64) -> Taylor<N> {
    let mut a = [DoubleDouble::ZERO; N];
    a[0] = value(centre);
    let mut k = 0;
    while k + 1 < N {
        let mut next = if k == 0 {
            DoubleDouble::ONE
        } else {
            DoubleDouble::ZERO
        };
        let mut j = 0;
        while j <= k {
            next = next.add(a[j].mul(a[k - j]).negate());
            j += 1;
        }
        k += 1;
        a[k] = next.divide(k as f64);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_values() {
        assert_eq!(tanh(0.0).to_bits(), 0);
        assert_eq!(tanh(-0.0).to_bits(), 0x8000_0000);
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(tanh(f32::NEG_INFINITY), -1.0);
        assert_eq!(tanh(f32::MAX), 1.0);
        assert_eq!(tanh(f32::from_bits(0xff80_0001)).to_bits(), 0x7fc0_0000);
        // Subnormals are their own hyperbolic tangents.
        for bits in [0x0000_0001, 0x8000_0001, 0x007f_ffff, 0x807f_ffff] {
            assert_eq!(tanh(f32::from_bits(bits)).to_bits(), bits);
        }
    }

    #[test]
    fn both_paths_agree_where_the_fast_one_is_sure() {
        for step in 1..90_000 {
            let x = step as f32 / 10_000.0;
            assert_eq!(tanh(x).to_bits(), tanh_slow(x).to_bits(), "{x:e}");
            assert_eq!(tanh(-x).to_bits(), (-tanh_slow(x)).to_bits(), "{x:e}");
        }
    }
}
