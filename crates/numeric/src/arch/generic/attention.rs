//! Attention over stored keys and values: lanes across positions for scores, across the head's dimension for values.
//! `Q` queries and `V` vectors are in registers together; every query's operations are those it would have alone.

use super::Simd;
use crate::arch::KEY_LANES;
use crate::arch::portable::attention::weighted_sum;
use crate::kv::{KV_BLOCK, KvFormat};

/// Queries in registers together when there are fewer than `Q`: those of a head group of small models.
const FEW: usize = 3;

/// How vectors of stored elements are read; see [`KvFormat`].
pub(crate) trait Stored {
    const FORMAT: KvFormat;
    /// What the elements of a block have in common.
    type Shared<S: Simd>: Copy;

    /// Of the positions from `lane` on of a tile, of a block that begins at `block`.
    ///
    /// # Safety
    /// They exist.
    unsafe fn shared<S: Simd>(simd: S, block: *const u8, lane: usize) -> Self::Shared<S>;

    /// Keys of the positions from `lane` on, element `element` of the block.
    ///
    /// # Safety
    /// They exist.
    unsafe fn keys<S: Simd>(
        simd: S,
        block: *const u8,
        element: usize,
        lane: usize,
        shared: Self::Shared<S>,
    ) -> S::F32;

    /// Values of a row from `dimension` on, a multiple of the vector's lanes if they are quantised.
    ///
    /// # Safety
    /// They exist.
    unsafe fn values<S: Simd>(simd: S, row: *const u8, dimension: usize) -> S::F32;
}

pub(crate) struct F16;

impl Stored for F16 {
    const FORMAT: KvFormat = KvFormat::F16;
    type Shared<S: Simd> = ();

    #[inline(always)]
    unsafe fn shared<S: Simd>(_simd: S, _block: *const u8, _lane: usize) {}

    #[inline(always)]
    unsafe fn keys<S: Simd>(
        simd: S,
        block: *const u8,
        element: usize,
        lane: usize,
        (): (),
    ) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe { simd.load_f16(block.add(2 * (element * KEY_LANES + lane))) }
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(simd: S, row: *const u8, dimension: usize) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe { simd.load_f16(row.add(2 * dimension)) }
    }
}

pub(crate) struct Q8;

impl Stored for Q8 {
    const FORMAT: KvFormat = KvFormat::Q8;
    type Shared<S: Simd> = S::F32;

    #[inline(always)]
    unsafe fn shared<S: Simd>(simd: S, block: *const u8, lane: usize) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe { simd.load_f16(block.add(2 * lane)) }
    }

    #[inline(always)]
    unsafe fn keys<S: Simd>(
        simd: S,
        block: *const u8,
        element: usize,
        lane: usize,
        scale: S::F32,
    ) -> S::F32 {
        // SAFETY: as the caller's.
        let quants = unsafe { simd.load_i8(block.add((2 + element) * KEY_LANES + lane)) };
        simd.mul(simd.to_f32(quants), scale)
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(simd: S, row: *const u8, dimension: usize) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe {
            let block = row.add(dimension / KV_BLOCK * (2 + KV_BLOCK));
            let quants = simd.load_i8(block.add(2 + dimension % KV_BLOCK));
            simd.mul(simd.to_f32(quants), simd.splat_f16(half(block)))
        }
    }
}

pub(crate) struct Q4;

impl Stored for Q4 {
    const FORMAT: KvFormat = KvFormat::Q4;
    /// Scale and minimum.
    type Shared<S: Simd> = (S::F32, S::F32);

    #[inline(always)]
    unsafe fn shared<S: Simd>(simd: S, block: *const u8, lane: usize) -> (S::F32, S::F32) {
        // SAFETY: as the caller's.
        unsafe {
            (
                simd.load_f16(block.add(2 * lane)),
                simd.load_f16(block.add(2 * (KEY_LANES + lane))),
            )
        }
    }

    #[inline(always)]
    unsafe fn keys<S: Simd>(
        simd: S,
        block: *const u8,
        element: usize,
        lane: usize,
        (scale, minimum): (S::F32, S::F32),
    ) -> S::F32 {
        let byte = (4 + element % (KV_BLOCK / 2)) * KEY_LANES + lane;
        // SAFETY: as the caller's.
        let quants = nibbles(simd, unsafe { simd.load_i8(block.add(byte)) }, element);
        simd.add(simd.mul(simd.to_f32(quants), scale), minimum)
    }

    #[inline(always)]
    unsafe fn values<S: Simd>(simd: S, row: *const u8, dimension: usize) -> S::F32 {
        let element = dimension % KV_BLOCK;
        // SAFETY: as the caller's.
        unsafe {
            let block = row.add(dimension / KV_BLOCK * (4 + KV_BLOCK / 2));
            let bytes = simd.load_i8(block.add(4 + element % (KV_BLOCK / 2)));
            let quants = simd.to_f32(nibbles(simd, bytes, element));
            let (scale, minimum) = (half(block), half(block.add(2)));
            simd.add(
                simd.mul(quants, simd.splat_f16(scale)),
                simd.splat_f16(minimum),
            )
        }
    }
}

/// The nibbles in which element `element` of a block is.
#[inline(always)]
fn nibbles<S: Simd>(simd: S, bytes: S::I32, element: usize) -> S::I32 {
    let nibbles = if element < KV_BLOCK / 2 {
        bytes
    } else {
        simd.shift_right::<4>(bytes)
    };
    simd.and(nibbles, simd.splat_i32(15))
}

/// # Safety
/// Two bytes can be read.
#[inline(always)]
unsafe fn half(from: *const u8) -> u16 {
    // SAFETY: as the caller's.
    u16::from_le(unsafe { from.cast::<u16>().read_unaligned() })
}

/// Scores of some queries against whole tiles of keys: sequential over the dimension, then times `scale`.
#[inline(always)]
pub(crate) fn scores<S: Simd, K: Stored, const Q: usize, const V: usize>(
    simd: S,
    queries: &[f32],
    head_dim: usize,
    keys: &[u8],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let count = queries.len() / head_dim;
    assert_eq!(queries.len(), count * head_dim, "whole queries");
    let tile_bytes = KEY_LANES * K::FORMAT.row_bytes(head_dim);
    let positions = keys.len() / tile_bytes * KEY_LANES;
    assert_eq!(
        keys.len(),
        positions / KEY_LANES * tile_bytes,
        "whole tiles of keys"
    );
    assert!(
        positions <= stride && (count == 0 || scores.len() >= (count - 1) * stride + positions),
        "rows of scores"
    );
    let vectors = positions / S::LANES;
    let mut query = 0;
    while query < count {
        let block = Scores {
            head_dim,
            tile_bytes,
            keys: keys.as_ptr(),
            scale,
            stride,
            queries: queries[query * head_dim..].as_ptr(),
            scores: scores[query * stride..].as_mut_ptr(),
        };
        // SAFETY: lengths are asserted above; the queries and vectors exist.
        unsafe {
            if count - query >= Q {
                block.run_all::<S, K, Q, V>(simd, vectors);
                query += Q;
            } else if count - query >= FEW {
                block.run_all::<S, K, FEW, V>(simd, vectors);
                query += FEW;
            } else {
                block.run_all::<S, K, 1, V>(simd, vectors);
                query += 1;
            }
        }
    }
}

/// What a block of queries reads and writes.
#[derive(Clone, Copy)]
struct Scores {
    head_dim: usize,
    tile_bytes: usize,
    keys: *const u8,
    scale: f32,
    stride: usize,
    queries: *const f32,
    scores: *mut f32,
}

impl Scores {
    /// # Safety
    /// `Q` queries and rows of scores, and `vectors` vectors of positions, exist.
    #[inline(always)]
    unsafe fn run_all<S: Simd, K: Stored, const Q: usize, const V: usize>(
        self,
        simd: S,
        vectors: usize,
    ) {
        let whole = vectors / V * V;
        // SAFETY: as the caller's.
        unsafe {
            for first in (0..whole).step_by(V) {
                self.run::<S, K, Q, V>(simd, first);
            }
            for first in whole..vectors {
                self.run::<S, K, Q, 1>(simd, first);
            }
        }
    }

    /// # Safety
    /// `Q` queries and rows of scores, and `V` vectors of positions from `first` on, exist.
    #[inline(always)]
    unsafe fn run<S: Simd, K: Stored, const Q: usize, const V: usize>(self, simd: S, first: usize) {
        let block_bytes = KEY_LANES * K::FORMAT.row_bytes(KV_BLOCK);
        let mut keys = [std::ptr::null::<u8>(); V];
        let mut lane = [0; V];
        for v in 0..V {
            let position = (first + v) * S::LANES;
            lane[v] = position % KEY_LANES;
            // SAFETY: the tile of that position.
            keys[v] = unsafe { self.keys.add(position / KEY_LANES * self.tile_bytes) };
        }
        let mut sums = [[simd.splat_f32(0.0); V]; Q];
        let mut d = 0;
        while d < self.head_dim {
            let elements = KV_BLOCK.min(self.head_dim - d);
            // SAFETY: a block of the tiles and dimensions of the queries.
            unsafe {
                let mut shared = [K::shared(simd, keys[0], lane[0]); V];
                for v in 1..V {
                    shared[v] = K::shared(simd, keys[v], lane[v]);
                }
                for element in 0..elements {
                    let mut lanes = [simd.splat_f32(0.0); V];
                    for v in 0..V {
                        lanes[v] = K::keys(simd, keys[v], element, lane[v], shared[v]);
                    }
                    for q in 0..Q {
                        let x = simd.splat_f32(*self.queries.add(q * self.head_dim + d + element));
                        for v in 0..V {
                            sums[q][v] = simd.add(sums[q][v], simd.mul(x, lanes[v]));
                        }
                    }
                }
                for v in 0..V {
                    // Behind the last block it stands at the tile's end or, after a part of one, beyond.
                    keys[v] = keys[v].wrapping_add(block_bytes);
                }
            }
            d += elements;
        }
        let scale = simd.splat_f32(self.scale);
        for q in 0..Q {
            for v in 0..V {
                let place = q * self.stride + (first + v) * S::LANES;
                // SAFETY: scores of query q.
                unsafe { simd.store_f32(self.scores.add(place), simd.mul(sums[q][v], scale)) };
            }
        }
    }
}

/// To dimensions `dimensions` of what is there for query i adds the sum over positions p below `counts[i]` of
/// `weights[i * stride + p]` times row p of the values, sequential over p, NaNs canonical.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(crate) fn values<S: Simd, K: Stored, const Q: usize, const V: usize>(
    simd: S,
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u8],
    head_dim: usize,
    dimensions: std::ops::Range<usize>,
    output: &mut [f32],
) {
    let width = dimensions.len();
    assert!(dimensions.end <= head_dim, "dimensions of a head");
    assert!(
        K::FORMAT == KvFormat::F16 || dimensions.start.is_multiple_of(KEY_LANES),
        "dimensions from a whole vector on"
    );
    assert_eq!(output.len(), counts.len() * width, "rows of output");
    let longest = counts.last().copied().unwrap_or(0);
    assert!(
        counts.is_sorted()
            && longest <= stride
            && (longest == 0 || weights.len() >= (counts.len() - 1) * stride + longest),
        "rows of weights"
    );
    let row_bytes = K::FORMAT.row_bytes(head_dim);
    assert!(values.len() >= longest * row_bytes, "rows of values");
    // Those that see no position.
    let mut query = counts.partition_point(|count| *count == 0);
    while query < counts.len() {
        let together = match counts.len() - query {
            left if left >= Q => Q,
            left if left >= FEW => FEW,
            _ => 1,
        };
        let block = Values {
            weights: weights[query * stride..].as_ptr(),
            stride,
            counts: &counts[query..query + together],
            values: values.as_ptr(),
            row_bytes,
            width,
            output: output[query * width..].as_mut_ptr(),
        };
        // SAFETY: lengths are asserted above; the queries and dimensions exist.
        let d = unsafe {
            if together == Q {
                block.run_all::<S, K, Q, V>(simd, dimensions.start)
            } else if together == FEW {
                block.run_all::<S, K, FEW, V>(simd, dimensions.start)
            } else {
                block.run_all::<S, K, 1, V>(simd, dimensions.start)
            }
        };
        if d < width {
            for q in query..query + together {
                let weights = weights[q * stride..].iter().take(counts[q]);
                let rows = weights.zip(values.chunks_exact(row_bytes));
                let output = &mut output[q * width + d..(q + 1) * width];
                weighted_sum(K::FORMAT, rows, dimensions.start + d, output);
            }
        }
        query += together;
    }
}

/// What a block of queries reads and writes.
#[derive(Clone, Copy)]
struct Values<'a> {
    weights: *const f32,
    stride: usize,
    counts: &'a [usize],
    values: *const u8,
    row_bytes: usize,
    width: usize,
    output: *mut f32,
}

impl Values<'_> {
    /// A vector of the row of values at `position`.
    ///
    /// # Safety
    /// It exists.
    #[inline(always)]
    unsafe fn row<S: Simd, K: Stored>(self, simd: S, position: usize, dimension: usize) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe { K::values(simd, self.values.add(position * self.row_bytes), dimension) }
    }

    /// All dimensions from `first` on that fill vectors, for `Q` queries; returns how many.
    ///
    /// # Safety
    /// The queries, their weights, the rows of values and the dimensions exist; the counts ascend.
    #[inline(always)]
    unsafe fn run_all<S: Simd, K: Stored, const Q: usize, const V: usize>(
        self,
        simd: S,
        first: usize,
    ) -> usize {
        let mut d = 0;
        // SAFETY: as the caller's.
        unsafe {
            while d + V * S::LANES <= self.width {
                self.run::<S, K, Q, V>(simd, first + d, d);
                d += V * S::LANES;
            }
            while d + S::LANES <= self.width {
                self.run::<S, K, Q, 1>(simd, first + d, d);
                d += S::LANES;
            }
        }
        d
    }

    /// `V` vectors of dimensions from `first` on, for `Q` queries, at `place` in their rows of output.
    ///
    /// # Safety
    /// The queries, their weights, the rows of values and the places exist; the counts ascend.
    #[inline(always)]
    unsafe fn run<S: Simd, K: Stored, const Q: usize, const V: usize>(
        self,
        simd: S,
        first: usize,
        place: usize,
    ) {
        let shared = self.counts[0];
        let mut sums = [[simd.splat_f32(0.0); V]; Q];
        // SAFETY: positions below the counts.
        unsafe {
            for q in 0..Q {
                for v in 0..V {
                    let place = q * self.width + place + v * S::LANES;
                    sums[q][v] = simd.load_f32(self.output.add(place));
                }
            }
            for position in 0..shared {
                let mut lanes = [simd.splat_f32(0.0); V];
                for v in 0..V {
                    lanes[v] = self.row::<S, K>(simd, position, first + v * S::LANES);
                }
                for q in 0..Q {
                    let weight = simd.splat_f32(*self.weights.add(q * self.stride + position));
                    for v in 0..V {
                        sums[q][v] = simd.add(sums[q][v], simd.mul(weight, lanes[v]));
                    }
                }
            }
            // The positions that only later queries see.
            for q in 0..Q {
                for position in shared..self.counts[q] {
                    let weight = simd.splat_f32(*self.weights.add(q * self.stride + position));
                    for v in 0..V {
                        let lanes = self.row::<S, K>(simd, position, first + v * S::LANES);
                        sums[q][v] = simd.add(sums[q][v], simd.mul(weight, lanes));
                    }
                }
            }
            for q in 0..Q {
                for v in 0..V {
                    let place = q * self.width + place + v * S::LANES;
                    simd.store_f32(self.output.add(place), simd.canonical(sums[q][v]));
                }
            }
        }
    }
}
