//! Rotary position embedding: the table of angles and the rotation.

use std::fmt;

use crate::elementary::{power_of_positive_base, sin_cos};
use crate::environment;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// (2i, 2i + 1).
    Interleaved,
    /// (i, i + half of the head).
    Halves,
}

/// Cosines and sines for every position and pair of dimensions.
///
/// # Determinism
/// The frequency of pair i is the f64 nearest to the double-double value of base^(-2i / dimension), computed by a fixed
/// sequence of f64 operations; the angle at position p is f64(p) * frequency rounded to f64 and then to f32; cosine and
/// sine are the correctly rounded f32 of that angle.
///
/// # Units and bounds
/// Angles in radians. Positions count from 0.
#[derive(Clone)]
pub struct RopeTable {
    dimension: usize,
    /// Per position, per pair: cosine, sine.
    rotations: Vec<[f32; 2]>,
}

impl RopeTable {
    /// The table for heads of `dimension` elements and positions below `positions`.
    ///
    /// # Panics
    /// `dimension` is odd, or `base` is not a normal number of at least 1.
    #[must_use]
    pub fn new(dimension: usize, base: f32, positions: usize) -> Self {
        Self::with_factors(dimension, base, None, positions)
    }

    /// As [`Self::new`], each pair's frequency divided by its factor, in f64.
    ///
    /// # Panics
    /// As [`Self::new`]; or there is not a factor for each pair.
    #[must_use]
    pub fn with_factors(
        dimension: usize,
        base: f32,
        factors: Option<&[f32]>,
        positions: usize,
    ) -> Self {
        assert!(
            factors.is_none_or(|factors| factors.len() == dimension / 2),
            "there is not a factor for each pair of {dimension} elements"
        );
        assert!(
            dimension.is_multiple_of(2),
            "rotary dimension is odd: {dimension}"
        );
        assert!(
            base.is_normal() && base >= 1.0,
            "rotary base is not a normal number of at least 1: {base}"
        );
        environment::assert_default();
        let frequencies: Vec<f64> = (0..dimension / 2)
            .map(|pair| {
                let frequency =
                    power_of_positive_base(f64::from(base), -2.0 * pair as f64, dimension as f64);
                factors.map_or(frequency, |factors| frequency / f64::from(factors[pair]))
            })
            .collect();
        let mut rotations = Vec::with_capacity(positions * frequencies.len());
        for position in 0..positions {
            for frequency in &frequencies {
                let (sine, cosine) = sin_cos((position as f64 * frequency) as f32);
                rotations.push([cosine, sine]);
            }
        }
        Self {
            dimension,
            rotations,
        }
    }

    /// Elements of a head.
    #[must_use]
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Number of positions.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.rotations
            .len()
            .checked_div(self.dimension / 2)
            .unwrap_or(0)
    }

    /// Cosine and sine per pair at a position.
    pub(crate) fn at(&self, position: usize) -> &[[f32; 2]] {
        assert!(
            position < self.positions(),
            "position exceeds the table: {position}"
        );
        let pairs = self.dimension / 2;
        &self.rotations[position * pairs..][..pairs]
    }
}

impl fmt::Debug for RopeTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "RopeTable({}x{})",
            self.positions(),
            self.dimension
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_of_exact_powers_are_exact() {
        for (base, numerator, denominator, expected) in [
            (10_000.0, -2.0, 2.0, 1e-4),
            (65_536.0, -1.0, 4.0, 0.0625),
            (100_000.0, 0.0, 64.0, 1.0),
            (1.0, -6.0, 8.0, 1.0),
        ] {
            let power = power_of_positive_base(base, numerator, denominator);
            assert_eq!(
                power.to_bits(),
                f64::to_bits(expected),
                "{base} ^ ({numerator} / {denominator})"
            );
        }
    }

    #[test]
    fn position_zero_does_not_rotate() {
        let table = RopeTable::new(6, 10_000.0, 2);
        assert_eq!(table.at(0), [[1.0, 0.0]; 3]);
        assert_eq!((table.positions(), table.dimension()), (2, 6));
    }
}
