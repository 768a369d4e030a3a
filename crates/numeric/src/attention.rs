//! The stored keys and values of one layer, and attention over them.

use std::fmt;
use std::ops::Range;

use crate::arch::{KEY_LANES, KernelTable, QUERY_BLOCK};
use crate::convert::f32_to_f16;
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

    /// Stores key and value of one position, each `kv_heads` x `head_dim`.
    ///
    /// # Panics
    /// The position exceeds the capacity or a length is wrong.
    pub fn store(&mut self, position: usize, key: &[f32], value: &[f32]) {
        assert!(
            position < self.capacity,
            "position exceeds the capacity: {position}"
        );
        let width = self.kv_heads * self.head_dim;
        assert_eq!(
            (key.len(), value.len()),
            (width, width),
            "key or value length"
        );
        let head_elements = self.head_elements();
        for head in 0..self.kv_heads {
            let key = &key[head * self.head_dim..][..self.head_dim];
            let tile = head * head_elements + position / KEY_LANES * KEY_LANES * self.head_dim;
            for (d, element) in key.iter().enumerate() {
                self.keys[tile + d * KEY_LANES + position % KEY_LANES] = f32_to_f16(*element);
            }
            let value = &value[head * self.head_dim..][..self.head_dim];
            let row = &mut self.values[head * head_elements + position * self.head_dim..]
                [..self.head_dim];
            for (stored, element) in row.iter_mut().zip(value) {
                *stored = f32_to_f16(*element);
            }
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

/// Causal attention of a batch of queries at consecutive positions.
pub(crate) struct Attention<'a> {
    pub(crate) table: &'static KernelTable,
    pub(crate) queries: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) cache: &'a KvLayer,
    pub(crate) first_position: usize,
    pub(crate) batch: usize,
}

impl Attention<'_> {
    /// Runs over blocks of queries that share a key/value head.
    ///
    /// # Determinism
    /// Queries are blocked to reuse loaded keys and values; each query's operations are those it would have alone.
    pub(crate) fn run(&self, pool: &Pool, output: &mut [f32]) {
        let queries = self.batch * (self.heads / self.cache.kv_heads);
        let shared = queries.div_ceil(QUERY_BLOCK);
        // With fewer blocks than threads, reuse gives way to parallelism.
        let length = if shared * self.cache.kv_heads < pool.threads() {
            1
        } else {
            QUERY_BLOCK
        };
        let blocks = queries.div_ceil(length);
        let output = Disjoint::new(output);
        pool.run(blocks * self.cache.kv_heads, &|range| {
            let mut scratch = Scratch::default();
            for item in range {
                // Late blocks see more positions than early ones: alternate, so that contiguous ranges cost the same.
                let ordinal = item % blocks;
                let block = if ordinal.is_multiple_of(2) {
                    ordinal / 2
                } else {
                    blocks - 1 - ordinal / 2
                };
                let first = block * length;
                self.block(
                    item / blocks,
                    first..(first + length).min(queries),
                    &mut scratch,
                    &output,
                );
            }
        });
    }

    /// One block of queries of key/value head `kv_head`, counted position by position, head by head.
    fn block(
        &self,
        kv_head: usize,
        block: Range<usize>,
        scratch: &mut Scratch,
        output: &Disjoint<'_, f32>,
    ) {
        let Self { table, cache, .. } = self;
        let head_dim = cache.head_dim;
        let sharing = self.heads / cache.kv_heads;
        let offset = |query: usize| {
            (query / sharing * self.heads + kv_head * sharing + query % sharing) * head_dim
        };

        scratch.queries.clear();
        scratch.counts.clear();
        for query in block.clone() {
            scratch
                .queries
                .extend_from_slice(&self.queries[offset(query)..][..head_dim]);
            scratch
                .counts
                .push(self.first_position + query / sharing + 1);
        }
        let longest = self.first_position + (block.end - 1) / sharing + 1;
        let stride = longest.next_multiple_of(KEY_LANES);
        scratch.scores.resize(block.len() * stride, 0.0);
        scratch.sums.resize(block.len() * head_dim, 0.0);

        let start = kv_head * cache.head_elements();
        let keys = &cache.keys[start..][..stride * head_dim];
        let values = &cache.values[start..][..longest * head_dim];
        // Both operations in f32, each rounded once.
        let scale = 1.0 / (head_dim as f32).sqrt();
        // SAFETY: the table belongs to an instruction set that this processor has.
        unsafe {
            (table.scores_f16_f32)(
                &scratch.queries,
                head_dim,
                keys,
                scale,
                &mut scratch.scores,
                stride,
            );
            for (scores, count) in scratch.scores.chunks_exact_mut(stride).zip(&scratch.counts) {
                (table.softmax_f32_f32)(&mut scores[..*count]);
            }
            (table.values_f16_f32)(
                &scratch.scores,
                stride,
                &scratch.counts,
                values,
                head_dim,
                &mut scratch.sums,
            );
        }
        for (query, sums) in block.zip(scratch.sums.chunks_exact(head_dim)) {
            // SAFETY: every (position, head) belongs to one block only.
            unsafe { output.part(offset(query)..offset(query) + head_dim) }.copy_from_slice(sums);
        }
    }
}

/// Buffers reused from block to block.
#[derive(Default)]
struct Scratch {
    queries: Vec<f32>,
    counts: Vec<usize>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}
