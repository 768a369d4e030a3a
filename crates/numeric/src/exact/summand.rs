//! The floats that can be summed: their place in the integer, and the way back.

use std::fmt;

use super::DIGIT_BITS;

/// A term, (-1)^negative * mantissa * 2^shift units.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub(super) negative: bool,
    pub(super) mantissa: u64,
    /// Or [`Term::NOT_FINITE`]: a NaN if the mantissa is not 0, an infinity if it is.
    pub(super) shift: u32,
}

impl Term {
    pub(super) const NOT_FINITE: u32 = u32::MAX;
}

mod sealed {
    /// Closes [`Summand`](super::Summand).
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The types of the terms of an exact sum: f32 and f64.
pub trait Summand: sealed::Sealed + Copy + fmt::Debug + 'static {
    /// The digits of the integer.
    #[doc(hidden)]
    type Digits: Clone + fmt::Debug + AsRef<[i64]> + AsMut<[i64]>;
    /// No digit set.
    #[doc(hidden)]
    const ZERO: Self::Digits;
    /// The first byte of a serialised sum.
    #[doc(hidden)]
    const KIND: u8;
    /// Every term is below 2^TERM_BITS units.
    #[doc(hidden)]
    const TERM_BITS: u32;
    /// The canonical NaN.
    #[doc(hidden)]
    const NAN: Self;

    /// The value as a term.
    #[doc(hidden)]
    fn term(self) -> Term;

    /// An infinity.
    #[doc(hidden)]
    fn infinity(negative: bool) -> Self;

    /// The value nearest to a magnitude in units, ties to even; +0 for 0.
    #[doc(hidden)]
    fn round(negative: bool, magnitude: &[i64]) -> Self;
}

impl Summand for f32 {
    type Digits = [i64; 20];
    const ZERO: Self::Digits = [0; 20];
    const KIND: u8 = 32;
    const TERM_BITS: u32 = 256 + 298;
    const NAN: Self = Self::from_bits(0x7fc0_0000);

    #[inline]
    fn term(self) -> Term {
        // The unit is the square of the smallest subnormal, 2^-149.
        let (negative, mantissa, shift) = parts(self);
        let shift = match shift {
            Term::NOT_FINITE => shift,
            _ => shift + 149,
        };
        Term {
            negative,
            mantissa,
            shift,
        }
    }

    fn infinity(negative: bool) -> Self {
        if negative {
            Self::NEG_INFINITY
        } else {
            Self::INFINITY
        }
    }

    fn round(negative: bool, magnitude: &[i64]) -> Self {
        let bits = nearest(magnitude, 24, 149).min(0x7f80_0000) as u32;
        let sign = u32::from(negative) << 31;
        Self::from_bits(sign | bits)
    }
}

impl Summand for f64 {
    type Digits = [i64; 68];
    const ZERO: Self::Digits = [0; 68];
    const KIND: u8 = 64;
    const TERM_BITS: u32 = 1024 + 1074;
    const NAN: Self = Self::from_bits(0x7ff8_0000_0000_0000);

    #[inline]
    fn term(self) -> Term {
        let bits = self.to_bits();
        let exponent = (bits >> 52) as u32 & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, shift) = if exponent == 0x7ff {
            (fraction, Term::NOT_FINITE)
        } else {
            let implied = u64::from(exponent != 0) << 52;
            (fraction | implied, exponent.max(1) - 1)
        };
        Term {
            negative: self.is_sign_negative(),
            mantissa,
            shift,
        }
    }

    fn infinity(negative: bool) -> Self {
        if negative {
            Self::NEG_INFINITY
        } else {
            Self::INFINITY
        }
    }

    fn round(negative: bool, magnitude: &[i64]) -> Self {
        let bits = nearest(magnitude, 53, 0).min(0x7ff0_0000_0000_0000) as u64;
        let sign = u64::from(negative) << 63;
        Self::from_bits(sign | bits)
    }
}

/// Sign, mantissa and exponent in units of 2^-149.
#[inline]
fn parts(value: f32) -> (bool, u64, u32) {
    let bits = value.to_bits();
    let exponent = bits >> 23 & 0xff;
    let fraction = u64::from(bits & ((1 << 23) - 1));
    let (mantissa, shift) = if exponent == 0xff {
        (fraction, Term::NOT_FINITE)
    } else {
        let implied = u64::from(exponent != 0) << 23;
        (fraction | implied, exponent.max(1) - 1)
    };
    (value.is_sign_negative(), mantissa, shift)
}

/// The exact product of two values: 48 bits at the sum of the exponents.
#[inline]
pub(super) fn product(a: f32, b: f32) -> Term {
    let (a_negative, a_mantissa, a_shift) = parts(a);
    let (b_negative, b_mantissa, b_shift) = parts(b);
    if a_shift == Term::NOT_FINITE || b_shift == Term::NOT_FINITE {
        // A NaN or an infinity: what IEEE 754 makes of it.
        return (a * b).term();
    }
    Term {
        negative: a_negative != b_negative,
        mantissa: a_mantissa * b_mantissa,
        shift: a_shift + b_shift,
    }
}

/// The bits, without sign, of the nearest float of `precision` bits whose smallest subnormal is 2^`subnormal` units;
/// beyond those of infinity on overflow.
fn nearest(magnitude: &[i64], precision: u32, subnormal: u32) -> u128 {
    let Some(top) = magnitude.iter().rposition(|digit| *digit != 0) else {
        return 0;
    };
    let length = top as u32 * DIGIT_BITS + (64 - magnitude[top].leading_zeros());
    // Place of the result's last bit.
    let last = length.saturating_sub(precision).max(subnormal);
    let kept = window(magnitude, last);
    let rounded = if last == 0 {
        kept
    } else {
        let half = window(magnitude, last - 1) & 1 == 1;
        let rest = any_below(magnitude, last - 1);
        kept + u128::from(half && (rest || kept & 1 == 1))
    };
    // A normal mantissa's leading bit adds 1 to the exponent field, and so does a carry out of the mantissa.
    (u128::from(last - subnormal) << (precision - 1)) + rounded
}

/// The bits from place `first` on, as far as three digits hold them.
pub(super) fn window(magnitude: &[i64], first: u32) -> u128 {
    let digit = |index: usize| magnitude.get(index).map_or(0, |digit| *digit as u128);
    let index = (first / DIGIT_BITS) as usize;
    let digits =
        digit(index) | digit(index + 1) << DIGIT_BITS | digit(index + 2) << (2 * DIGIT_BITS);
    digits >> (first % DIGIT_BITS)
}

/// Whether a bit below place `end` is set.
fn any_below(magnitude: &[i64], end: u32) -> bool {
    let (whole, rest) = ((end / DIGIT_BITS) as usize, end % DIGIT_BITS);
    magnitude[..whole].iter().any(|digit| *digit != 0) || magnitude[whole] & ((1 << rest) - 1) != 0
}
