//! The stored keys and values of one layer.

mod format;
mod page;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::arch::{KEY_LANES, KernelTable};
use crate::pool::{Disjoint, Pool};
pub use format::KvFormat;
pub(crate) use format::{KV_BLOCK, key, value};
pub(crate) use page::PAGE_POSITIONS;
use page::Page;
pub use page::{KvFull, KvPool};

/// Keys and values of one layer of one text.
///
/// # Design
/// A list of pages of [`KvPool`]. Positions are reserved before they are stored; pages that lie before all that is read
/// again may be dropped; whole pages may belong to several layers, and are copied when one of them reserves a position
/// of theirs again. In a page, per key/value head, keys lie in tiles of 16 positions with the positions of one dimension
/// side by side; values lie row by row.
pub struct KvLayer {
    pool: Arc<KvPool>,
    /// Number of the first page that is there; those before it were dropped.
    first_page: usize,
    pages: Vec<Arc<Page>>,
}

impl KvLayer {
    /// Room for `capacity` positions, in f16, in a pool of its own.
    ///
    /// # Panics
    /// A dimension is zero or the size exceeds the address space.
    #[must_use]
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        Self::with_capacity(KvFormat::F16, kv_heads, head_dim, capacity)
    }

    /// As [`Self::new`], in `format`.
    ///
    /// # Panics
    /// As [`Self::new`], and when the format does not take `head_dim`.
    #[must_use]
    pub fn with_capacity(
        format: KvFormat,
        kv_heads: usize,
        head_dim: usize,
        capacity: usize,
    ) -> Self {
        let pool = KvPool::new(format, kv_heads, head_dim, usize::MAX);
        let mut layer = Self::in_pool(&pool);
        let reserved = Self::reserve(std::slice::from_mut(&mut layer), 0..capacity);
        reserved.expect("the pool is without bounds");
        layer
    }

    /// Without positions; it gets its pages from `pool`.
    #[must_use]
    pub fn in_pool(pool: &Arc<KvPool>) -> Self {
        Self {
            pool: Arc::clone(pool),
            first_page: 0,
            pages: Vec::new(),
        }
    }

    /// Makes room for `positions` in all layers of a text, to be stored: their pages are there, and belong to nobody
    /// else.
    ///
    /// # Errors
    /// When the pool has not enough pages; then nothing has changed.
    ///
    /// # Panics
    /// When the positions begin before what is there or behind a gap, or the layers' pools differ.
    pub fn reserve(layers: &mut [Self], positions: Range<usize>) -> Result<(), KvFull> {
        let Some(first) = layers.first().filter(|_| !positions.is_empty()) else {
            return Ok(());
        };
        let pool = Arc::clone(&first.pool);
        let wanted = layers.iter().map(|layer| layer.wanted(&positions).count());
        let mut taken = match wanted.sum() {
            0 => return Ok(()),
            count => pool.take(count)?.into_iter(),
        };
        for layer in layers {
            assert!(Arc::ptr_eq(&layer.pool, &pool), "layers of one pool");
            let wanted: Vec<usize> = layer.wanted(&positions).collect();
            for (index, mut page) in wanted.into_iter().zip(taken.by_ref()) {
                match layer.pages.get_mut(index) {
                    Some(shared) => {
                        page.bytes_mut().copy_from_slice(shared.bytes());
                        *shared = Arc::new(page);
                    }
                    None => layer.pages.push(Arc::new(page)),
                }
            }
        }
        Ok(())
    }

    /// The pages, by their place in the list, that have to be taken for `positions`, in ascending order.
    fn wanted(&self, positions: &Range<usize>) -> impl Iterator<Item = usize> {
        let first = positions.start / PAGE_POSITIONS;
        let end = positions.end.div_ceil(PAGE_POSITIONS);
        assert!(
            first >= self.first_page && first <= self.first_page + self.pages.len(),
            "positions follow what is there: {}",
            positions.start
        );
        let is_wanted = |index: &usize| {
            let page = self.pages.get(*index);
            page.is_none_or(|page| Arc::strong_count(page) > 1)
        };
        (first - self.first_page..end - self.first_page).filter(is_wanted)
    }

    /// Drops the pages that only have positions before `position`.
    pub fn drop_before(&mut self, position: usize) {
        let pages = (position / PAGE_POSITIONS).saturating_sub(self.first_page);
        let pages = pages.min(self.pages.len());
        self.pages.drain(..pages);
        self.first_page += pages;
    }

    /// Drops the pages that only have positions from `position` on.
    pub fn truncate(&mut self, position: usize) {
        let pages = position.div_ceil(PAGE_POSITIONS);
        self.pages.truncate(pages.saturating_sub(self.first_page));
    }

    /// Drops all pages.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.first_page = 0;
    }

    /// Another layer with the same first `positions`: whole pages are shared, what is left is copied.
    ///
    /// # Errors
    /// When the pool has no page left for that.
    ///
    /// # Panics
    /// When there are not so many positions.
    pub fn share(&self, positions: usize) -> Result<Self, KvFull> {
        assert!(
            positions <= self.capacity(),
            "positions that are there: {positions}"
        );
        let whole = (positions / PAGE_POSITIONS).saturating_sub(self.first_page);
        let mut pages = self.pages[..whole.min(self.pages.len())].to_vec();
        if !positions.is_multiple_of(PAGE_POSITIONS)
            && let Some(last) = self.pages.get(whole)
        {
            for mut page in self.pool.take(1)? {
                page.bytes_mut().copy_from_slice(last.bytes());
                pages.push(Arc::new(page));
            }
        }
        Ok(Self {
            pool: Arc::clone(&self.pool),
            first_page: self.first_page,
            pages,
        })
    }

    /// Appends key and value of one position to `row`, as stored. For diagnosis.
    ///
    /// # Panics
    /// The position is not there.
    pub fn read(&self, position: usize, row: &mut Vec<f32>) {
        let (format, head_dim) = (self.pool.format(), self.head_dim());
        let run = self.runs(position..position + 1).next();
        let run = run.expect("a position is in a page");
        let tile = run.offset / KEY_LANES * KEY_LANES * format.row_bytes(head_dim);
        for head in 0..self.kv_heads() {
            let keys = &run.head(head)[tile..];
            let lane = run.offset % KEY_LANES;
            row.extend((0..head_dim).map(|dimension| key(format, keys, dimension, lane)));
        }
        for head in 0..self.kv_heads() {
            let values = run.values(head);
            row.extend((0..head_dim).map(|dimension| value(format, values, dimension)));
        }
    }

    /// Positions there is room for, those that were dropped among them.
    #[must_use]
    pub fn capacity(&self) -> usize {
        (self.first_page + self.pages.len()) * PAGE_POSITIONS
    }

    /// The first position that was not dropped.
    #[must_use]
    pub fn first_position(&self) -> usize {
        self.first_page * PAGE_POSITIONS
    }

    /// How keys and values are stored.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.pool.format()
    }

    /// Number of key/value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.pool.kv_heads()
    }

    /// Elements of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.pool.head_dim()
    }

    /// Bytes of its pages, shared ones too.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.pool.page_bytes()
    }

    /// Stores consecutive positions from `first` on, `kv_heads` x `head_dim` keys and values each, all reserved.
    pub(crate) fn store(
        &mut self,
        table: &'static KernelTable,
        pool: Option<&Pool>,
        first: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (kv_heads, head_dim) = (self.kv_heads(), self.head_dim());
        let (head_bytes, keys_bytes) = (self.pool.head_bytes(), self.pool.keys_bytes());
        let format = self.pool.format();
        let (width, row_bytes) = (kv_heads * head_dim, format.row_bytes(head_dim));
        let mut next = first;
        let last = first + keys.len() / width;
        while next < last {
            let number = next / PAGE_POSITIONS;
            let start = number * PAGE_POSITIONS;
            let positions = next..last.min(start + PAGE_POSITIONS);
            let page = &mut self.pages[number - self.first_page];
            let page = Arc::get_mut(page).expect("the positions are reserved");
            let bytes = Disjoint::new(page.bytes_mut());
            let first_tile = (positions.start - start) / KEY_LANES;
            let tiles = (positions.end - start).div_ceil(KEY_LANES) - first_tile;
            let task = |items: Range<usize>| {
                let mut narrow = vec![0; head_dim];
                for item in items {
                    let (head, tile) = (item / tiles, first_tile + item % tiles);
                    let begin = head * head_bytes + tile * KEY_LANES * row_bytes;
                    let length = KEY_LANES * row_bytes;
                    // SAFETY: an item's tile of keys and its rows of values belong to no other item.
                    let (tile_keys, tile_values) = unsafe {
                        (
                            bytes.part(begin..begin + length),
                            bytes.part(keys_bytes + begin..keys_bytes + begin + length),
                        )
                    };
                    let tile = start + tile * KEY_LANES;
                    let positions =
                        tile.max(positions.start)..(tile + KEY_LANES).min(positions.end);
                    for position in positions {
                        let source = (position - first) * width + head * head_dim;
                        let lane = position - tile;
                        let row = &mut tile_values[lane * row_bytes..][..row_bytes];
                        let key = &keys[source..][..head_dim];
                        let value = &values[source..][..head_dim];
                        if format == KvFormat::F16 {
                            // SAFETY: the table belongs to an instruction set that this processor has.
                            unsafe { (table.narrow_f32_f16)(key, &mut narrow) };
                            format::put_halves(&narrow, tile_keys, KEY_LANES, lane);
                            // SAFETY: as above.
                            unsafe { (table.narrow_f32_f16)(value, &mut narrow) };
                            format::put_halves(&narrow, row, 1, 0);
                        } else {
                            format::put_key(format, key, lane, tile_keys);
                            format::put_row(format, value, row);
                        }
                    }
                }
            };
            match pool {
                Some(pool) => pool.run(tiles * kv_heads, &task),
                None => task(0..tiles * kv_heads),
            }
            next = positions.end;
        }
    }

    /// `positions` page by page.
    pub(crate) fn runs(&self, positions: Range<usize>) -> impl Iterator<Item = Run<'_>> {
        let mut next = positions.start;
        std::iter::from_fn(move || {
            if next >= positions.end {
                return None;
            }
            let (first, offset) = (next, next % PAGE_POSITIONS);
            let count = (PAGE_POSITIONS - offset).min(positions.end - next);
            next += count;
            Some(Run {
                first,
                offset,
                count,
                pool: &self.pool,
                page: &self.pages[first / PAGE_POSITIONS - self.first_page],
            })
        })
    }
}

/// Positions that lie in one page.
pub(crate) struct Run<'a> {
    /// The first of them.
    pub(crate) first: usize,
    /// Its number in the page.
    offset: usize,
    /// How many there are.
    pub(crate) count: usize,
    pool: &'a KvPool,
    page: &'a Page,
}

impl<'a> Run<'a> {
    fn head(&self, head: usize) -> &'a [u8] {
        let bytes = self.pool.head_bytes();
        &self.page.bytes()[head * bytes..][..bytes]
    }

    /// A head's tiles of keys; the positions are whole tiles.
    pub(crate) fn key_tiles(&self, head: usize) -> &'a [u8] {
        let row = self.pool.format().row_bytes(self.pool.head_dim());
        &self.head(head)[self.offset * row..][..self.count * row]
    }

    /// A head's rows of values.
    pub(crate) fn values(&self, head: usize) -> &'a [u8] {
        let row = self.pool.format().row_bytes(self.pool.head_dim());
        &self.head(head)[self.pool.keys_bytes() + self.offset * row..][..self.count * row]
    }
}

impl fmt::Debug for KvLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "KvLayer({} positions from {}, {} x {} in {})",
            self.capacity(),
            self.first_position(),
            self.kv_heads(),
            self.head_dim(),
            self.format(),
        )
    }
}
