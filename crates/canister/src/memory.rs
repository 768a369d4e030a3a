//! Images of linear and stable memory as shared pages.
use std::sync::{Arc, LazyLock};

/// Bytes in one page: the page of WebAssembly.
pub const PAGE_BYTES: usize = 65_536;

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
    pub fn new(bytes: Box<[u8]>) -> Self {
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
pub fn zero_page() -> Arc<Page> {
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
    pub fn from_pages(pages: Vec<Arc<Page>>) -> Self {
        Self { pages }
    }

    /// The pages, first page first.
    #[must_use]
    pub fn pages(&self) -> &[Arc<Page>] {
        &self.pages
    }

    /// The image of a memory, sharing with `old` the pages that did not change.
    ///
    /// # Panics
    /// When `bytes` is not a whole number of pages.
    #[must_use]
    pub(crate) fn of(bytes: &[u8], old: &Self) -> Self {
        assert_eq!(
            bytes.len() % PAGE_BYTES,
            0,
            "a memory is a whole number of pages"
        );
        let pages = bytes
            .chunks_exact(PAGE_BYTES)
            .enumerate()
            .map(|(index, bytes)| page_of(bytes, old.pages.get(index)));
        Self {
            pages: pages.collect(),
        }
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
