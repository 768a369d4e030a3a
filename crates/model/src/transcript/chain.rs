//! The chain: one digest that stands for everything up to a step.
//!
//! # Design
//! The first link is BLAKE3 in key-derivation mode, context `lockstep transcript chain 1`, over,
//! with numbers little-endian: the arithmetic version (4 bytes), the profile's length (4) and name,
//! the model's digest (32), the number of prompt tokens (4) and the tokens (4 each), temperature in
//! thousandths (4), top-k (4), top-p in thousandths (4), and seed (8). If any other option is set, all of
//! them follow: min-p (4), repetition (4), frequency (4) and presence penalty (4) in thousandths, the
//! window (4), then bias, stops and schema as [`crate::Steering`] adds them. Each further link is BLAKE3
//! over the previous link (32), the step from 0 (8), the token (4) and the logits' digest (32).
//!
//! With an adapter the first link is BLAKE3 in key-derivation mode, context `lockstep transcript adapter 1`, over
//! that one (32) and the adapter's digest (32). Then, where keys and values are not kept as f16, it is, with context
//! `lockstep transcript cache 1`, over that one (32) and the name of the format.
use super::PROFILE;
use crate::{digest::Digest, generate::Params, sample::Sampling};
use blake3::Hasher;
use lockstep_numeric::{ARITHMETIC_VERSION, KvFormat};

const CONTEXT: &str = "lockstep transcript chain 1";
const ADAPTER_CONTEXT: &str = "lockstep transcript adapter 1";
const CACHE_CONTEXT: &str = "lockstep transcript cache 1";

/// The link that binds the header.
#[must_use]
pub fn first(model: Digest, prompt_tokens: &[u32], params: &Params) -> Digest {
    let (sampling, steering) = (params.sampling, &params.steering);
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
    let plain = Sampling {
        temperature_milli: sampling.temperature_milli,
        top_k: sampling.top_k,
        top_p_milli: sampling.top_p_milli,
        seed: sampling.seed,
        ..Sampling::GREEDY
    };
    if sampling != plain || !steering.is_empty() {
        hasher.update(&sampling.min_p_milli.to_le_bytes());
        hasher.update(&sampling.repetition_penalty_milli.to_le_bytes());
        hasher.update(&sampling.frequency_penalty_milli.to_le_bytes());
        hasher.update(&sampling.presence_penalty_milli.to_le_bytes());
        hasher.update(&sampling.penalty_window.to_le_bytes());
        steering.digest(&mut hasher);
    }
    let mut first = *hasher.finalize().as_bytes();
    if let Some(adapter) = &params.adapter {
        first = bound(ADAPTER_CONTEXT, first, &adapter.digest().0);
    }
    if params.kv != KvFormat::F16 {
        first = bound(CACHE_CONTEXT, first, params.kv.name().as_bytes());
    }
    Digest(first)
}

/// A first link that binds more than `first` does.
fn bound(context: &str, first: [u8; 32], more: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new_derive_key(context);
    hasher.update(&first);
    hasher.update(more);
    *hasher.finalize().as_bytes()
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
