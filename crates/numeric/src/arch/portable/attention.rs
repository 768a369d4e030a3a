//! Attention over stored keys and values.

use crate::arch::KEY_LANES;
use crate::convert::canonical;
use crate::kv::{self, KvFormat};

/// Scores: sequential over the head's dimension, then times `scale`.
#[inline(always)]
pub(crate) fn scores(
    format: KvFormat,
    queries: &[f32],
    head_dim: usize,
    keys: &[u8],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let tile_bytes = KEY_LANES * format.row_bytes(head_dim);
    for (query, scores) in queries
        .chunks_exact(head_dim)
        .zip(scores.chunks_mut(stride))
    {
        for (tile, scores) in keys
            .chunks_exact(tile_bytes)
            .zip(scores.chunks_exact_mut(KEY_LANES))
        {
            for (lane, score) in scores.iter_mut().enumerate() {
                let mut sum = 0.0f32;
                for (dimension, x) in query.iter().enumerate() {
                    sum += x * kv::key(format, tile, dimension, lane);
                }
                *score = sum * scale;
            }
        }
    }
}

/// Weighted sums of values: sequential over positions.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub(crate) fn values(
    format: KvFormat,
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u8],
    head_dim: usize,
    dimensions: std::ops::Range<usize>,
    output: &mut [f32],
) {
    let outputs = output.chunks_exact_mut(dimensions.len().max(1));
    for (query, (count, output)) in counts.iter().zip(outputs).enumerate() {
        let weights = weights[query * stride..].iter().take(*count);
        let rows = values.chunks_exact(format.row_bytes(head_dim));
        weighted_sum(format, weights.zip(rows), dimensions.start, output);
    }
}

/// Adds weighted rows to elements `first..first + output.len()` of one query's sum.
#[inline(always)]
pub(crate) fn weighted_sum<'a>(
    format: KvFormat,
    rows: impl Iterator<Item = (&'a f32, &'a [u8])>,
    first: usize,
    output: &mut [f32],
) {
    for (weight, row) in rows {
        for (dimension, sum) in (first..).zip(&mut *output) {
            *sum += weight * kv::value(format, row, dimension);
        }
    }
    for sum in output {
        *sum = canonical(*sum);
    }
}
