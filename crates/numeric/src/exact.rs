//! Sums of floats that do not depend on the order of their terms.
//!
//! # Design
//! [`ExactSum`] is a fixed-point integer that covers every finite value of its type, with 64 bits above for carries: the
//! small superaccumulator of Neal, "Fast exact summation using small and large superaccumulators" (2015). It holds
//! digits of 32 bits in i64, so that a term is added without a carry; carries move up once in 2^30 additions and before
//! the sum is read. A sum of f32 covers products of two f32 as well, so dot products are exact too.
//!
//! | summand | unit | integer | limit of one term |
//! |---|---|---|---|
//! | f32 and products of two f32 | 2^-298 | 640 bits | 2^256 |
//! | f64 | 2^-1074 | 2,176 bits | 2^1024 |
//!
//! # Determinism
//! The state is a function of the multiset of terms: partitions, merge trees and orders do not appear in it. [`round`]
//! gives the exact sum rounded once, half to even, subnormals included, to infinity from half a last place above the
//! largest finite value on. A NaN term, or infinities of both signs, gives the canonical NaN; infinities of one sign
//! give that infinity, whatever else is there. A sum that is exactly zero is +0, the empty one and one of only -0
//! included. A negative sum too small for a subnormal, possible with products only, gives -0.
//!
//! # Units and bounds
//! At most [`MAX_TERMS`] = 2^63 terms: an integer below 2^617 or 2^2161 in magnitude. More is refused, and the sum stays
//! as it was. A product is one term, and so is a zero, a NaN or an infinity.
//!
//! # Examples
//! ```
//! use lockstep_numeric::exact::ExactSum32;
//!
//! let mut sum = ExactSum32::new();
//! sum.add_slice(&[1e30, 1.0, -1e30])?;
//! let mut other = ExactSum32::new();
//! other.add_product(3.0, 0.5)?;
//! sum.merge(&other)?;
//! assert_eq!(sum.round(), 2.5);
//! assert_eq!(ExactSum32::from_bytes(&sum.to_bytes())?, sum);
//! # Ok::<(), lockstep_numeric::exact::ExactError>(())
//! ```
//!
//! [`round`]: ExactSum::round

mod bytes;
mod summand;

use thiserror::Error;

pub use summand::Summand;
use summand::Term;

/// The largest number of terms of a sum.
pub const MAX_TERMS: u64 = 1 << 63;

/// Additions after which carries move up. Digits start below 2^32 and grow by less than 2^32 each time: below 2^63.
const PENDING_MAX: u32 = 1 << 30;

/// Bits of a digit.
const DIGIT_BITS: u32 = 32;
const DIGIT_MASK: i64 = 0xffff_ffff;

/// A sum cannot be extended or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExactError {
    /// The sum would have more than [`MAX_TERMS`] terms.
    #[error("too many terms in an exact sum: {held} and {added} more")]
    TooManyTerms {
        /// Terms in the sum.
        held: u64,
        /// Terms to be added.
        added: u64,
    },
    /// The bytes are not as long as those of a sum.
    #[error("an exact sum of this type has {expected} bytes: {actual}")]
    Length {
        /// Bytes of a sum.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// The bytes are of another type of sum.
    #[error("an exact sum of this type starts with {expected}: {actual}")]
    Kind {
        /// First byte of a sum of this type.
        expected: u8,
        /// First byte given.
        actual: u8,
    },
    /// There are flags without a meaning.
    #[error("flags of an exact sum are at most 7: {flags}")]
    Flags {
        /// The flags given.
        flags: u8,
    },
    /// The sum is larger, or has more flags, than its number of terms allows.
    #[error("an exact sum is larger than its number of terms allows: {terms}")]
    Inconsistent {
        /// The number of terms given.
        terms: u64,
    },
}

/// The kinds of terms that are not finite, each a bit.
mod flag {
    pub(super) const NAN: u8 = 1;
    pub(super) const PLUS_INFINITY: u8 = 2;
    pub(super) const MINUS_INFINITY: u8 = 4;
    pub(super) const ALL: u8 = NAN | PLUS_INFINITY | MINUS_INFINITY;
}

/// A sum of floats, exact until it is rounded.
#[derive(Clone, Debug)]
pub struct ExactSum<F: Summand> {
    /// Digits in base 2^32, least first. After [`carry`](Self::carry) all but the last are in 0..2^32: two's complement.
    digits: F::Digits,
    flags: u8,
    terms: u64,
    /// Additions to the digits since carries last moved up.
    pending: u32,
}

/// An exact sum of f32 and of products of two f32.
pub type ExactSum32 = ExactSum<f32>;
/// An exact sum of f64.
pub type ExactSum64 = ExactSum<f64>;

impl<F: Summand> ExactSum<F> {
    /// The empty sum.
    #[must_use]
    pub fn new() -> Self {
        Self {
            digits: F::ZERO,
            flags: 0,
            terms: 0,
            pending: 0,
        }
    }

    /// The number of terms.
    #[must_use]
    pub fn terms(&self) -> u64 {
        self.terms
    }

    /// Adds a term.
    ///
    /// # Errors
    /// [`ExactError::TooManyTerms`]; the sum is as it was.
    #[inline]
    pub fn add(&mut self, value: F) -> Result<(), ExactError> {
        self.count(1)?;
        self.reserve(1);
        self.put(value.term());
        Ok(())
    }

    /// Adds every value of a slice as a term.
    ///
    /// # Errors
    /// [`ExactError::TooManyTerms`]; the sum is as it was.
    pub fn add_slice(&mut self, values: &[F]) -> Result<(), ExactError> {
        self.count(values.len() as u64)?;
        for values in values.chunks(PENDING_MAX as usize / 2) {
            self.put_all(values.len(), values.iter().map(|value| value.term()));
        }
        Ok(())
    }

    /// Adds the terms of another sum.
    ///
    /// # Errors
    /// [`ExactError::TooManyTerms`]; the sum is as it was.
    pub fn merge(&mut self, other: &Self) -> Result<(), ExactError> {
        self.count(other.terms)?;
        self.reserve(1);
        let other = other.carried();
        for (digit, other) in self.digits.as_mut().iter_mut().zip(other.digits.as_ref()) {
            *digit += other;
        }
        self.flags |= other.flags;
        Ok(())
    }

    /// The sum, rounded once, half to even.
    #[must_use]
    pub fn round(&self) -> F {
        const BOTH: u8 = flag::PLUS_INFINITY | flag::MINUS_INFINITY;
        if self.flags & flag::NAN != 0 || self.flags & BOTH == BOTH {
            return F::NAN;
        }
        if self.flags != 0 {
            return F::infinity(self.flags == flag::MINUS_INFINITY);
        }
        let (negative, magnitude) = self.magnitude();
        F::round(negative, magnitude.as_ref())
    }

    /// Takes `added` terms into the count.
    #[inline]
    fn count(&mut self, added: u64) -> Result<(), ExactError> {
        match self.terms.checked_add(added) {
            Some(terms) if terms <= MAX_TERMS => {
                self.terms = terms;
                Ok(())
            }
            _ => Err(ExactError::TooManyTerms {
                held: self.terms,
                added,
            }),
        }
    }

    /// Makes room for `additions`, at most [`PENDING_MAX`], to the digits.
    #[inline]
    fn reserve(&mut self, additions: u32) {
        if self.pending > PENDING_MAX - additions {
            self.carry();
        }
        self.pending += additions;
    }

    /// Adds a term for which there is room.
    #[inline]
    fn put(&mut self, term: Term) {
        self.flags |= add_term(self.digits.as_mut(), term);
    }

    /// Adds `count`, at most half of [`PENDING_MAX`], terms.
    #[inline]
    fn put_all(&mut self, count: usize, terms: impl Iterator<Item = Term>) {
        self.reserve(count as u32);
        terms.for_each(|term| self.put(term));
    }

    /// Moves carries up. The last digit keeps what reaches it: by the limit of terms, less than 31 bits.
    fn carry(&mut self) {
        let mut carry = 0;
        let (last, rest) = self.digits.as_mut().split_last_mut().expect("digits");
        for digit in rest {
            let value = *digit + carry;
            *digit = value & DIGIT_MASK;
            carry = value >> DIGIT_BITS;
        }
        *last += carry;
        // The digits are in 0..2^32, which is what one addition leaves.
        self.pending = 1;
    }

    /// The same sum without pending carries.
    fn carried(&self) -> Self {
        let mut sum = self.clone();
        sum.carry();
        sum
    }

    /// Sign and magnitude of the integer, in digits of 0..2^32.
    fn magnitude(&self) -> (bool, F::Digits) {
        let mut sum = self.carried();
        let negative = sum.digits.as_ref().last().is_some_and(|last| *last < 0);
        if negative {
            for digit in sum.digits.as_mut() {
                *digit = -*digit;
            }
            sum.carry();
        }
        (negative, sum.digits)
    }
}

impl ExactSum<f32> {
    /// Adds the exact product of two values as a term. 0 times an infinity is a NaN.
    ///
    /// # Errors
    /// [`ExactError::TooManyTerms`]; the sum is as it was.
    #[inline]
    pub fn add_product(&mut self, a: f32, b: f32) -> Result<(), ExactError> {
        self.count(1)?;
        self.reserve(1);
        self.put(summand::product(a, b));
        Ok(())
    }

    /// Adds the exact products of the values at the same places as terms: a dot product.
    ///
    /// # Errors
    /// [`ExactError::TooManyTerms`]; the sum is as it was.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn add_products(&mut self, a: &[f32], b: &[f32]) -> Result<(), ExactError> {
        assert_eq!(a.len(), b.len(), "factors of a dot product");
        self.count(a.len() as u64)?;
        let chunk = PENDING_MAX as usize / 2;
        for (a, b) in a.chunks(chunk).zip(b.chunks(chunk)) {
            let terms = a.iter().zip(b).map(|(a, b)| summand::product(*a, *b));
            self.put_all(a.len(), terms);
        }
        Ok(())
    }
}

/// Adds a term to the digits; returns the flags it raises.
#[inline]
fn add_term(digits: &mut [i64], term: Term) -> u8 {
    let Term {
        negative,
        mantissa,
        shift,
    } = term;
    if shift == Term::NOT_FINITE {
        return if mantissa != 0 {
            flag::NAN
        } else if negative {
            flag::MINUS_INFINITY
        } else {
            flag::PLUS_INFINITY
        };
    }
    // At most 53 + 31 bits: three digits. -1 and 0 negate without a branch.
    let (first, place) = ((shift / DIGIT_BITS) as usize, shift % DIGIT_BITS);
    let low = mantissa << place;
    let high = mantissa >> 1 >> (63 - place);
    let sign = -i64::from(negative);
    let signed = |part: u64| (part as i64 ^ sign) - sign;
    let digits = &mut digits[first..first + 3];
    digits[0] += signed(low & DIGIT_MASK as u64);
    digits[1] += signed(low >> DIGIT_BITS);
    digits[2] += signed(high);
    0
}

impl<F: Summand> Default for ExactSum<F> {
    fn default() -> Self {
        Self::new()
    }
}

/// Equal terms make equal sums; sums of equal value with different numbers of terms are different.
impl<F: Summand> PartialEq for ExactSum<F> {
    fn eq(&self, other: &Self) -> bool {
        self.terms == other.terms
            && self.flags == other.flags
            && self.carried().digits.as_ref() == other.carried().digits.as_ref()
    }
}

impl<F: Summand> Eq for ExactSum<F> {}

#[cfg(test)]
mod tests;
