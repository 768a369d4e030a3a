//! Wasm heaps: versions that share what they have in common.
//!
//! # Design
//! A [`Heap`] is one version of an `Image`, a file in memory whose pages a running instance maps
//! privately (`View`). A message costs what it touches; its changes become a new version, and earlier
//! ones stay readable while anybody has them. Contents are digested by a tree, so that a root costs
//! what changed.
//!
//! # Panics
//! Everything here panics when this machine has no memory left for what a canister is entitled to:
//! going on would give another result than the other replicas have.
mod bytes;
#[allow(unsafe_code)]
mod dirty;
mod image;
#[allow(unsafe_code)]
mod mapping;
#[allow(unsafe_code)]
mod slot;
mod tree;
#[allow(unsafe_code)]
mod view;

pub(crate) use slot::{Slot, Slots};
pub(crate) use view::{Snapshot, View, Window};

use crate::host::MachineFailure;
use image::{Delta, Image, Number};
use std::{
    collections::BTreeSet,
    fmt, io,
    sync::{Arc, OnceLock},
};

/// Bytes in one page of Wasm.
pub const PAGE_BYTES: usize = 65_536;
/// Bytes of the pages in which changes are found and digested: those of the processor.
pub(crate) const LEAF_BYTES: usize = 4096;
const LEAVES_PER_PAGE: u32 = (PAGE_BYTES / LEAF_BYTES) as u32;
/// Most bytes of a heap with 32-bit addresses: all that they reach.
pub(crate) const HEAP_BYTES_MAX: u64 = 65_536 * PAGE_BYTES as u64;
/// Most bytes of a heap with 64-bit addresses, and of any heap.
pub(crate) const HEAP64_BYTES_MAX: u64 = 98_304 * PAGE_BYTES as u64;

/// Number of a page of [`LEAF_BYTES`].
pub(crate) type Leaf = u32;

/// Tells the images apart that there are at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageId(usize);

impl ImageId {
    fn of(image: *const Image) -> Self {
        Self(image.addr())
    }
}

/// A heap's content. Immutable; clones are the same version and cost nothing.
#[derive(Clone, Default)]
pub struct Heap {
    version: Option<Arc<Version>>,
}

/// A version that lives as long as somebody has it.
struct Version {
    image: Arc<Image>,
    number: Number,
    size_pages: u64,
    digest: OnceLock<[u8; 32]>,
}

impl Drop for Version {
    fn drop(&mut self) {
        self.image.release(self.number);
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.version.as_ref().map(|version| version.number);
        formatter
            .debug_struct("Heap")
            .field("size_pages", &self.size_pages())
            .field("version", &number)
            .finish()
    }
}

impl Heap {
    /// A heap of `size_pages` whose pages are zeros but for some, in any order.
    ///
    /// # Panics
    /// A page is not [`PAGE_BYTES`] long or lies outside.
    pub fn from_pages(
        size_pages: u64,
        pages: impl IntoIterator<Item = (u64, impl AsRef<[u8]>)>,
    ) -> Self {
        let mut leaves = Vec::new();
        for (index, page) in pages {
            let page = page.as_ref();
            assert_eq!(page.len(), PAGE_BYTES, "bytes of a page");
            assert!(index < size_pages, "page outside of the heap: {index}");
            let first = index as Leaf * LEAVES_PER_PAGE;
            for (leaf, bytes) in (first..).zip(page.chunks_exact(LEAF_BYTES)) {
                if bytes.iter().any(|byte| *byte != 0) {
                    leaves.push((leaf, bytes.to_vec()));
                }
            }
        }
        if size_pages == 0 {
            return Self::default();
        }
        let image = provided(Image::new(HEAP64_BYTES_MAX, leaves.into_iter()));
        Self::at(Arc::new(image), 0, size_pages)
    }

    fn at(image: Arc<Image>, number: Number, size_pages: u64) -> Self {
        Self {
            version: Some(Arc::new(Version {
                image,
                number,
                size_pages,
                digest: OnceLock::new(),
            })),
        }
    }

    /// Size in pages of Wasm.
    #[must_use]
    pub fn size_pages(&self) -> u64 {
        self.version
            .as_ref()
            .map_or(0, |version| version.size_pages)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_pages() * PAGE_BYTES as u64
    }

    fn version(&self) -> Option<(&Arc<Image>, Number)> {
        self.version
            .as_ref()
            .map(|version| (&version.image, version.number))
    }

    /// The bytes of a page of Wasm.
    ///
    /// # Panics
    /// There is no such page.
    #[must_use]
    pub fn page(&self, index: u64) -> Box<[u8]> {
        assert!(
            index < self.size_pages(),
            "page outside of the heap: {index}"
        );
        let mut page = vec![0; PAGE_BYTES].into_boxed_slice();
        if let Some((image, number)) = self.version() {
            let first = index as Leaf * LEAVES_PER_PAGE;
            for (leaf, bytes) in (first..).zip(page.as_chunks_mut().0) {
                provided(image.read_leaf(number, leaf, bytes));
            }
        }
        page
    }

    /// The pages of Wasm in which this heap may differ from an earlier or later `other`, pages that only
    /// one of them has included.
    #[must_use]
    pub fn changed(&self, other: &Self) -> BTreeSet<u64> {
        let longer = self.size_pages().max(other.size_pages());
        match (self.version(), other.version()) {
            (Some((image, number)), Some((others, before))) if Arc::ptr_eq(image, others) => {
                let leaves = image.changed(before, number).into_iter();
                let pages = leaves.map(|leaf| u64::from(leaf / LEAVES_PER_PAGE));
                let shorter = self.size_pages().min(other.size_pages());
                pages.chain(shorter..longer).collect()
            }
            _ => (0..longer).collect(),
        }
    }

    /// BLAKE3 over the size in pages of Wasm, a little-endian u64, and the root of a tree: its leaves are
    /// the digests of 4 KiB each, zeros up to 64 GiB; each of the three levels of nodes above digests
    /// 256 digests below.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        match &self.version {
            None => combine(0, tree::Tree::default().root()),
            Some(version) => *version.digest.get_or_init(|| {
                let root = provided(version.image.tree(version.number, tree::Tree::root));
                combine(version.size_pages, root)
            }),
        }
    }

    /// The nodes of that tree above the leaves, as far as there is anything but zeros below: their numbers and
    /// digests.
    pub(crate) fn pieces(&self) -> Vec<(u64, [u8; 32])> {
        let nodes = self.version().map_or_else(Vec::new, |(image, number)| {
            provided(image.tree(number, tree::Tree::lowest))
        });
        nodes
            .into_iter()
            .map(|(index, digest)| (u64::from(index), digest))
            .collect()
    }

    /// The digest of such a node over these bytes.
    pub(crate) fn piece_digest(piece: &[u8]) -> [u8; 32] {
        tree::node_digest(piece.as_chunks().0)
    }

    /// The heap with other bytes from `offset` on.
    ///
    /// # Panics
    /// They do not lie inside.
    #[must_use]
    pub fn written(&self, offset: u64, bytes: &[u8]) -> Self {
        let end = offset.checked_add(bytes.len() as u64);
        assert!(
            end.is_some_and(|end| end <= self.size_bytes()),
            "bytes outside of the heap"
        );
        let mut delta = Delta::default();
        let mut done = 0;
        while done < bytes.len()
            && let Some((image, number)) = self.version()
        {
            let at = offset as usize + done;
            let (leaf, start) = ((at / LEAF_BYTES) as Leaf, at % LEAF_BYTES);
            let count = (LEAF_BYTES - start).min(bytes.len() - done);
            let mut content = [0; LEAF_BYTES];
            provided(image.read_leaf(number, leaf, &mut content));
            content[start..start + count].copy_from_slice(&bytes[done..done + count]);
            delta.insert(leaf, &content);
            done += count;
        }
        provided(self.changed_by(delta, self.size_bytes()))
    }

    /// The version behind this one, with `size` bytes.
    fn changed_by(&self, delta: Delta, size: u64) -> io::Result<Self> {
        let size_pages = size / PAGE_BYTES as u64;
        if delta.leaves().next().is_none() && size_pages == self.size_pages() {
            return Ok(self.clone());
        }
        let Some((image, number)) = self.version() else {
            let image = Image::new(HEAP64_BYTES_MAX, delta.iter())?;
            return Ok(Self::at(Arc::new(image), 0, size_pages));
        };
        match image.append(number, delta)? {
            Ok(number) => Ok(Self::at(Arc::clone(image), number, size_pages)),
            Err(delta) => {
                let image = image.branch(HEAP64_BYTES_MAX, number, self.size_bytes())?;
                let branch = Self::at(Arc::new(image), 0, self.size_pages());
                branch.changed_by(delta, size)
            }
        }
    }
}

/// What this machine must provide, lest it diverge.
fn provided<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{MachineFailure}: {error}"))
}

fn combine(size_pages: u64, root: [u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&size_pages.to_le_bytes());
    hasher.update(&root);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
