//! Chunks of modules that are too large for a message (`upload_chunk`).
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc};

/// Most bytes of a chunk, and those for which each is charged.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Most chunks that a canister or a snapshot keeps.
pub const CHUNKS_MAX: usize = 100;

/// Chunks by their SHA-256. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Chunks(BTreeMap<[u8; 32], Arc<Vec<u8>>>);

impl Chunks {
    /// Chunks that were kept elsewhere.
    #[must_use]
    pub fn restore(chunks: BTreeMap<[u8; 32], Arc<Vec<u8>>>) -> Self {
        Self(chunks)
    }

    /// Keeps a chunk and returns its hash; `None` when [`CHUNKS_MAX`] others are kept.
    pub fn insert(&mut self, chunk: Vec<u8>) -> Option<[u8; 32]> {
        let hash = Sha256::digest(&chunk).into();
        if !self.0.contains_key(&hash) {
            if self.0.len() >= CHUNKS_MAX {
                return None;
            }
            self.0.insert(hash, Arc::new(chunk));
        }
        Some(hash)
    }

    /// Forgets every chunk.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The chunks, by hash.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<[u8; 32], Arc<Vec<u8>>> {
        &self.0
    }

    /// Bytes that are charged: [`CHUNK_BYTES_MAX`] for each.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.0.len() * CHUNK_BYTES_MAX) as u64
    }
}
