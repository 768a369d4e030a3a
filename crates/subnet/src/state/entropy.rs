//! Where `raw_rand` takes its bytes from.
//!
//! # Security
//! Blocks carry no random beacon. The bytes follow from the block's digest, which nobody knows before
//! the block is made; but who proposes it can try contents until the bytes suit them, and learns them
//! first. What must not be influenced by a proposer cannot rest on them.
use crate::application::Height;
use serde::{Deserialize, Serialize};

/// Context of the key derivation.
const CONTEXT: &str = "lockstep subnet 2026 raw_rand 1";

/// The source of a height.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entropy {
    /// BLAKE3, by derivation, of the block's digest and its height.
    pub seed: [u8; 32],
    /// How many values have been drawn.
    pub drawn: u64,
}

impl Entropy {
    /// The source of a block.
    #[must_use]
    pub fn of_block(digest: &[u8; 32], height: Height) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(digest);
        hasher.update(&height.to_le_bytes());
        Self {
            seed: *hasher.finalize().as_bytes(),
            drawn: 0,
        }
    }

    /// The next value: the seed's keyed hash of its number.
    pub fn draw(&mut self) -> [u8; 32] {
        let value = blake3::keyed_hash(&self.seed, &self.drawn.to_le_bytes());
        self.drawn += 1;
        *value.as_bytes()
    }
}
