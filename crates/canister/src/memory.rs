//! Images of stable memory as shared pages.
use crate::heap::{Heap, PAGE_BYTES};
use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

/// A memory as pages of [`PAGE_BYTES`], to be written elsewhere and read back.
pub trait Paged: Default {
    /// Number of pages.
    fn size_pages(&self) -> u64;

    /// The pages in which it may differ from `other`, pages that only one of them has included.
    fn changed(&self, other: &Self) -> BTreeSet<u64>;

    /// A page's bytes.
    ///
    /// # Panics
    /// There is no such page.
    fn page(&self, index: u64) -> Cow<'_, [u8]>;

    /// A memory whose pages are zeros but for some, in any order.
    ///
    /// # Panics
    /// A page is not [`PAGE_BYTES`] long or lies outside.
    fn from_pages(size_pages: u64, pages: Vec<(u64, Box<[u8]>)>) -> Self;
}

impl Paged for Heap {
    fn size_pages(&self) -> u64 {
        self.size_pages()
    }

    fn changed(&self, other: &Self) -> BTreeSet<u64> {
        self.changed(other)
    }

    fn page(&self, index: u64) -> Cow<'_, [u8]> {
        Cow::Owned(self.page(index).into_vec())
    }

    fn from_pages(size_pages: u64, pages: Vec<(u64, Box<[u8]>)>) -> Self {
        Self::from_pages(size_pages, pages)
    }
}

impl Paged for PagedMemory {
    fn size_pages(&self) -> u64 {
        self.pages.len() as u64
    }

    fn changed(&self, other: &Self) -> BTreeSet<u64> {
        let longer = self.pages.len().max(other.pages.len());
        let differs = |index: &usize| match (self.pages.get(*index), other.pages.get(*index)) {
            (Some(page), Some(other)) => {
                !Arc::ptr_eq(page, other) && page.digest() != other.digest()
            }
            _ => true,
        };
        (0..longer)
            .filter(differs)
            .map(|index| index as u64)
            .collect()
    }

    fn page(&self, index: u64) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.pages[index as usize].bytes())
    }

    fn from_pages(size_pages: u64, pages: Vec<(u64, Box<[u8]>)>) -> Self {
        let mut memory = vec![zero_page(); size_pages as usize];
        for (index, bytes) in pages {
            memory[index as usize] = page_of(&bytes, None);
        }
        Self { pages: memory }
    }
}

/// One page and its digest. Immutable: a changed page is a new one.
#[derive(Debug)]
pub struct Page {
    bytes: Box<[u8]>,
    digest: [u8; 32],
}

impl Page {
    /// Takes a page's bytes.
    ///
    /// # Panics
    /// When `bytes` is not [`PAGE_BYTES`] long.
    #[must_use]
    pub(crate) fn new(bytes: Box<[u8]>) -> Self {
        assert_eq!(bytes.len(), PAGE_BYTES, "a page has a fixed size");
        let digest = *blake3::hash(&bytes).as_bytes();
        Self { bytes, digest }
    }

    /// The page's [`PAGE_BYTES`] bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of the bytes.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

static ZERO: LazyLock<Arc<Page>> =
    LazyLock::new(|| Arc::new(Page::new(vec![0; PAGE_BYTES].into_boxed_slice())));

/// The page of zeros, one for the whole process.
#[must_use]
pub(crate) fn zero_page() -> Arc<Page> {
    Arc::clone(&ZERO)
}

/// A page with these bytes, reusing `old` or the page of zeros when it holds the same.
///
/// # Panics
/// When `bytes` is not [`PAGE_BYTES`] long.
#[must_use]
pub(crate) fn page_of(bytes: &[u8], old: Option<&Arc<Page>>) -> Arc<Page> {
    match old {
        Some(old) if old.bytes() == bytes => Arc::clone(old),
        _ if ZERO.bytes() == bytes => zero_page(),
        _ => Arc::new(Page::new(bytes.into())),
    }
}

/// A memory image. Clones share pages, so a snapshot costs one pointer per page.
#[derive(Clone, Debug, Default)]
pub struct PagedMemory {
    pages: Vec<Arc<Page>>,
}

impl PagedMemory {
    /// An image made of these pages, first page first.
    #[must_use]
    pub(crate) fn of(pages: Vec<Arc<Page>>) -> Self {
        Self { pages }
    }

    /// The pages, first page first.
    #[must_use]
    pub fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// BLAKE3 over the page count and the pages' digests, in order.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(self.pages.len() as u64).to_le_bytes());
        for page in &self.pages {
            hasher.update(page.digest());
        }
        *hasher.finalize().as_bytes()
    }
}
