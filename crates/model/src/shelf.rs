//! Models that are held in memory, within a budget.
//!
//! # Design
//! A [`Shelf`] opens models when they are asked for and keeps them. Where a model does not fit beside those that are
//! there, the least recently asked for goes that nobody uses: whoever holds the [`Arc`] of a model uses it. One that goes
//! is unmapped, or its memory is freed; the next who asks opens it anew.
//!
//! # Units and bounds
//! What counts is a model's packed weights ([`Model::resident_bytes`]), read from a mapped file yet or not: mapped pages
//! are at most those of the models on the shelf, and anonymous memory holds no weights of prepared models but vectors.
//! Tokenizers, key-value caches and activations are not counted. The lock is held while a model is opened: a second who
//! asks waits, and does not open it again.
use crate::{
    digest::Digest,
    model::{Model, ModelError},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Why a model cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShelfError {
    #[error(
        "model needs {bytes} bytes of memory, more than the {budget} that models may take: {model}"
    )]
    TooLarge {
        model: Digest,
        bytes: u64,
        budget: u64,
    },
    #[error(
        "model needs {bytes} bytes of memory, and {used} of the {budget} that models may take are in use: {model}"
    )]
    InUse {
        model: Digest,
        bytes: u64,
        used: u64,
        budget: u64,
    },
    #[error("another model than {wanted} was opened: {found}")]
    OtherModel { wanted: Digest, found: Digest },
    #[error(transparent)]
    Open(#[from] ModelError),
}

#[derive(Debug)]
struct Entry {
    model: Arc<Model>,
    bytes: u64,
    /// The number of the request that was the last for it.
    asked: u64,
}

impl Entry {
    /// Whether somebody has it who is not the shelf. The shelf's own lock is held, so nobody gets it now.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.model) > 1
    }
}

#[derive(Debug, Default)]
struct Held {
    entries: BTreeMap<Digest, Entry>,
    requests: u64,
}

impl Held {
    fn bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes).sum()
    }
}

/// Models held in memory.
pub struct Shelf {
    budget: u64,
    held: Mutex<Held>,
}

impl Shelf {
    /// A shelf for models of so many bytes together.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            held: Mutex::default(),
        }
    }

    /// Bytes that models take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock(|held| held.bytes())
    }

    /// The models that are there.
    #[must_use]
    pub fn models(&self) -> Vec<Digest> {
        self.lock(|held| held.entries.keys().copied().collect())
    }

    /// The model of that digest, whose packed weights are said to take `bytes`; `open` opens it when it is not there.
    ///
    /// # Errors
    /// When there is no room, however many unused models go: none goes then. When opening fails or gives another model.
    pub fn get(
        &self,
        digest: Digest,
        bytes: u64,
        open: impl FnOnce() -> Result<Arc<Model>, ModelError>,
    ) -> Result<Arc<Model>, ShelfError> {
        self.lock(|held| {
            held.requests += 1;
            let asked = held.requests;
            if let Some(entry) = held.entries.get_mut(&digest) {
                entry.asked = asked;
                return Ok(Arc::clone(&entry.model));
            }
            self.make_room(held, digest, bytes)?;
            let model = open()?;
            if model.digest() != digest {
                return Err(ShelfError::OtherModel {
                    wanted: digest,
                    found: model.digest(),
                });
            }
            // What was said of its size is not trusted.
            let bytes = model.resident_bytes() as u64;
            self.make_room(held, digest, bytes)?;
            let entry = Entry {
                model: Arc::clone(&model),
                bytes,
                asked,
            };
            held.entries.insert(digest, entry);
            Ok(model)
        })
    }

    /// Lets a model go; false if it is in use or not there.
    pub fn evict(&self, digest: Digest) -> bool {
        self.lock(|held| {
            let unused = held.entries.get(&digest).is_some_and(|e| !e.is_used());
            unused && held.entries.remove(&digest).is_some()
        })
    }

    fn make_room(&self, held: &mut Held, model: Digest, bytes: u64) -> Result<(), ShelfError> {
        let budget = self.budget;
        if bytes > budget {
            return Err(ShelfError::TooLarge {
                model,
                bytes,
                budget,
            });
        }
        let in_use = held.entries.values().filter(|entry| entry.is_used());
        let used: u64 = in_use.map(|entry| entry.bytes).sum();
        if bytes > budget - used.min(budget) {
            return Err(ShelfError::InUse {
                model,
                bytes,
                used,
                budget,
            });
        }
        while held.bytes() > budget - bytes {
            let unused = held.entries.iter().filter(|(_, entry)| !entry.is_used());
            let oldest = unused.min_by_key(|(_, entry)| entry.asked);
            let Some(oldest) = oldest.map(|(digest, _)| *digest) else {
                // One that was unused has been taken into use since, by somebody who had a weak reference.
                return Err(ShelfError::InUse {
                    model,
                    bytes,
                    used: held.bytes(),
                    budget,
                });
            };
            held.entries.remove(&oldest);
        }
        Ok(())
    }

    fn lock<T>(&self, body: impl FnOnce(&mut Held) -> T) -> T {
        // Entries are whole whenever a panic may come.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        body(&mut held)
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Shelf({} of {} bytes)",
            self.bytes(),
            self.budget
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A small model and how it is opened.
    fn file(seed: u64) -> (Digest, Vec<u8>) {
        let bytes = fixture::tiny_llama(seed).build();
        (Digest::of(&bytes), bytes)
    }

    fn bytes_of(file: &[u8]) -> u64 {
        Model::from_bytes(file).unwrap().resident_bytes() as u64
    }

    #[test]
    fn two_models_take_turns_where_one_fits() {
        let files = [file(1), file(2)];
        let bytes = bytes_of(&files[0].1);
        let shelf = Shelf::new(bytes * 3 / 2);
        let get = |index: usize| {
            let (digest, file) = &files[index];
            shelf.get(*digest, bytes, || Model::from_bytes(file))
        };
        let first = get(0).unwrap();
        // In use, it stays.
        assert_eq!(
            get(1).unwrap_err().to_string(),
            format!(
                "model needs {bytes} bytes of memory, and {bytes} of the {} that models may take are in use: {}",
                bytes * 3 / 2,
                files[1].0
            )
        );
        assert_eq!(shelf.models(), [files[0].0]);
        assert!(!shelf.evict(files[0].0));
        let weak = Arc::downgrade(&first);
        drop(first);
        assert!(weak.upgrade().is_some());
        get(1).unwrap();
        assert!(weak.upgrade().is_none());
        assert_eq!(shelf.models(), [files[1].0]);
        assert_eq!(shelf.bytes(), bytes);
        // And back.
        get(0).unwrap();
        assert_eq!(shelf.models(), [files[0].0]);
        assert!(shelf.evict(files[0].0) && !shelf.evict(files[0].0));
        assert_eq!(shelf.bytes(), 0);
    }

    #[test]
    fn the_least_recently_asked_for_goes_first() {
        let files = [file(1), file(2), file(3)];
        let bytes = bytes_of(&files[0].1);
        let shelf = Shelf::new(bytes * 2);
        let mut opened = 0;
        let mut get = |index: usize| {
            let (digest, file) = &files[index];
            let open = || {
                opened += 1;
                Model::from_bytes(file)
            };
            shelf.get(*digest, bytes, open).unwrap();
            opened
        };
        assert_eq!([0, 1, 0, 2, 0, 1].map(&mut get), [1, 2, 2, 3, 3, 4]);
        let mut left = [files[0].0, files[1].0];
        left.sort_unstable();
        assert_eq!(shelf.models(), left);
    }

    #[test]
    fn what_cannot_be_held_leaves_what_is_there() {
        let (digest, bytes) = file(1);
        let (other, other_bytes) = file(2);
        let size = bytes_of(&bytes);
        let shelf = Shelf::new(size);
        shelf
            .get(digest, size, || Model::from_bytes(&bytes))
            .unwrap();
        let error = |claimed, file: &[u8]| {
            let opened = shelf.get(other, claimed, || Model::from_bytes(file));
            opened.unwrap_err().to_string()
        };
        assert_eq!(
            error(size + 1, &other_bytes),
            format!(
                "model needs {} bytes of memory, more than the {size} that models may take: {other}",
                size + 1
            )
        );
        assert_eq!(shelf.models(), [digest]);
        assert_eq!(
            error(0, &bytes),
            format!("another model than {other} was opened: {digest}")
        );
        assert_eq!(
            error(0, b"GGUF"),
            "file is truncated: 4 bytes needed at byte 4, 0 there"
        );
        assert_eq!(shelf.models(), [digest]);
        // Said to be smaller than it is.
        let (large, large_bytes) = {
            let bytes = fixture::tiny(&crate::arch::TINY[0], 5, fixture::Weights::Float).build();
            (Digest::of(&bytes), bytes)
        };
        let opened = shelf.get(large, 1, || Model::from_bytes(&large_bytes));
        assert!(matches!(opened, Err(ShelfError::TooLarge { .. })));
        assert!(shelf.models().is_empty(), "room was made for what was said");
    }
}
