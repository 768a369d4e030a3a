//! Causal attention over stored keys and values.
//!
//! # Design
//! Queries that share a key/value head are taken together in blocks, so that a loaded key or value serves several. When
//! there are too few blocks for the threads and the text is long, the work is cut otherwise: scores by positions, the
//! weighted sums by dimensions. Each output's operations are the same either way.
//!
//! Where only a window of positions is read, a block has queries of one position. Its scores begin with whole tiles; those
//! before the window are made minus infinity, whose exponential adds +0 to a lane, and have no part in the sums.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::arch::{KEY_LANES, KernelTable};
use crate::kv::KvLayer;
use crate::pool::{Disjoint, Pool};

/// Queries in a block, at most.
const QUERY_BLOCK: usize = 6;
/// Blocks per thread below which the work is cut by positions and dimensions.
const BLOCKS_PER_THREAD: usize = 4;
/// Positions above which that is worth its pauses.
const LONG: usize = 384;
/// Positions in a part of the scores.
const SCORE_PART: usize = 16 * KEY_LANES;
/// Dimensions in a part of the sums: a cache line of f16.
const SUM_PART: usize = 32;

/// Some rows of a batch that belong to one text.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSegment<'a> {
    /// What is stored of the text, these rows included.
    pub cache: &'a KvLayer,
    /// Position of its first row here.
    pub first_position: usize,
    /// Number of rows.
    pub rows: usize,
    /// How many positions a query reads, its own the last; none: all.
    pub window: Option<NonZeroUsize>,
}

/// Attention of a batch; shapes are checked by [`crate::Kernels::attention`].
pub(crate) struct Attention<'a> {
    pub(crate) table: &'static KernelTable,
    pub(crate) queries: &'a [f32],
    pub(crate) heads: usize,
    pub(crate) segments: &'a [AttentionSegment<'a>],
}

/// Queries of one segment that share a key/value head, counted position by position, head by head.
struct Block<'a> {
    segment: &'a AttentionSegment<'a>,
    /// Row of the batch at which the segment begins.
    first_row: usize,
    kv_head: usize,
    queries: Range<usize>,
}

impl Block<'_> {
    /// Positions that query `query` sees.
    fn count(&self, query: usize, sharing: usize) -> usize {
        self.segment.first_position + query / sharing + 1
    }

    fn longest(&self, sharing: usize) -> usize {
        self.count(self.queries.end - 1, sharing)
    }

    /// The first position that its queries see: the same for all.
    fn first(&self, sharing: usize) -> usize {
        let count = self.count(self.queries.start, sharing);
        let window = self.segment.window.map(NonZeroUsize::get);
        window.map_or(0, |window| count.saturating_sub(window))
    }

    /// The first position of the tile in which that lies.
    fn base(&self, sharing: usize) -> usize {
        self.first(sharing) / KEY_LANES * KEY_LANES
    }

    /// Positions of whole tiles that hold all that its queries see.
    fn stride(&self, sharing: usize) -> usize {
        (self.longest(sharing) - self.base(sharing)).next_multiple_of(KEY_LANES)
    }

    /// Where query `query` begins in the queries and in the output.
    fn offset(&self, query: usize, heads: usize, sharing: usize) -> usize {
        let row = self.first_row + query / sharing;
        (row * heads + self.kv_head * sharing + query % sharing) * self.segment.cache.head_dim()
    }
}

impl Attention<'_> {
    pub(crate) fn run(&self, pool: &Pool, output: &mut [f32]) {
        let blocks = self.blocks();
        let output = Disjoint::new(output);
        let longest = |block: &Block<'_>| block.longest(self.sharing(block));
        let few = pool.threads() > 1 && blocks.len() < BLOCKS_PER_THREAD * pool.threads();
        if few && blocks.iter().any(|block| longest(block) >= LONG) {
            return self.run_cut(&blocks, pool, &output);
        }
        // Contiguous ranges of blocks with about the same number of scores each.
        let mut ends = Vec::with_capacity(blocks.len());
        let mut total = 0;
        for block in &blocks {
            total += longest(block) * block.queries.len();
            ends.push(total);
        }
        let parts = pool.threads().min(blocks.len());
        let first = |part: usize| ends.partition_point(|end| *end <= total * part / parts);
        pool.run(parts, &|parts| {
            SCRATCH.with_borrow_mut(|scratch| {
                for part in parts {
                    for block in &blocks[first(part)..first(part + 1)] {
                        self.block(block, scratch, &output);
                    }
                }
            });
        });
    }

    fn sharing(&self, block: &Block<'_>) -> usize {
        self.heads / block.segment.cache.kv_heads()
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let mut blocks = Vec::new();
        let mut first_row = 0;
        for segment in self.segments {
            let sharing = self.heads / segment.cache.kv_heads();
            let queries = segment.rows * sharing;
            let last = segment.first_position + segment.rows;
            let is_cut = segment.window.is_some_and(|window| last > window.get());
            for kv_head in 0..segment.cache.kv_heads() {
                let mut first = 0;
                while first < queries {
                    let mut end = (first + QUERY_BLOCK).min(queries);
                    if is_cut {
                        end = end.min((first / sharing + 1) * sharing);
                    }
                    blocks.push(Block {
                        segment,
                        first_row,
                        kv_head,
                        queries: first..end,
                    });
                    first = end;
                }
            }
            first_row += segment.rows;
        }
        blocks
    }

    /// The block's queries, and how many scores each has from the block's first tile on.
    fn gather(&self, block: &Block<'_>, scratch: &mut Scratch) {
        let (sharing, head_dim) = (self.sharing(block), block.segment.cache.head_dim());
        let base = block.base(sharing);
        scratch.queries.clear();
        scratch.counts.clear();
        for query in block.queries.clone() {
            let start = block.offset(query, self.heads, sharing);
            scratch
                .queries
                .extend_from_slice(&self.queries[start..][..head_dim]);
            scratch.counts.push(block.count(query, sharing) - base);
        }
    }

    /// One block from scores to sums.
    fn block(&self, block: &Block<'_>, scratch: &mut Scratch, output: &Disjoint<'_, f32>) {
        let cache = block.segment.cache;
        let (sharing, head_dim) = (self.sharing(block), cache.head_dim());
        self.gather(block, scratch);
        let (base, stride) = (block.base(sharing), block.stride(sharing));
        let before = block.first(sharing) - base;
        let count = block.queries.len();
        grow(&mut scratch.scores, count * stride);
        grow(&mut scratch.sums, count * head_dim);
        let scores = &mut scratch.scores[..count * stride];
        let sums = &mut scratch.sums[..count * head_dim];
        let table = self.table;
        sums.fill(0.0);
        // SAFETY: the table belongs to an instruction set that this processor has.
        unsafe {
            for run in cache.runs(base..base + stride) {
                (table.scores(cache.format()))(
                    &scratch.queries,
                    head_dim,
                    run.key_tiles(block.kv_head),
                    scale(head_dim),
                    &mut scores[run.first - base..],
                    stride,
                );
            }
            for (scores, count) in scores.chunks_exact_mut(stride).zip(&mut scratch.counts) {
                scores[..before].fill(f32::NEG_INFINITY);
                (table.softmax_f32_f32)(&mut scores[..*count]);
                *count -= before;
            }
            let first = base + before;
            for run in cache.runs(first..block.longest(sharing)) {
                (table.values(cache.format()))(
                    &scratch.scores[run.first - base..],
                    stride,
                    &run_counts(&scratch.counts, run.first - first, run.count)[..count],
                    run.values(block.kv_head),
                    head_dim,
                    0..head_dim,
                    sums,
                );
            }
        }
        for (query, sums) in block.queries.clone().zip(sums.chunks_exact(head_dim)) {
            let start = block.offset(query, self.heads, sharing);
            // SAFETY: every (position, head) belongs to one block only.
            unsafe { output.part(start..start + head_dim) }.copy_from_slice(sums);
        }
    }

    /// All blocks, step by step: scores in parts of positions, softmax row by row, sums in parts of dimensions.
    fn run_cut(&self, blocks: &[Block<'_>], pool: &Pool, output: &Disjoint<'_, f32>) {
        let mut gathered: Vec<Scratch> = Vec::with_capacity(blocks.len());
        for block in blocks {
            let mut scratch = Scratch::default();
            self.gather(block, &mut scratch);
            gathered.push(scratch);
        }
        let strides: Vec<usize> = blocks
            .iter()
            .map(|block| block.stride(self.sharing(block)))
            .collect();
        let before = |block: &Block<'_>| {
            let sharing = self.sharing(block);
            block.first(sharing) - block.base(sharing)
        };
        // Scores of block b lie from starts[b] on, those of a part of positions side by side.
        let starts: Vec<usize> = offsets(
            blocks
                .iter()
                .zip(&strides)
                .map(|(block, stride)| block.queries.len() * stride),
        );
        let total = starts[blocks.len()];
        SCRATCH.with_borrow_mut(|scratch| {
            grow(&mut scratch.scores, total);
            let scores = Disjoint::new(&mut scratch.scores[..total]);

            let parts = offsets(strides.iter().map(|stride| stride.div_ceil(SCORE_PART)));
            pool.run(parts[blocks.len()], &|items| {
                let mut part_scores = vec![0.0; QUERY_BLOCK * SCORE_PART];
                for item in items {
                    let index = parts.partition_point(|start| *start <= item) - 1;
                    let first = (item - parts[index]) * SCORE_PART;
                    let stride = strides[index];
                    let length = SCORE_PART.min(stride - first);
                    let block = &blocks[index];
                    let cache = block.segment.cache;
                    let head_dim = cache.head_dim();
                    let base = block.base(self.sharing(block)) + first;
                    let part_scores = &mut part_scores[..block.queries.len() * length];
                    for run in cache.runs(base..base + length) {
                        // SAFETY: the table belongs to an instruction set that this processor has.
                        unsafe {
                            (self.table.scores(cache.format()))(
                                &gathered[index].queries,
                                head_dim,
                                run.key_tiles(block.kv_head),
                                scale(head_dim),
                                &mut part_scores[run.first - base..],
                                length,
                            );
                        }
                    }
                    for (query, row) in part_scores.chunks_exact(length).enumerate() {
                        let start = starts[index] + query * stride + first;
                        // SAFETY: a part of a query's row belongs to one item only.
                        unsafe { scores.part(start..start + length) }.copy_from_slice(row);
                    }
                }
            });

            let rows = offsets(blocks.iter().map(|block| block.queries.len()));
            pool.run(rows[blocks.len()], &|items| {
                for item in items {
                    let index = rows.partition_point(|start| *start <= item) - 1;
                    let query = item - rows[index];
                    let start = starts[index] + query * strides[index];
                    let count = gathered[index].counts[query];
                    // SAFETY: a query's row belongs to one item only; the table as above.
                    unsafe {
                        let row = scores.part(start..start + count);
                        row[..before(&blocks[index])].fill(f32::NEG_INFINITY);
                        (self.table.softmax_f32_f32)(row);
                    }
                }
            });
            for (block, gathered) in blocks.iter().zip(&mut gathered) {
                let before = before(block);
                gathered
                    .counts
                    .iter_mut()
                    .for_each(|count| *count -= before);
            }

            let parts = offsets(
                blocks
                    .iter()
                    .map(|block| block.segment.cache.head_dim().div_ceil(SUM_PART)),
            );
            pool.run(parts[blocks.len()], &|items| {
                let mut sums = vec![0.0; QUERY_BLOCK * SUM_PART];
                for item in items {
                    let index = parts.partition_point(|start| *start <= item) - 1;
                    let block = &blocks[index];
                    let (cache, sharing) = (block.segment.cache, self.sharing(block));
                    let head_dim = cache.head_dim();
                    let first = (item - parts[index]) * SUM_PART;
                    let dimensions = first..(first + SUM_PART).min(head_dim);
                    let length = dimensions.len();
                    let sums = &mut sums[..block.queries.len() * length];
                    sums.fill(0.0);
                    let position = block.first(sharing);
                    let counts = &gathered[index].counts;
                    let start = starts[index] + before(block);
                    for run in cache.runs(position..block.longest(sharing)) {
                        // SAFETY: the rows are only read from here on; the table as above.
                        unsafe {
                            (self.table.values(cache.format()))(
                                scores.read(start + run.first - position..starts[index + 1]),
                                strides[index],
                                &run_counts(counts, run.first - position, run.count)
                                    [..counts.len()],
                                run.values(block.kv_head),
                                head_dim,
                                dimensions.clone(),
                                sums,
                            );
                        }
                    }
                    for (query, sums) in block.queries.clone().zip(sums.chunks_exact(length)) {
                        let start = block.offset(query, self.heads, sharing) + first;
                        // SAFETY: a part of a query's dimensions belongs to one item only.
                        unsafe { output.part(start..start + length) }.copy_from_slice(sums);
                    }
                }
            });
        });
    }
}

/// Both operations in f32, each rounded once.
fn scale(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// How many of the `count` positions from `first` on each query sees, of `counts` in all.
fn run_counts(counts: &[usize], first: usize, count: usize) -> [usize; QUERY_BLOCK] {
    let mut seen = [0; QUERY_BLOCK];
    for (seen, all) in seen.iter_mut().zip(counts) {
        *seen = all.saturating_sub(first).min(count);
    }
    seen
}

/// Running sums: where each begins, and at last where all end.
fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut offsets = vec![0];
    let mut total = 0;
    for length in lengths {
        total += length;
        offsets.push(total);
    }
    offsets
}

fn grow(values: &mut Vec<f32>, length: usize) {
    if values.len() < length {
        values.resize(length, 0.0);
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

thread_local! {
    /// Each thread's own; nothing in it outlives a block.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}
