//! Fixed-point numbers of 16 and 32 bits: an integer times a power of two, with every rounding stated.
//!
//! # Design
//! [`Fixed<T, FRACTION>`](Fixed) holds an integer i of type T and stands for i / 2^FRACTION. An operation computes the
//! exact result, rounds it to a multiple of 2^-FRACTION by the [`Rounding`] it is given, and only then looks at the
//! range: the `saturating` form takes the nearest end of the range, the `checked` form gives `None`. Operations without
//! a rounding are exact.
//!
//! # Determinism
//! Integer arithmetic only. With f = floor(x) and r = x - f in last places, x becomes f if r is 0, otherwise
//!
//! | rounding | f + 1 when |
//! |---|---|
//! | half-even | r > 1/2, or r = 1/2 and f is odd |
//! | half-up | r >= 1/2 |
//! | toward zero | f < 0 |
//! | floor | never |
//! | stochastic with draw u | u / 2^32 < r |
//!
//! A division by zero is that of the extended reals: in the saturating form it gives the largest value for a positive
//! dividend, the smallest for a negative one and 0 for 0 / 0, in the checked form `None`. A NaN becomes 0 or `None`.
//!
//! # Units and bounds
//! FRACTION is at most the width less one; more does not compile. A product, a shifted dividend and a rescaled value
//! are below 2^62 in magnitude, so i64 holds them. Stochastic rounding of products and between fractions goes up with
//! probability r exactly, as r has at most 31 bits there; in divisions and from floats with r rounded up to a multiple
//! of 2^-32.
//!
//! # Examples
//! ```
//! use lockstep_numeric::{Fixed16, Rounding};
//!
//! let a = Fixed16::<8>::saturating_from_f64(1.5, Rounding::HalfEven);
//! let b = a.saturating_mul(a, Rounding::Floor);
//! assert_eq!(b.to_f64(), 2.25);
//! assert_eq!(b.checked_mul(Fixed16::from_bits(i16::MAX), Rounding::Floor), None);
//! ```

use std::cmp::Ordering;
use std::fmt;

use crate::stochastic::Draw;

/// How an exact result becomes a multiple of the last place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest, ties to the even one.
    HalfEven,
    /// To the nearest, ties to the larger one.
    HalfUp,
    /// To the one of smaller magnitude.
    TowardZero,
    /// To the smaller one.
    Floor,
    /// To the larger one if the draw is below the distance from the smaller one, to the smaller one otherwise.
    Stochastic(Draw),
}

impl Rounding {
    /// Whether `floor` + `remainder` / `denominator`, with 0 <= remainder < denominator < 2^95, becomes `floor` + 1.
    #[inline]
    fn goes_up(self, floor: i64, remainder: u128, denominator: u128) -> bool {
        if remainder == 0 {
            return false;
        }
        match self {
            Self::HalfEven => match (2 * remainder).cmp(&denominator) {
                Ordering::Less => false,
                Ordering::Equal => floor & 1 == 1,
                Ordering::Greater => true,
            },
            Self::HalfUp => 2 * remainder >= denominator,
            Self::TowardZero => floor < 0,
            Self::Floor => false,
            Self::Stochastic(draw) => u128::from(draw.to_bits()) * denominator < remainder << 32,
        }
    }

    /// `numerator` / 2^`shift`, for a quotient within i64 and a shift of at most 94.
    #[inline]
    fn shift(self, numerator: i128, shift: u32) -> i64 {
        let denominator = 1u128 << shift;
        let floor = (numerator >> shift) as i64;
        let remainder = numerator as u128 & (denominator - 1);
        floor + i64::from(self.goes_up(floor, remainder, denominator))
    }

    /// `numerator` / `denominator`, for a denominator that is not 0.
    #[inline]
    fn divide(self, numerator: i64, denominator: i64) -> i64 {
        let (numerator, denominator) = if denominator < 0 {
            (-numerator, -denominator)
        } else {
            (numerator, denominator)
        };
        let floor = numerator.div_euclid(denominator);
        let remainder = numerator.rem_euclid(denominator) as u128;
        floor + i64::from(self.goes_up(floor, remainder, denominator as u128))
    }
}

mod sealed {
    /// The integer that holds a fixed-point number.
    pub trait Sealed {}
    impl Sealed for i16 {}
    impl Sealed for i32 {}
}

/// The integers that hold fixed-point numbers: i16 and i32.
pub trait Word:
    sealed::Sealed + Copy + fmt::Debug + Ord + Into<i64> + Into<i32> + TryFrom<i64>
{
    /// Width in bits.
    const BITS: u32;
    /// The smallest value.
    const MIN: Self;
    /// The largest value.
    const MAX: Self;
    /// Zero.
    const ZERO: Self;
}

impl Word for i16 {
    const BITS: u32 = Self::BITS;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    const ZERO: Self = 0;
}

impl Word for i32 {
    const BITS: u32 = Self::BITS;
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;
    const ZERO: Self = 0;
}

/// An integer of type T that counts units of 2^-FRACTION.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fixed<T, const FRACTION: u32>(T);

/// Fixed point in 16 bits.
pub type Fixed16<const FRACTION: u32> = Fixed<i16, FRACTION>;
/// Fixed point in 32 bits.
pub type Fixed32<const FRACTION: u32> = Fixed<i32, FRACTION>;

impl<T: Word, const FRACTION: u32> Fixed<T, FRACTION> {
    const VALID: () = assert!(FRACTION < T::BITS, "more fraction bits than the word has");

    /// Zero.
    pub const ZERO: Self = Self::from_bits(T::ZERO);
    /// The smallest value.
    pub const MIN: Self = Self::from_bits(T::MIN);
    /// The largest value.
    pub const MAX: Self = Self::from_bits(T::MAX);

    /// The number whose integer is `bits`.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: T) -> Self {
        let () = Self::VALID;
        Self(bits)
    }

    /// The integer that holds the number.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> T {
        self.0
    }

    #[inline]
    fn wide(self) -> i64 {
        self.0.into()
    }

    /// The number whose integer is `bits`, or the nearest end of the range.
    #[inline]
    fn saturate(bits: i64) -> Self {
        match T::try_from(bits) {
            Ok(bits) => Self::from_bits(bits),
            Err(_) if bits < 0 => Self::MIN,
            Err(_) => Self::MAX,
        }
    }

    /// The number whose integer is `bits`, if it is in range.
    #[inline]
    fn check(bits: i64) -> Option<Self> {
        T::try_from(bits).ok().map(Self::from_bits)
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self::saturate(self.wide() + other.wide())
    }

    /// The sum.
    #[inline]
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        Self::check(self.wide() + other.wide())
    }

    /// The difference.
    #[inline]
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self::saturate(self.wide() - other.wide())
    }

    /// The difference.
    #[inline]
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        Self::check(self.wide() - other.wide())
    }

    /// The negative.
    #[inline]
    #[must_use]
    pub fn saturating_neg(self) -> Self {
        Self::saturate(-self.wide())
    }

    /// The negative.
    #[inline]
    #[must_use]
    pub fn checked_neg(self) -> Option<Self> {
        Self::check(-self.wide())
    }

    #[inline]
    fn product(self, other: Self, rounding: Rounding) -> i64 {
        rounding.shift(i128::from(self.wide() * other.wide()), FRACTION)
    }

    /// The product, rounded once.
    #[inline]
    #[must_use]
    pub fn saturating_mul(self, other: Self, rounding: Rounding) -> Self {
        Self::saturate(self.product(other, rounding))
    }

    /// The product, rounded once.
    #[inline]
    #[must_use]
    pub fn checked_mul(self, other: Self, rounding: Rounding) -> Option<Self> {
        Self::check(self.product(other, rounding))
    }

    /// The quotient, `None` for a zero divisor.
    #[inline]
    fn quotient(self, divisor: Self, rounding: Rounding) -> Option<i64> {
        (divisor != Self::ZERO).then(|| rounding.divide(self.wide() << FRACTION, divisor.wide()))
    }

    /// The quotient, rounded once; of a zero divisor the end of the range on the dividend's side, or 0 for 0 / 0.
    #[inline]
    #[must_use]
    pub fn saturating_div(self, divisor: Self, rounding: Rounding) -> Self {
        match self.quotient(divisor, rounding) {
            Some(quotient) => Self::saturate(quotient),
            None => match self.cmp(&Self::ZERO) {
                Ordering::Less => Self::MIN,
                Ordering::Equal => Self::ZERO,
                Ordering::Greater => Self::MAX,
            },
        }
    }

    /// The quotient, rounded once; `None` for a zero divisor.
    #[inline]
    #[must_use]
    pub fn checked_div(self, divisor: Self, rounding: Rounding) -> Option<Self> {
        Self::check(self.quotient(divisor, rounding)?)
    }

    #[inline]
    fn rescaled<const TO: u32>(self, rounding: Rounding) -> i64 {
        if TO >= FRACTION {
            self.wide() << (TO - FRACTION)
        } else {
            rounding.shift(self.wide().into(), FRACTION - TO)
        }
    }

    /// The same number in another word or with another fraction; exact apart from the range if the fraction grows.
    #[inline]
    #[must_use]
    pub fn saturating_rescale<U: Word, const TO: u32>(self, rounding: Rounding) -> Fixed<U, TO> {
        let () = Fixed::<U, TO>::VALID;
        Fixed::saturate(self.rescaled::<TO>(rounding))
    }

    /// The same number in another word or with another fraction; exact apart from the range if the fraction grows.
    #[inline]
    #[must_use]
    pub fn checked_rescale<U: Word, const TO: u32>(
        self,
        rounding: Rounding,
    ) -> Option<Fixed<U, TO>> {
        let () = Fixed::<U, TO>::VALID;
        Fixed::check(self.rescaled::<TO>(rounding))
    }

    /// An integer.
    #[inline]
    #[must_use]
    pub fn saturating_from_integer(value: i32) -> Self {
        Self::saturate(i64::from(value) << FRACTION)
    }

    /// An integer.
    #[inline]
    #[must_use]
    pub fn checked_from_integer(value: i32) -> Option<Self> {
        Self::check(i64::from(value) << FRACTION)
    }

    /// The number rounded to an integer; always in range.
    #[inline]
    #[must_use]
    pub fn to_integer(self, rounding: Rounding) -> i32 {
        // At most 2^31 - 1 and at least -2^31: without a fraction it is the word itself, with one half of it.
        rounding.shift(self.wide().into(), FRACTION) as i32
    }

    /// An f32, rounded once; infinities saturate, a NaN gives 0.
    #[inline]
    #[must_use]
    pub fn saturating_from_f32(value: f32, rounding: Rounding) -> Self {
        Self::saturating_from_f64(value.into(), rounding)
    }

    /// An f32, rounded once; `None` for infinities and NaNs.
    #[inline]
    #[must_use]
    pub fn checked_from_f32(value: f32, rounding: Rounding) -> Option<Self> {
        Self::checked_from_f64(value.into(), rounding)
    }

    /// An f64, rounded once; infinities saturate, a NaN gives 0.
    #[must_use]
    pub fn saturating_from_f64(value: f64, rounding: Rounding) -> Self {
        if value.is_nan() {
            return Self::ZERO;
        }
        Self::saturate(scale(value, FRACTION, rounding))
    }

    /// An f64, rounded once; `None` for infinities and NaNs.
    #[must_use]
    pub fn checked_from_f64(value: f64, rounding: Rounding) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        Self::check(scale(value, FRACTION, rounding))
    }

    /// The nearest f32, ties to even; exact in 16 bits.
    #[inline]
    #[must_use]
    pub fn to_f32(self) -> f32 {
        // The conversion rounds; the division by a power of two is exact, far from subnormals.
        self.wide() as f32 / (1u64 << FRACTION) as f32
    }

    /// The number, exactly.
    #[inline]
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.wide() as f64 / (1u64 << FRACTION) as f64
    }
}

/// `value` * 2^`fraction` rounded to an integer, or one beyond 32 bits on its side; `value` is not a NaN.
fn scale(value: f64, fraction: u32, rounding: Rounding) -> i64 {
    /// From this shift on the 53 bits of a mantissa are below 2^-33, and every rounding sees no more than the sign.
    const SHIFT_MAX: i32 = 86;

    let bits = value.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let mantissa = i128::from(bits & ((1 << 52) - 1) | u64::from(exponent != 0) << 52);
    let signed = if value.is_sign_negative() {
        -mantissa
    } else {
        mantissa
    };
    let shift = 1075 - fraction as i32 - exponent.max(1);
    if shift <= 0 {
        // A normal number: its mantissa of 53 bits is beyond 32 bits already.
        signed as i64
    } else if shift <= SHIFT_MAX {
        rounding.shift(signed, shift as u32)
    } else {
        rounding.shift(signed.signum(), SHIFT_MAX as u32)
    }
}

#[cfg(test)]
mod tests;
