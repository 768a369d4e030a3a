//! Stable memory while a message runs: the pages it found, and those it has written.
use crate::{
    heap::PAGE_BYTES,
    memory::{Page, PagedMemory, page_of, zero_page},
};
use std::{collections::BTreeMap, sync::Arc};

/// Most pages a canister's stable memory may have: 1 GiB.
pub const STABLE_PAGES_MAX: u64 = 16_384;

/// An access outside stable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

/// Copy-on-write view of a stable memory.
#[derive(Debug, Default)]
pub(crate) struct StableMemory {
    pages: Vec<Arc<Page>>,
    written: BTreeMap<usize, Box<[u8]>>,
}

impl StableMemory {
    pub(crate) fn new(memory: &PagedMemory) -> Self {
        Self {
            pages: memory.pages().to_vec(),
            written: BTreeMap::new(),
        }
    }

    pub(crate) fn size_pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Adds pages of zeros and returns the old size, or `None` beyond [`STABLE_PAGES_MAX`].
    pub(crate) fn grow(&mut self, pages: u64) -> Option<u64> {
        let old = self.size_pages();
        let new = old
            .checked_add(pages)
            .filter(|new| *new <= STABLE_PAGES_MAX)?;
        self.pages.resize(new as usize, zero_page());
        Some(old)
    }

    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) -> Result<(), OutOfBounds> {
        for (page, in_page, part) in self.parts(offset, target.len())? {
            let bytes = self
                .written
                .get(&page)
                .map_or(self.pages[page].bytes(), |bytes| bytes);
            target[part.clone()].copy_from_slice(&bytes[in_page..in_page + part.len()]);
        }
        Ok(())
    }

    pub(crate) fn write(&mut self, offset: u64, source: &[u8]) -> Result<(), OutOfBounds> {
        for (page, in_page, part) in self.parts(offset, source.len())? {
            let bytes = self
                .written
                .entry(page)
                .or_insert_with(|| self.pages[page].bytes().into());
            bytes[in_page..in_page + part.len()].copy_from_slice(&source[part]);
        }
        Ok(())
    }

    /// The memory with what was written.
    pub(crate) fn finish(mut self) -> PagedMemory {
        for (page, bytes) in self.written {
            self.pages[page] = page_of(&bytes, Some(&self.pages[page]));
        }
        PagedMemory::of(self.pages)
    }

    /// Cuts an access at page boundaries: page, offset in the page, range in the caller's buffer.
    fn parts(
        &self,
        offset: u64,
        size: usize,
    ) -> Result<impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> + use<>, OutOfBounds>
    {
        let end = offset.checked_add(size as u64).ok_or(OutOfBounds)?;
        if end > self.size_pages() * PAGE_BYTES as u64 {
            return Err(OutOfBounds);
        }
        let mut done = 0;
        Ok(std::iter::from_fn(move || {
            (done < size).then(|| {
                let at = offset as usize + done;
                let in_page = at % PAGE_BYTES;
                let count = (PAGE_BYTES - in_page).min(size - done);
                let part = done..done + count;
                done += count;
                (at / PAGE_BYTES, in_page, part)
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
        let mut memory = StableMemory::new(self);
        memory
            .write(offset, bytes)
            .expect("the bytes lie inside of the memory");
        memory.finish()
    }
}
