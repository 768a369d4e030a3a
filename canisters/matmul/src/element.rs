//! What matrices are made of, and what becomes of their sums.
//!
//! # Determinism
//! | elements | a sum | result |
//! |---|---|---|
//! | i8 | exact, i32: at most [`INT8_INNER_MAX`] products of at most 2^14 | the sum |
//! | i16, fixed point | exact, i64: less than 2^32 products of at most 2^30 | rounded once to the fraction of the inputs, half to even, saturated to i32 |
//! | f32 | acc = acc + a * b from +0, the inner index increasing, each operation rounded to nearest even | the sum; NaN is 0x7fc00000 |
use candid::{CandidType, Deserialize};

/// Products of i8 that an i32 can always hold the sum of.
pub(crate) const INT8_INNER_MAX: usize = (i32::MAX as usize) >> 14;

/// The elements of a stored matrix.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Int8,
    Int32,
    Fixed16(u8),
    Fixed32(u8),
    Float32,
}

/// How tiles are multiplied.
#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Int8,
    Fixed16,
    Float32,
}

impl Element {
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Fixed16(_) => 2,
            Self::Int32 | Self::Fixed32(_) | Self::Float32 => 4,
        }
    }

    /// # Errors
    /// The fraction has more bits than the number beside its sign.
    pub(crate) fn check(self) -> Result<(), String> {
        let (fraction, max) = match self {
            Self::Fixed16(fraction) => (fraction, 15),
            Self::Fixed32(fraction) => (fraction, 31),
            _ => return Ok(()),
        };
        if fraction > max {
            return Err(format!("the fraction has more than {max} bits: {fraction}"));
        }
        Ok(())
    }

    /// How matrices of these elements are multiplied, and the elements of the product.
    ///
    /// # Errors
    /// They are not.
    pub(crate) fn product(self) -> Result<(Arithmetic, Self), String> {
        match self {
            Self::Int8 => Ok((Arithmetic::Int8, Self::Int32)),
            Self::Fixed16(fraction) => Ok((Arithmetic::Fixed16, Self::Fixed32(fraction))),
            Self::Float32 => Ok((Arithmetic::Float32, Self::Float32)),
            Self::Int32 | Self::Fixed32(_) => Err(format!(
                "matrices of {self:?} cannot be multiplied: only of Int8, Fixed16 and Float32"
            )),
        }
    }
}

impl Arithmetic {
    /// Bytes of an element of the inputs.
    pub(crate) fn element_bytes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Fixed16 => 2,
            Self::Float32 => 4,
        }
    }

    /// Bytes of a sum.
    pub(crate) fn sum_bytes(self) -> usize {
        match self {
            Self::Int8 | Self::Float32 => 4,
            Self::Fixed16 => 8,
        }
    }

    /// Takes the sums of one chain of products into those of the output.
    pub(crate) fn gather(self, total: &mut [u8], part: &[u8]) {
        match self {
            Self::Int8 => add(total, part, |sum, part| {
                i32::from_le_bytes(sum)
                    .wrapping_add(i32::from_le_bytes(part))
                    .to_le_bytes()
            }),
            Self::Fixed16 => add(total, part, |sum, part| {
                i64::from_le_bytes(sum)
                    .wrapping_add(i64::from_le_bytes(part))
                    .to_le_bytes()
            }),
            // The whole chain in one part.
            Self::Float32 => total.copy_from_slice(part),
        }
    }

    /// The elements of the product from all sums.
    pub(crate) fn finish(sums: Vec<u8>, element: Element) -> Vec<u8> {
        let Element::Fixed32(fraction) = element else {
            return sums;
        };
        let (sums, _) = sums.as_chunks::<8>();
        sums.iter()
            .flat_map(|sum| round(i64::from_le_bytes(*sum), fraction).to_le_bytes())
            .collect()
    }
}

fn add<const N: usize>(total: &mut [u8], part: &[u8], add: fn([u8; N], [u8; N]) -> [u8; N]) {
    let (total, _) = total.as_chunks_mut::<N>();
    let (part, _) = part.as_chunks::<N>();
    for (total, part) in total.iter_mut().zip(part) {
        *total = add(*total, *part);
    }
}

/// Drops `bits` bits, half to even, and saturates.
fn round(sum: i64, bits: u8) -> i32 {
    let floor = sum >> bits;
    let rest = sum - (floor << bits);
    let half = (1_i64 << bits) >> 1;
    let up = rest > half || (rest == half && bits > 0 && floor & 1 == 1);
    let rounded = floor + i64::from(up);
    i32::try_from(rounded).unwrap_or(if rounded < 0 { i32::MIN } else { i32::MAX })
}
