//! Choosing the next token.
//!
//! # Determinism
//! Greedy: the lowest index of the largest logit. Otherwise, every step in f32, each operation
//! rounded once: the largest logit is subtracted from each and the difference divided by the
//! temperature (thousandths / 1000); sorted by value descending and then by index ascending; cut to
//! the `top_k` first; the canonical softmax in that order; cut behind the first place where the
//! running sum (in that order) reaches `top_p`; the token is the first whose running sum exceeds u
//! times the sum of what is left.
//!
//! u has 24 bits: the first four bytes of BLAKE3 keyed with the seed (8 bytes little-endian, then
//! zeros) over the step (8 bytes little-endian), as a little-endian number shifted right by 8,
//! divided by 2^24. There is no generator state, so a run resumes at any step.
//!
//! # Errors
//! Logits that are not finite are an error in both cases.
use lockstep_numeric::{Kernels, NonFinite, argmax};
use serde::{Deserialize, Serialize};

/// How tokens are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature in thousandths; 0 is greedy, and then nothing else matters.
    pub temperature_milli: u32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens up to this probability, in thousandths; 1000 and more keeps all.
    pub top_p_milli: u32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature_milli: 0,
        top_k: 0,
        top_p_milli: 1000,
        seed: 0,
    };

    /// Chooses the token of `step` from its logits.
    ///
    /// # Errors
    /// When a logit is not finite or there is none.
    pub fn choose(&self, kernels: &Kernels, logits: &[f32], step: u64) -> Result<u32, NonFinite> {
        let best = argmax(logits)?;
        if self.temperature_milli == 0 {
            return Ok(best as u32);
        }
        let candidates = self.candidates(logits, logits[best]);
        let mut weights: Vec<f32> = candidates
            .iter()
            .map(|candidate| candidate.value())
            .collect();
        kernels.softmax(&mut weights);
        let (kept, total) = self.nucleus(&weights);
        let threshold = uniform(self.seed, step) * total;
        let mut sum = 0.0;
        for (weight, candidate) in weights[..kept].iter().zip(&candidates) {
            sum += weight;
            if sum > threshold {
                return Ok(candidate.token());
            }
        }
        // Rounding can leave the sum at the threshold: the last one it is.
        Ok(candidates[kept - 1].token())
    }

    /// The tokens that `top_k` leaves, most likely first. Subtracting the largest logit before
    /// dividing keeps the likely ones finite at any temperature; the others may go to minus
    /// infinity, which weighs nothing.
    fn candidates(&self, logits: &[f32], largest: f32) -> Vec<Candidate> {
        let temperature = self.temperature_milli as f32 / 1000.0;
        let mut candidates: Vec<Candidate> = (0..)
            .zip(logits)
            .map(|(token, logit)| Candidate::new((logit - largest) / temperature, token))
            .collect();
        let top_k = self.top_k as usize;
        if (1..candidates.len()).contains(&top_k) {
            candidates.select_nth_unstable(top_k);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable();
        candidates
    }

    /// How many of the sorted weights are kept, and their sum.
    fn nucleus(&self, weights: &[f32]) -> (usize, f32) {
        let limit = self.top_p_milli as f32 / 1000.0;
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            sum += weight;
            if self.top_p_milli < 1000 && sum >= limit {
                return (index + 1, sum);
            }
        }
        (weights.len(), sum)
    }
}

/// The bits of a number but its sign.
const SIGNLESS: u32 = u32::MAX >> 1;

/// A value that is not NaN and its token, in one number: sorts by value descending, then by token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate(u64);

impl Candidate {
    fn new(value: f32, token: u32) -> Self {
        // -0 and +0 are equally likely: adding +0 makes them one, so that the token decides.
        let bits = (value + 0.0).to_bits();
        // Larger for smaller values: negative ones by their magnitude, above all positive ones.
        let descending = if bits >> 31 == 1 {
            bits
        } else {
            SIGNLESS - bits
        };
        Self(u64::from(descending) << 32 | u64::from(token))
    }

    fn value(self) -> f32 {
        let descending = (self.0 >> 32) as u32;
        f32::from_bits(if descending >> 31 == 1 {
            descending
        } else {
            SIGNLESS - descending
        })
    }

    fn token(self) -> u32 {
        self.0 as u32
    }
}

fn uniform(seed: u64, step: u64) -> f32 {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let hash = blake3::keyed_hash(&key, &step.to_le_bytes());
    let [a, b, c, d, ..] = *hash.as_bytes();
    (u32::from_le_bytes([a, b, c, d]) >> 8) as f32 / (1u32 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_numeric::{Isa, Pool};
    use std::{num::NonZeroUsize, sync::Arc};

    fn kernels() -> Kernels {
        Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap()
    }

    const SEEDED: Sampling = Sampling {
        temperature_milli: 1000,
        top_k: 0,
        top_p_milli: 1000,
        seed: 7,
    };

    fn counts(sampling: Sampling, logits: &[f32], steps: u64) -> Vec<u32> {
        let kernels = kernels();
        let mut counts = vec![0; logits.len()];
        for step in 0..steps {
            counts[sampling.choose(&kernels, logits, step).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_index_of_the_largest() {
        assert_eq!(
            Sampling::GREEDY
                .choose(&kernels(), &[1.0, 3.0, 3.0], 0)
                .unwrap(),
            1
        );
    }

    #[test]
    fn non_finite_logits_are_an_error() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(Sampling::GREEDY.choose(&kernels(), &[0.0, bad], 0).is_err());
            assert!(SEEDED.choose(&kernels(), &[0.0, bad], 0).is_err());
        }
        assert!(SEEDED.choose(&kernels(), &[], 0).is_err());
    }

    #[test]
    fn frequencies_follow_the_likelihoods() {
        // ln 1, ln 2, ln 4: one, two and four sevenths.
        let logits = [0.0, std::f32::consts::LN_2, 2.0 * std::f32::consts::LN_2];
        let counts = counts(SEEDED, &logits, 7000);
        for (count, wanted) in counts.iter().zip([1000u32, 2000, 4000]) {
            assert!(count.abs_diff(wanted) < 150, "{counts:?}");
        }
    }

    #[test]
    fn cuts_leave_out_the_unlikely_and_ties_go_by_index() {
        let logits = [1.0, 1.0, 1.0, 0.9];
        let top_k = Sampling { top_k: 2, ..SEEDED };
        let cut = counts(top_k, &logits, 200);
        assert!(
            cut[0] > 50 && cut[1] > 50 && cut[2] + cut[3] == 0,
            "{cut:?}"
        );
        // Each of the first three has a little over a quarter.
        let top_p = Sampling {
            top_p_milli: 500,
            ..SEEDED
        };
        let cut = counts(top_p, &logits, 200);
        assert!(
            cut[0] > 50 && cut[1] > 50 && cut[2] + cut[3] == 0,
            "{cut:?}"
        );
        let none = Sampling {
            top_p_milli: 0,
            ..SEEDED
        };
        assert_eq!(counts(none, &logits, 50), [50, 0, 0, 0]);
    }

    #[test]
    fn candidates_sort_by_value_then_token() {
        let values = [
            f32::NEG_INFINITY,
            f32::MIN,
            -1.0,
            -1e-40,
            0.0,
            1e-40,
            2.0,
            f32::INFINITY,
        ];
        let mut candidates = Vec::new();
        for (index, &value) in values.iter().enumerate() {
            let token = index as u32 * 2;
            candidates.extend([
                Candidate::new(value, token + 1),
                Candidate::new(value, token),
            ]);
        }
        candidates.sort_unstable();
        let sorted: Vec<_> = candidates.iter().map(|c| (c.value(), c.token())).collect();
        let wanted: Vec<_> = (0..values.len())
            .rev()
            .flat_map(|index| [0, 1].map(|odd| (values[index], index as u32 * 2 + odd)))
            .collect();
        assert_eq!(sorted, wanted);
        assert_eq!(Candidate::new(-0.0, 7), Candidate::new(0.0, 7));
    }

    #[test]
    fn a_tiny_temperature_is_greedy() {
        let cold = Sampling {
            temperature_milli: 1,
            ..SEEDED
        };
        assert_eq!(counts(cold, &[-3e38, 5.0, 3e38, 0.0], 20), [0, 0, 20, 0]);
    }

    #[test]
    fn random_numbers_are_frozen() {
        let drawn: Vec<u32> = (0..4)
            .map(|step| (uniform(1, step) * 16_777_216.0) as u32)
            .collect();
        assert_eq!(drawn, [12_420_321, 15_729_253, 1_579_585, 358_579]);
    }
}
