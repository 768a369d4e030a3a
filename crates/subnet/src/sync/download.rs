//! A checkpoint on its way here.
//!
//! # Design
//! Parts are kept by their digests in a database beside the replica's store, so that what was fetched is there after
//! a restart, and counts for a newer checkpoint too. Parts of the manifest come first; when it is whole, it says which
//! chunks are wanted. A download is forgotten when its state has been taken over.
//!
//! # Errors
//! A part that is not what its digest says is refused, so that who sent it is known.
use super::{
    Offer, SyncError,
    manifest::{self, CHUNK_BYTES, Chunk, Content},
    piece,
};
use crate::{
    application::Height,
    state::Genesis,
    store::{Medium, MemoryKind, Part, Parts, Store, StoreError},
};
use lockstep_canister::{
    engine::Engine,
    heap::Heap,
    memory::{Paged, PagedMemory},
};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, sync::Arc};

/// Bytes of parts that are kept in memory until they are written together.
const UNWRITTEN_BYTES_MAX: usize = 8 << 20;

/// See the module.
#[derive(Debug)]
pub struct Download {
    offer: Offer,
    parts: Parts,
    unwritten: Vec<(Vec<u8>, Vec<u8>)>,
    unwritten_bytes: usize,
    /// Known when the manifest is whole.
    chunks: Option<Vec<Chunk>>,
    missing: BTreeSet<u32>,
}

impl Download {
    /// Begins one, or goes on with what was fetched for a store on this medium before.
    pub(crate) fn open(medium: &Medium, offer: Offer) -> Result<Self, SyncError> {
        let mut download = Self {
            parts: Parts::open(medium)?,
            offer,
            unwritten: Vec::new(),
            unwritten_bytes: 0,
            chunks: None,
            missing: BTreeSet::new(),
        };
        for (index, digest) in (0..).zip(download.offer.summary()) {
            if !download.parts.has(&manifest_key(digest))? {
                download.missing.insert(index);
            }
        }
        if download.missing.is_empty() {
            download.read_manifest()?;
        }
        Ok(download)
    }

    /// The height of the checkpoint.
    #[must_use]
    pub fn height(&self) -> Height {
        self.offer.height()
    }

    /// The parts that are missing, as far as it is known, in the order in which they are best fetched.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        self.missing.iter().copied()
    }

    /// Whether nothing is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.chunks.is_some() && self.missing.is_empty()
    }

    /// Takes a part that somebody sent.
    ///
    /// # Errors
    /// [`SyncError::Part`]: it is not what it should be.
    pub fn accept(&mut self, index: u32, bytes: Vec<u8>) -> Result<(), SyncError> {
        if !self.missing.contains(&index) {
            return Ok(());
        }
        let wrong = SyncError::Part { index };
        let key = match (&self.chunks, self.offer.summary().get(index as usize)) {
            (_, Some(digest)) if manifest::hash(&bytes) == *digest => manifest_key(digest),
            (Some(chunks), None) => {
                let chunk = chunks.get(index as usize - self.offer.summary().len());
                match chunk {
                    Some(chunk) if fits(chunk, &bytes) => chunk_key(chunk),
                    _ => return Err(wrong),
                }
            }
            _ => return Err(wrong),
        };
        self.missing.remove(&index);
        self.unwritten_bytes += bytes.len();
        self.unwritten.push((key, bytes));
        if self.missing.is_empty() || self.unwritten_bytes > UNWRITTEN_BYTES_MAX {
            self.parts.put(&self.unwritten)?;
            self.unwritten.clear();
            self.unwritten_bytes = 0;
        }
        if self.missing.is_empty() && self.chunks.is_none() {
            self.read_manifest()?;
        }
        Ok(())
    }

    fn read_manifest(&mut self) -> Result<(), SyncError> {
        let mut encoded = Vec::new();
        for digest in self.offer.summary() {
            encoded.extend(self.parts.get(&manifest_key(digest))?);
        }
        let chunks = manifest::decode(&encoded).ok_or(SyncError::Offer {
            reason: "its manifest is none",
        })?;
        let first = self.offer.summary().len() as u32;
        for (index, chunk) in (first..).zip(&chunks) {
            if !self.parts.has(&chunk_key(chunk))? {
                self.missing.insert(index);
            }
        }
        self.chunks = Some(chunks);
        Ok(())
    }

    /// Makes a store of the parts, beside that on the medium, with its digest checked.
    pub(crate) fn store(
        &self,
        medium: &Medium,
        genesis: Arc<Genesis>,
        engine: &Engine,
    ) -> Result<Store, SyncError> {
        let chunks = match &self.chunks {
            Some(chunks) if self.missing.is_empty() => chunks,
            _ => {
                return Err(SyncError::Incomplete {
                    count: self.missing.len(),
                });
            }
        };
        let store = Store::import(medium, genesis, engine, |put| {
            let mut row = Vec::new();
            for chunk in chunks {
                let bytes = self.parts.get(&chunk_key(chunk))?;
                let damaged = || self.parts.damaged("a part is not what it was");
                match &chunk.content {
                    Content::Rows => {
                        for (part, key, value) in manifest::read_rows(&bytes).ok_or_else(damaged)? {
                            put(part, key, value)?;
                        }
                    }
                    Content::OfRow { part, key, last } => {
                        row.extend(bytes);
                        if *last {
                            put(*part, key, &std::mem::take(&mut row))?;
                        }
                    }
                    Content::Named { key } => put(Part::Chunks, key, &bytes)?,
                    Content::Piece {
                        owner,
                        memory,
                        index,
                    } => {
                        let piece = piece::decode(&bytes).ok_or_else(damaged)?;
                        match memory {
                            MemoryKind::Heap => {
                                Store::import_piece::<Heap>(put, owner, *memory, *index, &piece)?;
                            }
                            MemoryKind::Stable | MemoryKind::Module => {
                                Store::import_piece::<PagedMemory>(
                                    put, owner, *memory, *index, &piece,
                                )?;
                            }
                        }
                    }
                }
            }
            Ok(())
        })?;
        if store.state().height != self.height() {
            return Err(SyncError::Offer {
                reason: "its state is of another height",
            });
        }
        Ok(store)
    }

    /// Forgets what was fetched.
    pub(crate) fn forget(self) -> Result<(), StoreError> {
        self.parts.forget()
    }
}

/// Whether bytes are those of a chunk.
fn fits(chunk: &Chunk, bytes: &[u8]) -> bool {
    let hashes = |hash: [u8; 32]| hash == chunk.digest;
    match &chunk.content {
        Content::Rows | Content::OfRow { .. } => {
            bytes.len() <= CHUNK_BYTES && hashes(manifest::hash(bytes))
        }
        Content::Named { .. } => hashes(Sha256::digest(bytes).into()),
        Content::Piece { memory, .. } => piece::decode(bytes).is_some_and(|piece| {
            hashes(match memory {
                MemoryKind::Heap => Heap::piece_digest(&piece),
                MemoryKind::Stable | MemoryKind::Module => PagedMemory::piece_digest(&piece),
            })
        }),
    }
}

fn manifest_key(digest: &[u8; 32]) -> Vec<u8> {
    [&[0][..], digest].concat()
}

/// Digests of different kinds are not mixed up.
fn chunk_key(chunk: &Chunk) -> Vec<u8> {
    let kind = match &chunk.content {
        Content::Rows | Content::OfRow { .. } => 1,
        Content::Named { .. } => 2,
        Content::Piece {
            memory: MemoryKind::Heap,
            ..
        } => 3,
        Content::Piece { .. } => 4,
    };
    [&[kind][..], &chunk.digest].concat()
}
