//! Attention over stored f16 keys and values: lanes across positions for scores, across the head's dimension for
//! values. `Q` queries and `V` vectors are in registers together; every query's operations are those it would have
//! alone.

use super::Simd;
use crate::arch::KEY_LANES;
use crate::arch::portable::attention::weighted_sum;

/// Queries in registers together when there are fewer than `Q`: those of a head group of small models.
const FEW: usize = 3;

/// Scores of some queries against whole tiles of keys: sequential over the dimension, then times `scale`.
#[inline(always)]
pub(crate) fn scores<S: Simd, const Q: usize, const V: usize>(
    simd: S,
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let count = queries.len() / head_dim;
    assert_eq!(queries.len(), count * head_dim, "whole queries");
    assert!(
        scores.len() >= count * stride && stride.is_multiple_of(KEY_LANES),
        "rows of scores"
    );
    assert_eq!(keys.len(), stride * head_dim, "whole tiles of keys");
    let vectors = stride / S::LANES;
    let mut query = 0;
    while query < count {
        let (x, y) = (
            queries[query * head_dim..].as_ptr(),
            scores[query * stride..].as_mut_ptr(),
        );
        let block = Scores {
            head_dim,
            keys: keys.as_ptr(),
            scale,
            stride,
            queries: x,
            scores: y,
        };
        // SAFETY: lengths are asserted above; the queries and vectors exist.
        unsafe {
            if count - query >= Q {
                block.run_all::<S, Q, V>(simd, vectors);
                query += Q;
            } else if count - query >= FEW {
                block.run_all::<S, FEW, V>(simd, vectors);
                query += FEW;
            } else {
                block.run_all::<S, 1, V>(simd, vectors);
                query += 1;
            }
        }
    }
}

/// What a block of queries reads and writes.
#[derive(Clone, Copy)]
struct Scores {
    head_dim: usize,
    keys: *const u16,
    scale: f32,
    stride: usize,
    queries: *const f32,
    scores: *mut f32,
}

impl Scores {
    /// # Safety
    /// `Q` queries and rows of scores, and `vectors` vectors of positions, exist.
    #[inline(always)]
    unsafe fn run_all<S: Simd, const Q: usize, const V: usize>(self, simd: S, vectors: usize) {
        let whole = vectors / V * V;
        // SAFETY: as the caller's.
        unsafe {
            for first in (0..whole).step_by(V) {
                self.run::<S, Q, V>(simd, first);
            }
            for first in whole..vectors {
                self.run::<S, Q, 1>(simd, first);
            }
        }
    }

    /// # Safety
    /// `Q` queries and rows of scores, and `V` vectors of positions from `first` on, exist.
    #[inline(always)]
    unsafe fn run<S: Simd, const Q: usize, const V: usize>(self, simd: S, first: usize) {
        let mut keys = [std::ptr::null::<u8>(); V];
        for v in 0..V {
            let position = (first + v) * S::LANES;
            let tile = position / KEY_LANES * KEY_LANES * self.head_dim;
            // SAFETY: in the tile of that position.
            keys[v] = unsafe { self.keys.add(tile + position % KEY_LANES).cast() };
        }
        let mut sums = [[simd.splat_f32(0.0); V]; Q];
        for d in 0..self.head_dim {
            // SAFETY: dimension d of the tiles and of the queries.
            unsafe {
                let mut lanes = [simd.splat_f32(0.0); V];
                for v in 0..V {
                    lanes[v] = simd.load_f16(keys[v].add(d * KEY_LANES * 2));
                }
                for q in 0..Q {
                    let x = simd.splat_f32(*self.queries.add(q * self.head_dim + d));
                    for v in 0..V {
                        sums[q][v] = simd.add(sums[q][v], simd.mul(x, lanes[v]));
                    }
                }
            }
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

/// For query i the dimensions `dimensions` of the sum over positions p below `counts[i]` of `weights[i * stride + p]`
/// times row p of the values, sequential over p, NaNs canonical.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(crate) fn values<S: Simd, const Q: usize, const V: usize>(
    simd: S,
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    dimensions: std::ops::Range<usize>,
    output: &mut [f32],
) {
    let width = dimensions.len();
    assert!(dimensions.end <= head_dim, "dimensions of a head");
    assert_eq!(output.len(), counts.len() * width, "rows of output");
    let longest = counts.last().copied().unwrap_or(0);
    assert!(
        counts.is_sorted() && longest <= stride && weights.len() >= counts.len() * stride,
        "rows of weights"
    );
    assert!(values.len() >= longest * head_dim, "rows of values");
    let mut query = 0;
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
            head_dim,
            width,
            output: output[query * width..].as_mut_ptr(),
        };
        // SAFETY: lengths are asserted above; the queries and dimensions exist.
        let d = unsafe {
            if together == Q {
                block.run_all::<S, Q, V>(simd, dimensions.start)
            } else if together == FEW {
                block.run_all::<S, FEW, V>(simd, dimensions.start)
            } else {
                block.run_all::<S, 1, V>(simd, dimensions.start)
            }
        };
        if d < width {
            for q in query..query + together {
                let weights = &weights[q * stride..][..counts[q]];
                let output = &mut output[q * width + d..(q + 1) * width];
                weighted_sum(weights, values, head_dim, dimensions.start + d, output);
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
    values: *const u16,
    head_dim: usize,
    width: usize,
    output: *mut f32,
}

impl Values<'_> {
    /// A vector of the row of values at `position`.
    ///
    /// # Safety
    /// It exists.
    #[inline(always)]
    unsafe fn row<S: Simd>(self, simd: S, position: usize, dimension: usize) -> S::F32 {
        // SAFETY: as the caller's.
        unsafe { simd.load_f16(self.values.add(position * self.head_dim + dimension).cast()) }
    }

    /// All dimensions from `first` on that fill vectors, for `Q` queries; returns how many.
    ///
    /// # Safety
    /// The queries, their weights, the rows of values and the dimensions exist; the counts ascend.
    #[inline(always)]
    unsafe fn run_all<S: Simd, const Q: usize, const V: usize>(
        self,
        simd: S,
        first: usize,
    ) -> usize {
        let mut d = 0;
        // SAFETY: as the caller's.
        unsafe {
            while d + V * S::LANES <= self.width {
                self.run::<S, Q, V>(simd, first + d, d);
                d += V * S::LANES;
            }
            while d + S::LANES <= self.width {
                self.run::<S, Q, 1>(simd, first + d, d);
                d += S::LANES;
            }
        }
        d
    }

    /// `V` vectors of dimensions from `first` on, for `Q` queries, to `place` in their rows of output.
    ///
    /// # Safety
    /// The queries, their weights, the rows of values and the places exist; the counts ascend.
    #[inline(always)]
    unsafe fn run<S: Simd, const Q: usize, const V: usize>(
        self,
        simd: S,
        first: usize,
        place: usize,
    ) {
        let shared = self.counts[0];
        let mut sums = [[simd.splat_f32(0.0); V]; Q];
        // SAFETY: positions below the counts.
        unsafe {
            for position in 0..shared {
                let mut lanes = [simd.splat_f32(0.0); V];
                for v in 0..V {
                    lanes[v] = self.row(simd, position, first + v * S::LANES);
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
                        let lanes = self.row(simd, position, first + v * S::LANES);
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
