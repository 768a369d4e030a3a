//! Choosing the next token.
//!
//! # Determinism
//! All numbers are f32, and each operation rounds once. What is in thousandths is divided by 1000 first. The steps, in
//! this order:
//! 1. [Bias](Surroundings::bias): it is added to the token's logit.
//! 2. Penalties, for every token that occurs in the last [`Sampling::penalty_window`] tokens of prompt and answer, n
//!    times: a logit above 0 is divided by the repetition penalty, another one multiplied by it; n times the frequency
//!    penalty is subtracted, then the presence penalty. A result beyond the finite numbers becomes the last finite one.
//! 3. Bans and the [tokens allowed](Surroundings::allowed): the others are left out of all that follows.
//! 4. Greedy (temperature 0): the lowest index of the largest logit, and that is all.
//! 5. The largest logit is subtracted from each and the difference divided by the temperature; sorted by value
//!    descending and then by index ascending; cut to the `top_k` first.
//! 6. The canonical softmax in that order. Two cuts, both of these weights: `top_p` behind the first place where the
//!    running sum (in that order) reaches it, `min_p` before the first weight below it times the first weight. The
//!    shorter of the two is kept.
//! 7. The token is the first whose running sum exceeds u times the sum of what is kept.
//!
//! Without bias, penalties and bans the logits stay as they are.
//!
//! u has 24 bits: the first four bytes of BLAKE3 keyed with the seed (8 bytes little-endian, then
//! zeros) over the step (8 bytes little-endian), as a little-endian number shifted right by 8,
//! divided by 2^24. There is no generator state, so a run resumes at any step.
//!
//! # Errors
//! Logits that are not finite are an error, whatever would become of them; so is a choice among no tokens.
mod adjust;
#[cfg(test)]
mod tests;

use crate::steer::Bias;
use lockstep_numeric::{Kernels, NonFinite, argmax};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How tokens are chosen. Fields that change nothing are not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature in thousandths; 0 is greedy, and then neither cuts nor the seed matter.
    pub temperature_milli: u32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens up to this probability, in thousandths; 1000 and more keeps all.
    pub top_p_milli: u32,
    /// Seed of the random numbers.
    pub seed: u64,
    /// Keep the tokens that are at least this likely, in thousandths of the most likely one; 0 keeps all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub min_p_milli: u32,
    /// Divisor of positive logits and factor of others for tokens of the window, in thousandths; 1000 changes nothing.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub repetition_penalty_milli: u32,
    /// Subtracted from a token's logit for each time it occurs in the window, in thousandths.
    #[serde(default, skip_serializing_if = "is_default")]
    pub frequency_penalty_milli: i32,
    /// Subtracted from a token's logit if it occurs in the window, in thousandths.
    #[serde(default, skip_serializing_if = "is_default")]
    pub presence_penalty_milli: i32,
    /// How many of the last tokens of prompt and answer penalties look at; 0 is all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub penalty_window: u32,
}

/// A factor that changes nothing, in thousandths.
const ONE: u32 = 1000;

fn one() -> u32 {
    ONE
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(milli: &u32) -> bool {
    *milli == ONE
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a choice looks at besides the logits.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// Prompt and answer so far.
    pub before: [&'a [u32]; 2],
    /// Tokens whose logits are changed, or that are banned.
    pub bias: &'a BTreeMap<u32, Bias>,
    /// Whether a token may be chosen, by its number; those behind the end may not. All may when not given.
    pub allowed: Option<&'a [bool]>,
}

/// Why no token can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ChoiceError {
    #[error("a logit is not finite, or there is none")]
    NonFinite,
    #[error("every token is banned")]
    NothingAllowed,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature_milli: 0,
        top_k: 0,
        top_p_milli: ONE,
        seed: 0,
        min_p_milli: 0,
        repetition_penalty_milli: ONE,
        frequency_penalty_milli: 0,
        presence_penalty_milli: 0,
        penalty_window: 0,
    };

    /// Chooses the token of `step` from its logits alone: without penalties.
    ///
    /// # Errors
    /// When a logit is not finite or there is none.
    pub fn choose(&self, kernels: &Kernels, logits: &[f32], step: u64) -> Result<u32, NonFinite> {
        let best = argmax(logits)?;
        if self.temperature_milli == 0 {
            return Ok(best as u32);
        }
        Ok(self.draw(kernels, logits, logits[best], step))
    }

    /// Chooses the token of `step` from its logits and what is around it.
    ///
    /// # Errors
    /// When a logit is not finite or no token may be chosen.
    pub fn choose_within(
        &self,
        kernels: &Kernels,
        logits: &[f32],
        surroundings: &Surroundings<'_>,
        step: u64,
    ) -> Result<u32, ChoiceError> {
        argmax(logits).map_err(|_: NonFinite| ChoiceError::NonFinite)?;
        let Some(logits) = adjust::adjusted(self, logits, surroundings) else {
            let chosen = self.choose(kernels, logits, step);
            return chosen.map_err(|_: NonFinite| ChoiceError::NonFinite);
        };
        let mut best = 0;
        for (index, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = index;
            }
        }
        match logits[best] {
            adjust::LEFT_OUT => Err(ChoiceError::NothingAllowed),
            _ if self.temperature_milli == 0 => Ok(best as u32),
            largest => Ok(self.draw(kernels, &logits, largest, step)),
        }
    }

    /// Draws among the tokens that are not left out; `largest` is the largest logit.
    fn draw(&self, kernels: &Kernels, logits: &[f32], largest: f32, step: u64) -> u32 {
        let candidates = self.candidates(logits, largest);
        let mut weights: Vec<f32> = candidates
            .iter()
            .map(|candidate| candidate.value())
            .collect();
        kernels.softmax(&mut weights);
        let (kept, total) = self.kept(&weights);
        let threshold = uniform(self.seed, step) * total;
        let mut sum = 0.0;
        for (weight, candidate) in weights[..kept].iter().zip(&candidates) {
            sum += weight;
            if sum > threshold {
                return candidate.token();
            }
        }
        // Rounding can leave the sum at the threshold: the last one it is.
        candidates[kept - 1].token()
    }

    /// The tokens that `top_k` leaves, most likely first. Subtracting the largest logit before
    /// dividing keeps the likely ones finite at any temperature; the others may go to minus
    /// infinity, which weighs nothing.
    fn candidates(&self, logits: &[f32], largest: f32) -> Vec<Candidate> {
        let temperature = self.temperature_milli as f32 / 1000.0;
        let mut candidates: Vec<Candidate> = (0..)
            .zip(logits)
            .filter(|(_, logit)| **logit != adjust::LEFT_OUT)
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
    fn kept(&self, weights: &[f32]) -> (usize, f32) {
        let limit = self.top_p_milli as f32 / 1000.0;
        let floor = self.min_p_milli as f32 / 1000.0 * weights[0];
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            // The most likely one stays, even below a floor that lies above it.
            if index > 0 && *weight < floor {
                return (index, sum);
            }
            sum += weight;
            if self.top_p_milli < ONE && sum >= limit {
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
