//! Attention: lanes across 8 positions for scores, across the head's dimension for values.

use std::arch::x86_64::*;

use super::{canonical, load_f16, store};
use crate::arch::KEY_LANES;
use crate::arch::portable::attention::weighted_sum;

/// Queries in registers at a time; a block of six is two of these.
const QUERIES: usize = 3;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn scores_f16_f32(
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let mut blocks = queries.chunks_exact(QUERIES * head_dim);
    let mut scores = scores.chunks_mut(QUERIES * stride);
    for (queries, scores) in (&mut blocks).zip(&mut scores) {
        scores_block::<QUERIES>(queries, head_dim, keys, scale, scores, stride);
    }
    let rest = blocks.remainder();
    if let Some(scores) = scores.next() {
        match rest.len() / head_dim {
            1 => scores_block::<1>(rest, head_dim, keys, scale, scores, stride),
            2 => scores_block::<2>(rest, head_dim, keys, scale, scores, stride),
            count => assert_eq!(count, 0, "queries left over"),
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn scores_block<const Q: usize>(
    queries: &[f32],
    head_dim: usize,
    keys: &[u16],
    scale: f32,
    scores: &mut [f32],
    stride: usize,
) {
    let mut rows = [[].as_slice(); Q];
    for (row, query) in rows.iter_mut().zip(queries.chunks_exact(head_dim)) {
        *row = query;
    }
    let scale = _mm256_set1_ps(scale);
    for (tile, keys) in keys.chunks_exact(KEY_LANES * head_dim).enumerate() {
        let keys = keys.as_chunks::<KEY_LANES>().0;
        let mut sums = [[_mm256_setzero_ps(); 2]; Q];
        for (d, keys) in keys.iter().enumerate() {
            let halves = keys.as_chunks::<8>().0;
            let lanes = [load_f16(&halves[0]), load_f16(&halves[1])];
            for q in 0..Q {
                let x = _mm256_set1_ps(rows[q][d]);
                for half in 0..2 {
                    sums[q][half] = _mm256_add_ps(sums[q][half], _mm256_mul_ps(x, lanes[half]));
                }
            }
        }
        for q in 0..Q {
            let scores = &mut scores[q * stride + tile * KEY_LANES..][..KEY_LANES];
            for (scores, sum) in scores.as_chunks_mut::<8>().0.iter_mut().zip(&sums[q]) {
                store(scores, _mm256_mul_ps(*sum, scale));
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn values_f16_f32(
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    output: &mut [f32],
) {
    let blocks = weights.chunks(QUERIES * stride).zip(counts.chunks(QUERIES));
    for ((weights, counts), output) in blocks.zip(output.chunks_mut(QUERIES * head_dim)) {
        match counts.len() {
            1 => values_block::<1>(weights, stride, counts, values, head_dim, output),
            2 => values_block::<2>(weights, stride, counts, values, head_dim, output),
            count => {
                assert_eq!(count, QUERIES, "queries in a block");
                values_block::<QUERIES>(weights, stride, counts, values, head_dim, output);
            }
        }
    }
}

#[target_feature(enable = "avx2,f16c")]
fn values_block<const Q: usize>(
    weights: &[f32],
    stride: usize,
    counts: &[usize],
    values: &[u16],
    head_dim: usize,
    output: &mut [f32],
) {
    let mut rows = [[].as_slice(); Q];
    for (q, row) in rows.iter_mut().enumerate() {
        *row = &weights[q * stride..][..counts[q]];
    }
    let vectors = head_dim / 16 * 16;
    for first in (0..vectors).step_by(16) {
        values_columns(rows, values, head_dim, first, output);
    }
    if vectors < head_dim {
        for (weights, output) in rows.iter().zip(output.chunks_exact_mut(head_dim)) {
            weighted_sum(weights, values, head_dim, vectors, &mut output[vectors..]);
        }
    }
}

/// Elements `first..first + 16` of the weighted sums of all queries.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn values_columns<const Q: usize>(
    weights: [&[f32]; Q],
    values: &[u16],
    head_dim: usize,
    first: usize,
    output: &mut [f32],
) {
    let shared = weights[0].len();
    assert!(weights.iter().all(|weights| weights.len() >= shared));
    let mut sums = [[_mm256_setzero_ps(); 2]; Q];
    for position in 0..shared {
        let halves = values[position * head_dim + first..][..16]
            .as_chunks::<8>()
            .0;
        let lanes = [load_f16(&halves[0]), load_f16(&halves[1])];
        for q in 0..Q {
            let weight = _mm256_set1_ps(weights[q][position]);
            for half in 0..2 {
                sums[q][half] = _mm256_add_ps(sums[q][half], _mm256_mul_ps(weight, lanes[half]));
            }
        }
    }
    // The positions that only later queries see.
    for q in 0..Q {
        for (position, weight) in weights[q].iter().enumerate().skip(shared) {
            let halves = values[position * head_dim + first..][..16]
                .as_chunks::<8>()
                .0;
            for half in 0..2 {
                let product = _mm256_mul_ps(_mm256_set1_ps(*weight), load_f16(&halves[half]));
                sums[q][half] = _mm256_add_ps(sums[q][half], product);
            }
        }
    }
    for q in 0..Q {
        let output = &mut output[q * head_dim + first..][..16];
        for (output, sum) in output.as_chunks_mut::<8>().0.iter_mut().zip(&sums[q]) {
            store(output, canonical(*sum));
        }
    }
}
