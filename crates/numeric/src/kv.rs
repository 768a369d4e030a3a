//! The stored keys and values of one layer.

use std::fmt;
use std::ops::Range;

use crate::arch::{KEY_LANES, KernelTable};
use crate::convert::f16_to_f32;
use crate::pool::{Disjoint, Pool};

/// Keys and values of one layer as f16, rounded half to even.
///
/// # Design
/// Per key/value head, keys lie in tiles of 16 positions with the positions of one dimension side by side; values lie
/// row by row.
#[derive(Clone)]
pub struct KvLayer {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl KvLayer {
    /// Room for `capacity` positions, all zero.
    ///
    /// # Panics
    /// A dimension is zero or the size exceeds the address space.
    #[must_use]
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        assert!(
            kv_heads > 0 && head_dim > 0,
            "no heads or no dimensions: {kv_heads} x {head_dim}"
        );
        let elements = capacity
            .checked_next_multiple_of(KEY_LANES)
            .and_then(|positions| positions.checked_mul(kv_heads)?.checked_mul(head_dim))
            .expect("the cache fits the address space");
        Self {
            kv_heads,
            head_dim,
            capacity,
            keys: vec![0; elements],
            values: vec![0; elements],
        }
    }

    /// Appends key and value of one position to `row`, as stored. For diagnosis.
    ///
    /// # Panics
    /// The position exceeds the capacity.
    pub fn read(&self, position: usize, row: &mut Vec<f32>) {
        assert!(
            position < self.capacity,
            "position exceeds the capacity: {position}"
        );
        let tile = position / KEY_LANES * KEY_LANES * self.head_dim + position % KEY_LANES;
        for head in 0..self.kv_heads {
            let keys = self.keys[head * self.head_elements() + tile..].iter();
            let keys = keys.step_by(KEY_LANES).take(self.head_dim);
            row.extend(keys.map(|&key| f16_to_f32(key)));
        }
        for head in 0..self.kv_heads {
            let start = head * self.head_elements() + position * self.head_dim;
            let values = self.values[start..][..self.head_dim].iter();
            row.extend(values.map(|&value| f16_to_f32(value)));
        }
    }

    /// Number of positions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of key/value heads.
    #[must_use]
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of memory used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        (self.keys.len() + self.values.len()) * size_of::<u16>()
    }

    /// Stores consecutive positions from `first` on, `kv_heads` x `head_dim` keys and values each.
    pub(crate) fn store(
        &mut self,
        table: &'static KernelTable,
        pool: Option<&Pool>,
        first: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let (head_dim, head_elements) = (self.head_dim, self.head_elements());
        let width = self.kv_heads * head_dim;
        let last = first + keys.len() / width;
        let first_tile = first / KEY_LANES;
        let tiles = last.div_ceil(KEY_LANES) - first_tile;
        let tile_elements = KEY_LANES * head_dim;
        let (stored_keys, stored_values) = (
            Disjoint::new(&mut self.keys),
            Disjoint::new(&mut self.values),
        );
        let task = |items: Range<usize>| {
            let mut narrow = vec![0; head_dim];
            for item in items {
                let (head, tile) = (item / tiles, first_tile + item % tiles);
                let start = head * head_elements + tile * tile_elements;
                // SAFETY: an item's tile of keys and its rows of values belong to no other item.
                let (tile_keys, tile_values) = unsafe {
                    (
                        stored_keys.part(start..start + tile_elements),
                        stored_values.part(start..start + tile_elements),
                    )
                };
                let positions = (tile * KEY_LANES).max(first)..((tile + 1) * KEY_LANES).min(last);
                for position in positions {
                    let source = (position - first) * width + head * head_dim;
                    let lane = position % KEY_LANES;
                    let row = &mut tile_values[lane * head_dim..][..head_dim];
                    // SAFETY: the table belongs to an instruction set that this processor has.
                    unsafe {
                        (table.narrow_f32_f16)(&keys[source..][..head_dim], &mut narrow);
                        (table.narrow_f32_f16)(&values[source..][..head_dim], row);
                    }
                    for (key, places) in narrow.iter().zip(tile_keys.chunks_exact_mut(KEY_LANES)) {
                        places[lane] = *key;
                    }
                }
            }
        };
        match pool {
            Some(pool) => pool.run(tiles * self.kv_heads, &task),
            None => task(0..tiles * self.kv_heads),
        }
    }

    /// The tiles of keys of a head that hold `positions` positions from `first` on, both whole numbers of tiles.
    pub(crate) fn key_tiles(&self, head: usize, first: usize, positions: usize) -> &[u16] {
        let start = head * self.head_elements() + first * self.head_dim;
        &self.keys[start..][..positions * self.head_dim]
    }

    /// The rows of values of a head at some positions.
    pub(crate) fn value_rows(&self, head: usize, positions: Range<usize>) -> &[u16] {
        let start = head * self.head_elements() + positions.start * self.head_dim;
        &self.values[start..][..positions.len() * self.head_dim]
    }

    fn head_elements(&self) -> usize {
        self.capacity.next_multiple_of(KEY_LANES) * self.head_dim
    }
}

impl fmt::Debug for KvLayer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "KvLayer({} positions, {} x {})",
            self.capacity, self.kv_heads, self.head_dim
        )
    }
}
