//! Attention: lanes across 16 positions for scores, across the head's dimension for values.

use std::arch::x86_64::*;

use super::{canonical, load_f16};
use crate::arch::portable::attention::weighted_sum;
use crate::arch::{KEY_LANES, QUERY_BLOCK};

#[target_feature(enable = "avx512f")]
pub(super) fn scores_f16_f32(
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    match queries.len() / head_dim {
        1 => scores_block::<1>(queries, head_dim, keys, scale, scores, stride),
        2 => scores_block::<2>(queries, head_dim, keys, scale, scores, stride),
        3 => scores_block::<3>(queries, head_dim, keys, scale, scores, stride),
        4 => scores_block::<4>(queries, head_dim, keys, scale, scores, stride),
        5 => scores_block::<5>(queries, head_dim, keys, scale, scores, stride),
        count => {
            assert_eq!(count, QUERY_BLOCK, "queries in a block");
            scores_block::<QUERY_BLOCK>(queries, head_dim, keys, scale, scores, stride);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn scores_block<const Q: usize>(
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let (pairs, rest) = keys
        .as_chunks::<KEY_LANES>()
        .0
        .split_at(stride / KEY_LANES / 2 * 2 * head_dim);
    let queries: [&[f32]; Q] =
        std::array::from_fn(|query| &queries[query * head_dim..][..head_dim]);
    for (pair, keys) in pairs.chunks_exact(2 * head_dim).enumerate() {
        let (first, second) = keys.split_at(head_dim);
        scores_tiles(
            [first, second],
            queries,
            scale,
            &mut scores[pair * 2 * KEY_LANES..],
            stride,
        );
    }
    if !rest.is_empty() {
        scores_tiles(
            [rest],
            queries,
            scale,
            &mut scores[stride - KEY_LANES..],
            stride,
        );
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn scores_tiles<const T: usize, const Q: usize>(
    keys: [&[[u16; KEY_LANES]]; T],
    queries: [&[f32]; Q],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let head_dim = queries[0].len();
    assert!(
        keys.iter().all(|keys| keys.len() == head_dim)
            && queries.iter().all(|query| query.len() == head_dim)
    );
    let mut sums = [[_mm512_setzero_ps(); T]; Q];
    for d in 0..head_dim {
        let mut lanes = [_mm512_setzero_ps(); T];
        for (lanes, keys) in lanes.iter_mut().zip(keys) {
            *lanes = load_f16(&keys[d]);
        }
        for (sums, query) in sums.iter_mut().zip(queries) {
            let x = _mm512_set1_ps(query[d]);
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(x, lanes));
            }
        }
    }
    let scale = _mm512_set1_ps(scale);
    for (query, sums) in sums.iter().enumerate() {
        for (tile, sum) in sums.iter().enumerate() {
            super::store(
                &mut scores[query * stride + tile * KEY_LANES..][..KEY_LANES],
                _mm512_mul_ps(*sum, scale),
            );
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn values_f16_f32(
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    output: &mut [f32],
) {
    match counts.len() {
        1 => values_block::<1>(weights, stride, counts, values, head_dim, output),
        2 => values_block::<2>(weights, stride, counts, values, head_dim, output),
        3 => values_block::<3>(weights, stride, counts, values, head_dim, output),
        4 => values_block::<4>(weights, stride, counts, values, head_dim, output),
        5 => values_block::<5>(weights, stride, counts, values, head_dim, output),
        count => {
            assert_eq!(count, QUERY_BLOCK, "queries in a block");
            values_block::<QUERY_BLOCK>(weights, stride, counts, values, head_dim, output);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn values_block<const Q: usize>(
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    output: &mut [f32],
) {
    let weights: [&[f32]; Q] =
        std::array::from_fn(|query| &weights[query * stride..][..counts[query]]);
    let mut first = 0;
    while first + 32 <= head_dim {
        values_columns::<2, Q>(weights, values, head_dim, first, output);
        first += 32;
    }
    if first + 16 <= head_dim {
        values_columns::<1, Q>(weights, values, head_dim, first, output);
        first += 16;
    }
    if first < head_dim {
        for (weights, output) in weights.iter().zip(output.chunks_exact_mut(head_dim)) {
            weighted_sum(weights, values, head_dim, first, &mut output[first..]);
        }
    }
}

/// Elements `first..first + 16 * V` of the weighted sums of all queries.
#[inline]
#[target_feature(enable = "avx512f")]
fn values_columns<const V: usize, const Q: usize>(
    weights: [&[f32]; Q],
    values: &[u16],
    head_dim: usize,
    first: usize,
    output: &mut [f32],
) {
    let shared = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() >= shared));
    let row = |position: usize| &values[position * head_dim + first..][..16 * V];
    let mut sums = [[_mm512_setzero_ps(); V]; Q];
    for position in 0..shared {
        let mut lanes = [_mm512_setzero_ps(); V];
        for (lanes, values) in lanes.iter_mut().zip(row(position).as_chunks::<16>().0) {
            *lanes = load_f16(values);
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            let weight = _mm512_set1_ps(weights[position]);
            for (sum, lanes) in sums.iter_mut().zip(lanes) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(weight, lanes));
            }
        }
    }
    // The positions that only later queries see.
    for (sums, weights) in sums.iter_mut().zip(weights) {
        for (position, weight) in weights.iter().enumerate().skip(shared) {
            for (sum, values) in sums.iter_mut().zip(row(position).as_chunks::<16>().0) {
                *sum = _mm512_add_ps(
                    *sum,
                    _mm512_mul_ps(_mm512_set1_ps(*weight), load_f16(values)),
                );
            }
        }
    }
    for (query, sums) in sums.iter().enumerate() {
        for (vector, sum) in sums.iter().enumerate() {
            super::store(
                &mut output[query * head_dim + first + vector * 16..][..16],
                canonical(*sum),
            );
        }
    }
}
