//! The chain: one digest that stands for everything up to a step.
//!
//! # Design
//! The first link is BLAKE3 in key-derivation mode, context `lockstep transcript chain 1`, over,
//! with numbers little-endian: the arithmetic version (4 bytes), the profile's length (4) and name,
//! the model's digest (32), the number of prompt tokens (4) and the tokens (4 each), temperature in
//! thousandths (4), top-k (4), top-p in thousandths (4), and seed (8). Each further link is BLAKE3
//! over the previous link (32), the step from 0 (8), the token (4) and the logits' digest (32). With an adapter the first
//! link is BLAKE3 in key-derivation mode, context `lockstep transcript adapter 1`, over that one (32) and the adapter's
//! digest (32).
use super::PROFILE;
use crate::{digest::Digest, sample::Sampling};
use blake3::Hasher;
use lockstep_numeric::ARITHMETIC_VERSION;

const CONTEXT: &str = "lockstep transcript chain 1";
const ADAPTER_CONTEXT: &str = "lockstep transcript adapter 1";

/// The link that binds the header.
#[must_use]
pub fn first(model: Digest, prompt_tokens: &[u32], sampling: Sampling) -> Digest {
    let mut hasher = Hasher::new_derive_key(CONTEXT);
    hasher.update(&ARITHMETIC_VERSION.to_le_bytes());
    hasher.update(&(PROFILE.len() as u32).to_le_bytes());
    hasher.update(PROFILE.as_bytes());
    hasher.update(&model.0);
    hasher.update(&(prompt_tokens.len() as u32).to_le_bytes());
    for token in prompt_tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.update(&sampling.temperature_milli.to_le_bytes());
    hasher.update(&sampling.top_k.to_le_bytes());
    hasher.update(&sampling.top_p_milli.to_le_bytes());
    hasher.update(&sampling.seed.to_le_bytes());
    Digest(*hasher.finalize().as_bytes())
}

/// The first link of a text with an adapter, given the one without.
#[must_use]
pub fn adapted(first: Digest, adapter: Digest) -> Digest {
    let mut hasher = Hasher::new_derive_key(ADAPTER_CONTEXT);
    hasher.update(&first.0);
    hasher.update(&adapter.0);
    Digest(*hasher.finalize().as_bytes())
}

/// The link after `token` was generated at `step`.
#[must_use]
pub fn next(previous: Digest, step: usize, token: u32, logits: Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(&previous.0);
    hasher.update(&(step as u64).to_le_bytes());
    hasher.update(&token.to_le_bytes());
    hasher.update(&logits.0);
    Digest(*hasher.finalize().as_bytes())
}
