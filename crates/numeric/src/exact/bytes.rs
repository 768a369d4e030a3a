//! The canonical bytes of a sum.

use super::summand::window;
use super::{DIGIT_BITS, ExactError, ExactSum, MAX_TERMS, Summand, flag};

/// Kind, flags, number of terms.
const HEADER: usize = 1 + 1 + 8;

impl<F: Summand> ExactSum<F> {
    /// Length of a serialised sum: 90 for f32, 282 for f64.
    pub const BYTES: usize = HEADER + size_of::<F::Digits>() / 2;

    /// The sum as bytes, the same for the same terms however they were added: the width of the summand in bits (1 byte),
    /// flags (1 byte: 1 a NaN, 2 a positive infinity, 4 a negative one among the terms), number of terms (8 bytes), the
    /// integer in two's complement (80 or 272 bytes), numbers little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::BYTES);
        bytes.extend([F::KIND, self.flags]);
        bytes.extend(self.terms.to_le_bytes());
        for digit in self.carried().digits.as_ref() {
            // The last digit is within i32.
            bytes.extend((*digit as u32).to_le_bytes());
        }
        bytes
    }

    /// The sum that [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// Bytes of another length or kind, unknown flags, too many terms, and an integer or flags that so many terms cannot
    /// reach. Whatever is accepted can be extended and merged up to the limit of terms.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ExactError> {
        let length = ExactError::Length {
            expected: Self::BYTES,
            actual: bytes.len(),
        };
        let Some((&[kind, flags, ref terms @ ..], digits)) = bytes.split_first_chunk::<HEADER>()
        else {
            return Err(length);
        };
        if bytes.len() != Self::BYTES {
            return Err(length);
        }
        if kind != F::KIND {
            return Err(ExactError::Kind {
                expected: F::KIND,
                actual: kind,
            });
        }
        if flags > flag::ALL {
            return Err(ExactError::Flags { flags });
        }
        let terms = u64::from_le_bytes(*terms);
        if terms > MAX_TERMS {
            return Err(ExactError::TooManyTerms {
                held: 0,
                added: terms,
            });
        }

        let mut sum = Self {
            flags,
            terms,
            pending: 1,
            ..Self::new()
        };
        let (digits, _) = digits.as_chunks::<4>();
        for (digit, bytes) in sum.digits.as_mut().iter_mut().zip(digits) {
            *digit = u32::from_le_bytes(*bytes).into();
        }
        if let Some(last) = sum.digits.as_mut().last_mut() {
            *last = i64::from(*last as u32 as i32);
        }
        if sum.is_consistent() {
            Ok(sum)
        } else {
            Err(ExactError::Inconsistent { terms })
        }
    }

    /// Whether finite terms, one fewer for each flag, can reach the integer: n terms are below n * 2^TERM_BITS units.
    fn is_consistent(&self) -> bool {
        let Some(finite) = self.terms.checked_sub(self.flags.count_ones().into()) else {
            return false;
        };
        let (_, magnitude) = self.magnitude();
        // What is above TERM_BITS fits the window: there are at most three digits from there on.
        debug_assert!(magnitude.as_ref().len() as u32 - F::TERM_BITS / DIGIT_BITS <= 3);
        let zero = magnitude.as_ref().iter().all(|digit| *digit == 0);
        zero || window(magnitude.as_ref(), F::TERM_BITS) < u128::from(finite)
    }
}
