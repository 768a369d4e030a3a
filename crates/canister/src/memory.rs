//! Stable memory between messages: sparse, and of a cost that follows what is in it.
//!
//! # Design
//! A [`PagedMemory`] is a size and a tree of leaves of 4 KiB. What the tree lacks is zeros, so growth costs
//! nothing. Clones are the same tree; a changed one shares with it all but the paths to what changed.
//! Leaves are kept in this machine's memory.
//!
//! # Invariants
//! Size and contents alone decide about the digest and about equality: history does not show.
mod tree;

use crate::{
    heap::{HEAP64_BYTES_MAX, Heap, LEAF_BYTES, PAGE_BYTES},
    stable::STABLE_PAGES_MAX,
};
use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc};
use tree::{LEAVES_MAX, Tree};
pub(crate) use tree::{Leaf, LeafBytes};

/// Leaves in a page of Wasm.
const LEAVES_PER_PAGE: u64 = (PAGE_BYTES / LEAF_BYTES) as u64;
const _: () = assert!(STABLE_PAGES_MAX * LEAVES_PER_PAGE <= LEAVES_MAX);

/// Bytes of a piece of a memory: what a node of its digest's tree stands for.
pub const PIECE_BYTES: usize = 1 << 20;
const _: () = assert!(PIECE_BYTES == tree::PIECE_LEAVES * LEAF_BYTES);

/// A memory in blocks, to be written elsewhere and read back.
pub trait Paged: Default {
    /// Bytes of a block, which divide those of a page of Wasm.
    const BLOCK_BYTES: usize;
    /// Most pages of Wasm.
    const PAGES_MAX: u64;

    /// Size in pages of Wasm.
    fn size_pages(&self) -> u64;

    /// The blocks in which it may differ from `other`; all others are the same, or zeros, or absent.
    fn changed(&self, other: &Self) -> BTreeSet<u64>;

    /// A block's bytes; `None` when they are zeros, or outside.
    fn block(&self, index: u64) -> Option<Cow<'_, [u8]>>;

    /// The pieces of [`PIECE_BYTES`] that have anything but zeros, in order, with their digests: nodes of the tree
    /// that the memory's digest is made of. They are known once that is.
    fn pieces(&self) -> Vec<(u64, [u8; 32])>;

    /// The digest of a piece with these bytes; not that of zeros, for which there is none.
    fn piece_digest(piece: &[u8]) -> [u8; 32];

    /// A memory whose blocks are zeros but for some, in any order.
    ///
    /// # Panics
    /// A block is not [`Self::BLOCK_BYTES`] long or lies outside, or the memory is larger than
    /// [`Self::PAGES_MAX`].
    fn from_blocks(size_pages: u64, blocks: Vec<(u64, Box<[u8]>)>) -> Self;
}

impl Paged for Heap {
    const BLOCK_BYTES: usize = PAGE_BYTES;
    const PAGES_MAX: u64 = HEAP64_BYTES_MAX / PAGE_BYTES as u64;

    fn size_pages(&self) -> u64 {
        self.size_pages()
    }

    fn changed(&self, other: &Self) -> BTreeSet<u64> {
        self.changed(other)
    }

    fn block(&self, index: u64) -> Option<Cow<'_, [u8]>> {
        let page = (index < self.size_pages()).then(|| self.page(index))?;
        let content = page.iter().any(|byte| *byte != 0);
        content.then(|| Cow::Owned(page.into_vec()))
    }

    fn pieces(&self) -> Vec<(u64, [u8; 32])> {
        self.pieces()
    }

    fn piece_digest(piece: &[u8]) -> [u8; 32] {
        Self::piece_digest(piece)
    }

    fn from_blocks(size_pages: u64, blocks: Vec<(u64, Box<[u8]>)>) -> Self {
        Self::from_pages(size_pages, blocks)
    }
}

impl Paged for PagedMemory {
    const BLOCK_BYTES: usize = LEAF_BYTES;
    const PAGES_MAX: u64 = STABLE_PAGES_MAX;

    fn size_pages(&self) -> u64 {
        self.size_pages
    }

    fn changed(&self, other: &Self) -> BTreeSet<u64> {
        self.leaves.changed(&other.leaves)
    }

    fn block(&self, index: u64) -> Option<Cow<'_, [u8]>> {
        let leaf = self.leaf(index)?;
        Some(Cow::Borrowed(leaf.bytes()))
    }

    fn pieces(&self) -> Vec<(u64, [u8; 32])> {
        self.leaves.pieces()
    }

    fn piece_digest(piece: &[u8]) -> [u8; 32] {
        let mut tree = Tree::default();
        for (index, leaf) in (0..).zip(piece.as_chunks().0) {
            tree.put(index, Box::new(*leaf));
        }
        tree.pieces().first().map_or([0; 32], |(_, digest)| *digest)
    }

    fn from_blocks(size_pages: u64, blocks: Vec<(u64, Box<[u8]>)>) -> Self {
        let mut memory = Self::default();
        memory.grow(size_pages).expect("pages of a stable memory");
        for (index, bytes) in blocks {
            memory.put(index, bytes.try_into().expect("bytes of a leaf"));
        }
        memory
    }
}

/// A memory's content. Clones cost nothing.
#[derive(Clone, Default)]
pub struct PagedMemory {
    size_pages: u64,
    leaves: Tree,
}

impl fmt::Debug for PagedMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PagedMemory")
            .field("size_pages", &self.size_pages)
            .finish_non_exhaustive()
    }
}

impl PartialEq for PagedMemory {
    fn eq(&self, other: &Self) -> bool {
        self.size_pages == other.size_pages && self.changed(other).is_empty()
    }
}

impl Eq for PagedMemory {}

impl PagedMemory {
    /// Size in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_pages * PAGE_BYTES as u64
    }

    /// Adds pages of zeros and returns the old size, or `None` beyond [`STABLE_PAGES_MAX`].
    pub(crate) fn grow(&mut self, pages: u64) -> Option<u64> {
        let old = self.size_pages;
        self.size_pages = old
            .checked_add(pages)
            .filter(|new| *new <= STABLE_PAGES_MAX)?;
        Some(old)
    }

    /// The leaf at an index; `None` when it is zeros, or outside.
    pub(crate) fn leaf(&self, index: u64) -> Option<&Arc<Leaf>> {
        self.leaves.get(index)
    }

    /// Replaces a leaf's bytes and returns what is there now; `None` when it is zeros.
    ///
    /// # Panics
    /// The leaf lies outside.
    pub(crate) fn put(&mut self, index: u64, bytes: Box<LeafBytes>) -> Option<&Arc<Leaf>> {
        assert!(
            index < self.size_pages * LEAVES_PER_PAGE,
            "leaf outside of the memory: {index}"
        );
        self.leaves.put(index, bytes);
        self.leaves.get(index)
    }

    /// BLAKE3 over the size in pages of Wasm, a little-endian u64, and, unless all is zeros, the root of a
    /// tree: its leaves are the digests of 4 KiB each, and seven levels of nodes with 16 children each are
    /// above them. A node digests a little-endian u16, whose bit i says whether child i has anything but
    /// zeros, and the digests of the children that have.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.size_pages.to_le_bytes());
        if let Some(root) = self.leaves.digest() {
            hasher.update(root);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
