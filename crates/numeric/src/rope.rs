//! Rotary position embedding: frequencies and rotations.

use crate::elementary::{power_of_positive_base, sin_cos};
use crate::environment;
use crate::kernels::Kernels;
use crate::pool::Disjoint;

/// Which elements of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// (2i, 2i + 1).
    Interleaved,
    /// (i, i + half of the head).
    Halves,
}

/// The frequencies of a rotary position embedding.
///
/// # Determinism
/// The frequency of pair i is the f64 nearest to the double-double value of base^(-2i / dimension), computed by a fixed
/// sequence of f64 operations, and divided by the pair's factor, if there are factors, in f64; the angle at position p is
/// f64(p) * frequency rounded to f64 and then to f32; cosine and sine are the correctly rounded f32 of that angle.
///
/// # Units and bounds
/// Angles in radians. Positions count from 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    frequencies: Vec<f64>,
}

/// Cosines and sines at the positions of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rotations {
    /// Pairs of a head.
    pairs: usize,
    /// Per position, per pair: cosine, sine.
    rotations: Vec<[f32; 2]>,
}

impl Rope {
    /// For heads of `dimension` elements, with a factor for each pair or none.
    ///
    /// # Panics
    /// `dimension` is zero or odd, `base` is not a normal number of at least 1, or there is not a normal factor above 0 for
    /// each pair.
    #[must_use]
    pub fn new(dimension: usize, base: f32, factors: Option<&[f32]>) -> Self {
        assert!(
            dimension > 0 && dimension.is_multiple_of(2),
            "rotary dimension is odd or none: {dimension}"
        );
        assert!(
            base.is_normal() && base >= 1.0,
            "rotary base is not a normal number of at least 1: {base}"
        );
        let is_factor = |factor: &f32| factor.is_normal() && *factor > 0.0;
        assert!(
            factors.is_none_or(|all| all.len() == dimension / 2 && all.iter().all(is_factor)),
            "there is not a normal factor above 0 for each pair of {dimension} elements"
        );
        environment::assert_default();
        let frequency = |pair: usize| {
            let exponent = -2.0 * pair as f64;
            let frequency = power_of_positive_base(f64::from(base), exponent, dimension as f64);
            factors.map_or(frequency, |factors| frequency / f64::from(factors[pair]))
        };
        Self {
            frequencies: (0..dimension / 2).map(frequency).collect(),
        }
    }

    /// Radians per position, for each pair.
    #[must_use]
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// Elements of a head.
    #[must_use]
    pub fn dimension(&self) -> usize {
        2 * self.frequencies.len()
    }
}

impl Rotations {
    /// Elements of a head.
    #[must_use]
    pub fn dimension(&self) -> usize {
        2 * self.pairs
    }

    /// Positions of the batch.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rotations.len().checked_div(self.pairs).unwrap_or(0)
    }

    /// Forgets all rows; the memory is kept.
    pub fn clear(&mut self) {
        self.rotations.clear();
    }

    /// Cosine and sine per pair of a row of the batch.
    pub(crate) fn row(&self, row: usize) -> &[[f32; 2]] {
        &self.rotations[row * self.pairs..][..self.pairs]
    }
}

impl Kernels {
    /// Cosines and sines at `positions`, a row for each.
    pub fn rotations(&self, rope: &Rope, positions: &[usize], rotations: &mut Rotations) {
        let pairs = rope.frequencies.len();
        rotations.pairs = pairs;
        rotations.rotations.clear();
        rotations
            .rotations
            .resize(positions.len() * pairs, [0.0; 2]);
        let all = Disjoint::new(&mut rotations.rotations);
        // A sine and a cosine cost as much as some 64 elements of other kernels.
        self.run_rows(positions.len(), 64 * pairs, &|rows| {
            for row in rows {
                // SAFETY: rows do not overlap, and each is visited once.
                let rotations = unsafe { all.part(row * pairs..(row + 1) * pairs) };
                for (rotation, frequency) in rotations.iter_mut().zip(&rope.frequencies) {
                    let (sine, cosine) = sin_cos((positions[row] as f64 * frequency) as f32);
                    *rotation = [cosine, sine];
                }
            }
        });
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
    fn factors_divide_frequencies() {
        let plain = Rope::new(4, 10_000.0, None);
        let stretched = Rope::new(4, 10_000.0, Some(&[1.0, 8.0]));
        assert_eq!(plain.frequencies[0], stretched.frequencies[0]);
        assert_eq!(plain.frequencies[1], 8.0 * stretched.frequencies[1]);
        assert_eq!(plain.dimension(), 4);
    }
}
