//! The draws of stochastic rounding: a pure function of seed, step and index.
//!
//! # Design
//! The generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
//! (2011): no state, so any draw can be computed on any thread, in any order, in vector lanes.
//!
//! # Determinism
//! The draw of (seed, step, index) is word `index mod 4` of [`philox4x32_10`] with the counter
//! (b mod 2^32, b / 2^32, step mod 2^32, step / 2^32), where b = index / 4, and the key (seed mod 2^32, seed / 2^32),
//! all divisions rounded down.
//!
//! Not for secrets: the generator is statistical, not cryptographic.

/// Multipliers of the first and third word of the counter.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
/// What the two words of the key grow by from round to round.
const INCREMENTS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The Philox4x32-10 block of `counter` under `key`.
///
/// A round multiplies c0 and c2 by their constants to 64 bits, (h0, l0) and (h2, l2), and gives
/// (h2 ^ c1 ^ k0, l2, h0 ^ c3 ^ k1, l0). Between the ten rounds the key's words grow by their constants, modulo 2^32.
#[inline]
#[must_use]
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..ROUNDS {
        let first = u64::from(MULTIPLIERS[0]) * u64::from(c0);
        let third = u64::from(MULTIPLIERS[1]) * u64::from(c2);
        (c0, c1, c2, c3) = (
            (third >> 32) as u32 ^ c1 ^ k0,
            third as u32,
            (first >> 32) as u32 ^ c3 ^ k1,
            first as u32,
        );
        k0 = k0.wrapping_add(INCREMENTS[0]);
        k1 = k1.wrapping_add(INCREMENTS[1]);
    }
    [c0, c1, c2, c3]
}

/// One draw, an integer u that stands for u / 2^32 in [0, 1); only [`Draws`] makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw(u32);

impl Draw {
    /// The integer u.
    #[inline]
    #[must_use]
    pub fn to_bits(self) -> u32 {
        self.0
    }

    /// A draw of a test's choice.
    #[cfg(test)]
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// The draws of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    seed: u64,
    step: u64,
}

impl Draws {
    /// The draws of `step` under `seed`.
    #[must_use]
    pub fn new(seed: u64, step: u64) -> Self {
        Self { seed, step }
    }

    /// The draw at `index`.
    #[inline]
    #[must_use]
    pub fn at(self, index: u64) -> Draw {
        Draw(self.block(index / 4)[(index % 4) as usize])
    }

    /// The draws at `first`, `first` + 1, ... into `draws`, one block of the generator for four of them.
    ///
    /// Indices wrap around at 2^64.
    pub fn fill(self, first: u64, draws: &mut [Draw]) {
        let head = ((4 - first % 4) % 4).min(draws.len() as u64);
        let (leading, rest) = draws.split_at_mut(head as usize);
        for (offset, draw) in (0..).zip(leading) {
            *draw = self.at(first.wrapping_add(offset));
        }
        for (offset, chunk) in (0..).zip(rest.chunks_mut(4)) {
            let index = first.wrapping_add(head).wrapping_add(4 * offset);
            for (draw, word) in chunk.iter_mut().zip(self.block(index / 4)) {
                *draw = Draw(word);
            }
        }
    }

    #[inline]
    fn block(self, block: u64) -> [u32; 4] {
        let low = |value: u64| value as u32;
        let high = |value: u64| (value >> 32) as u32;
        philox4x32_10(
            [low(block), high(block), low(self.step), high(self.step)],
            [low(self.seed), high(self.seed)],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_papers_test_vectors() {
        for (counter, key, expected) in [
            (
                [0; 4],
                [0; 2],
                [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32_10(counter, key), expected);
        }
    }

    #[test]
    fn seed_step_and_index_take_their_stated_places() {
        let (seed, step, index) = (
            0x299f_31d0_a409_3822,
            0x0370_7344_1319_8a2e,
            0x0123_4567_89ab_cdef,
        );
        let block: u64 = index / 4;
        let words = philox4x32_10(
            [block as u32, (block >> 32) as u32, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        let draws = Draws::new(seed, step);
        assert_eq!(draws.at(index).to_bits(), words[3]);
        assert_eq!(draws.at(index - 3).to_bits(), words[0]);
        assert_eq!(Draws::new(0, 0).at(1).to_bits(), 0xe169_c58d);
    }

    #[test]
    fn filling_equals_drawing_one_by_one() {
        let draws = Draws::new(5, 9);
        for first in [0, 1, 2, 3, 4, 1021, u64::MAX - 6] {
            for count in 0..20 {
                let mut filled = vec![Draw(0); count];
                draws.fill(first, &mut filled);
                for (offset, draw) in (0..).zip(filled) {
                    assert_eq!(draw, draws.at(first.wrapping_add(offset)));
                }
            }
        }
    }
}
