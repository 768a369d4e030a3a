//! Stable memory while a message runs: what it found, and what it has touched.
//!
//! # Design
//! A view begins as a clone of the canister's memory, which costs nothing. A leaf is looked up when it is
//! first touched, and copied when it is first written.
//!
//! # Units and bounds
//! A message may touch so many leaves of 4 KiB as [`leaves_max`] says, read or written, each counted once.
//! That is the Internet Computer's limit of accessed pages; as its limit of modified pages is as high, it
//! never comes first. Leaves that tasks of a fork read count for each task that reads them.
use crate::{
    heap::{LEAF_BYTES, PAGE_BYTES},
    host::{Contexts, code, context},
    memory::{Leaf, LeafBytes, Paged, PagedMemory},
};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    ops::Range,
    sync::Arc,
};

const GIB: u64 = 1 << 30;
/// Most pages a canister's stable memory may have: 500 GiB.
pub const STABLE_PAGES_MAX: u64 = 500 * GIB / PAGE_BYTES as u64;
/// Most pages that the 32-bit functions can deal with: 4 GiB.
pub(crate) const NARROW_PAGES_MAX: u64 = 4 * GIB / PAGE_BYTES as u64;
/// Leaves that a message may touch: 2 GiB.
const LEAVES_MAX: u64 = 2 * GIB / LEAF_BYTES as u64;
/// The same for a query: 1 GiB.
const QUERY_LEAVES_MAX: u64 = GIB / LEAF_BYTES as u64;
/// The same for installations and upgrades: 8 GiB.
const INSTALL_LEAVES_MAX: u64 = 8 * GIB / LEAF_BYTES as u64;

/// Leaves of stable memory that a message in a context may touch.
pub(crate) fn leaves_max(context: Contexts) -> u64 {
    match context {
        context::INIT | context::PRE_UPGRADE => INSTALL_LEAVES_MAX,
        context::REPLICATED_QUERY => QUERY_LEAVES_MAX,
        _ if context & context::NOT_REPLICATED != 0 => QUERY_LEAVES_MAX,
        _ => LEAVES_MAX,
    }
}

/// Why an access to stable memory fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StableError {
    /// It reaches outside.
    #[error("stable memory out of bounds")]
    OutOfBounds,
    /// The message has touched too much.
    #[error(
        "Exceeded the limit for the number of accessed pages in the stable memory in a single message execution: limit {} KB for regular messages and {} KB for queries.",
        LEAVES_MAX * LEAF_BYTES as u64 / 1024,
        QUERY_LEAVES_MAX * LEAF_BYTES as u64 / 1024
    )]
    LimitExceeded,
}

impl StableError {
    /// The code and text of the message that ends with it.
    pub(crate) fn refusal(self) -> (u16, String) {
        match self {
            Self::OutOfBounds => (code::TRAPPED, format!("Canister trapped: {self}")),
            Self::LimitExceeded => (
                code::MEMORY_ACCESS_LIMIT_EXCEEDED,
                format!("Canister exceeded memory access limits: {self}"),
            ),
        }
    }
}

/// A leaf that has been touched.
#[derive(Debug)]
enum Touched {
    Zeros,
    Found(Arc<Leaf>),
    Written(Box<LeafBytes>),
}

/// Copy-on-write view of a stable memory.
#[derive(Debug)]
pub(crate) struct StableMemory {
    memory: PagedMemory,
    touched: BTreeMap<u64, Touched>,
    /// Which of those `memory` does not have yet.
    written: Vec<u64>,
    leaves_of_tasks: u64,
    leaves_max: u64,
}

impl StableMemory {
    /// A view that may touch so many leaves.
    pub(crate) fn new(memory: &PagedMemory, leaves_max: u64) -> Self {
        Self {
            memory: memory.clone(),
            touched: BTreeMap::new(),
            written: Vec::new(),
            leaves_of_tasks: 0,
            leaves_max,
        }
    }

    /// Size in pages of Wasm.
    pub(crate) fn size_pages(&self) -> u64 {
        self.memory.size_pages()
    }

    /// Adds pages of zeros and returns the old size, or `None` beyond [`STABLE_PAGES_MAX`].
    pub(crate) fn grow(&mut self, pages: u64) -> Option<u64> {
        self.memory.grow(pages)
    }

    pub(crate) fn read(&mut self, offset: u64, target: &mut [u8]) -> Result<(), StableError> {
        for part in self.parts(offset, target.len())? {
            let target = &mut target[part.of_buffer];
            match self.touch(part.leaf)? {
                Touched::Zeros => target.fill(0),
                Touched::Found(leaf) => target.copy_from_slice(&leaf.bytes()[part.of_leaf]),
                Touched::Written(bytes) => target.copy_from_slice(&bytes[part.of_leaf]),
            }
        }
        Ok(())
    }

    /// Returns how many leaves had to be copied.
    pub(crate) fn write(&mut self, offset: u64, source: &[u8]) -> Result<u64, StableError> {
        let mut copied = 0;
        for part in self.parts(offset, source.len())? {
            let source = &source[part.of_buffer];
            let touched = self.touch(part.leaf)?;
            let bytes: Box<[u8]> = match touched {
                Touched::Written(bytes) => {
                    bytes[part.of_leaf].copy_from_slice(source);
                    continue;
                }
                _ if source.len() == LEAF_BYTES => source.into(),
                Touched::Found(leaf) => leaf.bytes()[..].into(),
                Touched::Zeros => vec![0; LEAF_BYTES].into(),
            };
            let mut bytes: Box<LeafBytes> = bytes.try_into().expect("bytes of a leaf");
            bytes[part.of_leaf].copy_from_slice(source);
            *touched = Touched::Written(bytes);
            self.written.push(part.leaf);
            copied += 1;
        }
        Ok(copied)
    }

    /// The memory with what was written so far.
    pub(crate) fn snapshot(&mut self) -> PagedMemory {
        for index in mem::take(&mut self.written) {
            let touched = self.touched.get_mut(&index);
            let touched = touched.expect("what is written is touched");
            if let Touched::Written(bytes) = mem::replace(touched, Touched::Zeros)
                && let Some(leaf) = self.memory.put(index, bytes)
            {
                *touched = Touched::Found(Arc::clone(leaf));
            }
        }
        self.memory.clone()
    }

    /// Leaves touched so far, by tasks as well.
    pub(crate) fn leaves_touched(&self) -> u64 {
        self.touched.len() as u64 + self.leaves_of_tasks
    }

    /// Leaves that may still be touched.
    pub(crate) fn leaves_left(&self) -> u64 {
        self.leaves_max.saturating_sub(self.leaves_touched())
    }

    /// Counts leaves that a task has touched.
    pub(crate) fn join(&mut self, leaves: u64) -> Result<(), StableError> {
        if leaves > self.leaves_left() {
            return Err(StableError::LimitExceeded);
        }
        self.leaves_of_tasks += leaves;
        Ok(())
    }

    fn touch(&mut self, index: u64) -> Result<&mut Touched, StableError> {
        let left = self.leaves_left();
        match self.touched.entry(index) {
            Entry::Occupied(touched) => Ok(touched.into_mut()),
            Entry::Vacant(_) if left == 0 => Err(StableError::LimitExceeded),
            Entry::Vacant(place) => {
                let leaf = self.memory.leaf(index);
                Ok(place
                    .insert(leaf.map_or(Touched::Zeros, |leaf| Touched::Found(Arc::clone(leaf)))))
            }
        }
    }

    /// Cuts an access where leaves meet.
    fn parts(
        &self,
        offset: u64,
        size: usize,
    ) -> Result<impl Iterator<Item = Part> + use<>, StableError> {
        let end = offset
            .checked_add(size as u64)
            .filter(|end| *end <= self.memory.size_bytes());
        if end.is_none() {
            return Err(StableError::OutOfBounds);
        }
        let mut done = 0;
        Ok(std::iter::from_fn(move || {
            (done < size).then(|| {
                let at = offset + done as u64;
                let start = (at % LEAF_BYTES as u64) as usize;
                let count = (LEAF_BYTES - start).min(size - done);
                done += count;
                Part {
                    leaf: at / LEAF_BYTES as u64,
                    of_leaf: start..start + count,
                    of_buffer: done - count..done,
                }
            })
        }))
    }
}

impl PagedMemory {
    /// The memory with other bytes from `offset` on.
    ///
    /// # Panics
    /// They do not lie inside.
    #[must_use]
    pub fn written(&self, offset: u64, bytes: &[u8]) -> Self {
        let mut memory = StableMemory::new(self, u64::MAX);
        memory
            .write(offset, bytes)
            .expect("the bytes lie inside of the memory");
        memory.snapshot()
    }
}

/// What an access has in one leaf.
struct Part {
    leaf: u64,
    of_leaf: Range<usize>,
    of_buffer: Range<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(index: u64) -> u64 {
        index * LEAF_BYTES as u64
    }

    fn view(leaves_max: u64) -> StableMemory {
        let mut view = StableMemory::new(&PagedMemory::default(), leaves_max);
        assert_eq!(view.grow(1 << 20), Some(0));
        view
    }

    #[test]
    fn every_leaf_counts_once() {
        let mut view = view(3);
        assert_eq!(view.read(leaf(7) - 1, &mut [0; 2]), Ok(()));
        assert_eq!(view.write(leaf(7), &[1; LEAF_BYTES]), Ok(1));
        assert_eq!(view.read(leaf(1 << 20), &mut [0; 9]), Ok(()));
        assert_eq!((view.leaves_touched(), view.leaves_left()), (3, 0));
        assert_eq!(view.read(leaf(6), &mut [0; 2 * LEAF_BYTES]), Ok(()));
        let refused = Err(StableError::LimitExceeded);
        assert_eq!(view.read(leaf(8), &mut [0]), refused);
        assert_eq!(view.write(leaf(8), &[0]).map(drop), refused);
        assert_eq!(view.write(leaf(8), &[]), Ok(0));
    }

    #[test]
    fn leaves_of_tasks_count() {
        let mut view = view(3);
        assert_eq!(view.read(0, &mut [0]), Ok(()));
        assert_eq!(view.join(1), Ok(()));
        assert_eq!((view.leaves_touched(), view.leaves_left()), (2, 1));
        assert_eq!(view.join(2), Err(StableError::LimitExceeded));
        assert_eq!(view.read(leaf(9), &mut [0]), Ok(()));
        assert_eq!(
            view.read(leaf(8), &mut [0]),
            Err(StableError::LimitExceeded)
        );
    }

    #[test]
    fn a_fork_leaves_what_was_written() {
        let mut view = view(9);
        assert_eq!(view.write(leaf(7), &[1]), Ok(1));
        let snapshot = view.snapshot();
        assert_eq!(
            view.write(leaf(7) + 1, &[2]),
            Ok(1),
            "its leaf is shared now"
        );
        let mut task = StableMemory::new(&snapshot, 9);
        let mut bytes = [9; 3];
        assert_eq!(task.read(leaf(7), &mut bytes), Ok(()));
        assert_eq!(bytes, [1, 0, 0]);
        assert_eq!(view.read(leaf(7), &mut bytes), Ok(()));
        assert_eq!(bytes, [1, 2, 0]);
        let finished = view.snapshot();
        assert_eq!(finished.leaf(7).unwrap().bytes()[..3], [1, 2, 0]);
    }
}
