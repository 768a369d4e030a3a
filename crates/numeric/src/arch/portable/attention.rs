//! Attention over stored f16 keys and values.

use crate::arch::KEY_LANES;
use crate::convert::{canonical, f16_to_f32};

/// Scores: sequential over the head's dimension, then times `scale`.
pub(crate) fn scores_f16_f32(
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    for (query, scores) in queries
        .chunks_exact(head_dim)
        .zip(scores.chunks_mut(stride))
    {
        for (tile, scores) in keys
            .chunks_exact(head_dim * KEY_LANES)
            .zip(scores.chunks_exact_mut(KEY_LANES))
        {
            for (lane, score) in scores.iter_mut().enumerate() {
                let mut sum = 0.0f32;
                for (d, x) in query.iter().enumerate() {
                    sum += x * f16_to_f32(tile[d * KEY_LANES + lane]);
                }
                *score = sum * scale;
            }
        }
    }
}

/// Weighted sums of values: sequential over positions.
pub(crate) fn values_f16_f32(
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    dimensions: std::ops::Range<usize>,
    output: &mut [f32],
) {
    let outputs = output.chunks_exact_mut(dimensions.len().max(1));
    for (query, (count, output)) in counts.iter().zip(outputs).enumerate() {
        let weights = &weights[query * stride..][..*count];
        weighted_sum(weights, values, head_dim, dimensions.start, output);
    }
}

/// Elements `first..first + output.len()` of one query's weighted sum.
pub(crate) fn weighted_sum(
    weights: &[f32],
    values: &[u16],
    head_dim: usize,
    first: usize,
    output: &mut [f32],
) {
    output.fill(0.0);
    for (weight, row) in weights.iter().zip(values.chunks_exact(head_dim)) {
        for (sum, value) in output.iter_mut().zip(&row[first..]) {
            *sum += weight * f16_to_f32(*value);
        }
    }
    for sum in output {
        *sum = canonical(*sum);
    }
}
