//! Attention over stored keys and values: the kernels alone, and the whole of it.

use super::bits;
use crate::convert::f32_to_f16;
use crate::selftest::Generator;
use crate::{AttentionSegment, Kernels, KvFormat, KvLayer};
use std::num::NonZeroUsize;
use std::ops::Range;

/// A cache with `positions` stored.
fn cache(
    kernels: &Kernels,
    generator: &mut Generator,
    kv_heads: usize,
    head_dim: usize,
    positions: usize,
    capacity: usize,
) -> KvLayer {
    let mut cache = KvLayer::new(kv_heads, head_dim, capacity);
    for position in 0..positions {
        let key = generator.values(kv_heads * head_dim, 2.0);
        let value = generator.values(kv_heads * head_dim, 2.0);
        kernels.store_kv(&mut cache, position, &key, &value);
    }
    cache
}

/// What random queries of some positions read.
fn attend(
    kernels: &Kernels,
    generator: &mut Generator,
    cache: &KvLayer,
    heads: usize,
    positions: Range<usize>,
    window: Option<NonZeroUsize>,
) -> Vec<u32> {
    let rows = positions.len();
    let queries = generator.values(rows * heads * cache.head_dim(), 2.0);
    let mut output = vec![0.0; queries.len()];
    let segment = AttentionSegment {
        cache,
        first_position: positions.start,
        rows,
        window,
    };
    kernels.attention(&queries, heads, &[segment], &mut output);
    bits(&output)
}

pub(super) fn attention(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 32, 64, 64, 80, generator.between(1, 100)][generator.between(0, 5)];
    let (kv_heads, sharing) = (generator.between(1, 3), generator.between(1, 4));
    let (first_position, rows) = (generator.between(0, 90), generator.between(1, 15));
    let positions = first_position + rows;
    let capacity = positions + generator.between(0, 20);
    let cache = cache(kernels, generator, kv_heads, head_dim, positions, capacity);
    attend(
        kernels,
        generator,
        &cache,
        kv_heads * sharing,
        first_position..positions,
        None,
    )
}

/// Several texts in a batch, long ones among them, with rows from none to a few.
pub(super) fn attention_segments(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 24, 64][generator.between(0, 2)];
    let (kv_heads, sharing) = (generator.between(1, 2), generator.between(1, 4));
    let texts: Vec<(KvLayer, usize, usize)> = (0..generator.between(1, 3))
        .map(|_| {
            let first_position = [3, 70, 450][generator.between(0, 2)];
            let rows = generator.between(0, 3);
            let positions = first_position + rows;
            let cache = cache(kernels, generator, kv_heads, head_dim, positions, positions);
            (cache, first_position, rows)
        })
        .collect();
    let segments: Vec<AttentionSegment<'_>> = texts
        .iter()
        .map(|(cache, first_position, rows)| AttentionSegment {
            cache,
            first_position: *first_position,
            rows: *rows,
            window: None,
        })
        .collect();
    let rows: usize = segments.iter().map(|segment| segment.rows).sum();
    let heads = kv_heads * sharing;
    let queries = generator.values(rows * heads * head_dim, 2.0);
    let mut output = vec![0.0; queries.len()];
    kernels.attention(&queries, heads, &segments, &mut output);
    bits(&output)
}

/// Windows from a position to more than there are, on texts that are cut for threads and such that are not.
pub(super) fn attention_window(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 24, 64][generator.between(0, 2)];
    let (kv_heads, sharing) = (generator.between(1, 2), generator.between(1, 8));
    let first_position = [0, 5, 40, 450][generator.between(0, 3)];
    let rows = generator.between(1, 9);
    let window = [1, 3, 16, 33, 400, 1_000][generator.between(0, 5)];
    let positions = first_position + rows;
    let cache = cache(kernels, generator, kv_heads, head_dim, positions, positions);
    let window = NonZeroUsize::new(window);
    attend(
        kernels,
        generator,
        &cache,
        kv_heads * sharing,
        first_position..positions,
        window,
    )
}

pub(super) fn attention_q8(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    attention_quantized(kernels, generator, KvFormat::Q8)
}

pub(super) fn attention_q4(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    attention_quantized(kernels, generator, KvFormat::Q4)
}

/// What is stored and what is made of it, windows and long texts among them, on pages that were dropped and shared.
fn attention_quantized(kernels: &Kernels, generator: &mut Generator, format: KvFormat) -> Vec<u32> {
    let head_dim = 32 * generator.between(1, 3);
    let (kv_heads, sharing) = (generator.between(1, 2), generator.between(1, 4));
    let first_position = [0, 5, 70, 450][generator.between(0, 3)];
    let rows = generator.between(1, 9);
    let window = [1, 33, 1_000][generator.between(0, 2)];
    let (positions, width) = (first_position + rows, kv_heads * head_dim);
    let mut cache = KvLayer::with_capacity(format, kv_heads, head_dim, first_position);
    let mut store = |cache: &mut KvLayer, first: usize, rows: usize| {
        let limit = [1.0, 1e-6, 3e4][generator.between(0, 2)];
        let mut values = |_: usize| generator.ordinary(limit);
        let keys: Vec<f32> = (0..rows * width).map(&mut values).collect();
        let values: Vec<f32> = (0..rows * width).map(&mut values).collect();
        kernels.store_kv(cache, first, &keys, &values);
    };
    store(&mut cache, 0, first_position);
    cache.drop_before((first_position + 1).saturating_sub(window));
    let shared = cache.share(first_position).expect("the pool has no bounds");
    let mut cache = std::mem::replace(&mut cache, shared);
    let layers = std::slice::from_mut(&mut cache);
    let reserved = KvLayer::reserve(layers, first_position..positions);
    reserved.expect("the pool has no bounds");
    store(&mut cache, first_position, rows);
    let window = NonZeroUsize::new(window);
    attend(
        kernels,
        generator,
        &cache,
        kv_heads * sharing,
        first_position..positions,
        window,
    )
}

/// The kernel alone, with up to two blocks of queries.
pub(super) fn scores_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (queries, head_dim) = (generator.between(0, 8), generator.between(1, 40));
    let stride = 16 * generator.between(1, 7);
    let keys = halves(generator, stride * head_dim);
    scores(
        kernels,
        generator,
        KvFormat::F16,
        (queries, head_dim, stride),
        &keys,
    )
}

pub(super) fn scores_q8_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    scores_quantized(kernels, generator, KvFormat::Q8)
}

pub(super) fn scores_q4_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    scores_quantized(kernels, generator, KvFormat::Q4)
}

fn scores_quantized(kernels: &Kernels, generator: &mut Generator, format: KvFormat) -> Vec<u32> {
    let (queries, head_dim) = (generator.between(0, 8), 32 * generator.between(1, 4));
    let stride = 16 * generator.between(1, 7);
    let keys = stored(generator, format, stride, head_dim);
    scores(
        kernels,
        generator,
        format,
        (queries, head_dim, stride),
        &keys,
    )
}

fn scores(
    kernels: &Kernels,
    generator: &mut Generator,
    format: KvFormat,
    (queries, head_dim, stride): (usize, usize, usize),
    keys: &[u8],
) -> Vec<u32> {
    let queries = generator.values(queries * head_dim, 2.0);
    let mut scores = vec![0.0; queries.len() / head_dim * stride];
    crate::environment::assert_default();
    // SAFETY: the table of available kernels.
    unsafe {
        (kernels.table().scores(format))(&queries, head_dim, keys, 0.3, &mut scores, stride);
    }
    // Scores are only an intermediate result: their NaNs are not canonical.
    scores
        .iter()
        .map(|score| crate::convert::canonical(*score).to_bits())
        .collect()
}

/// The kernel alone, on a part of the dimensions.
pub(super) fn values_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (queries, head_dim) = (generator.between(0, 8), generator.between(1, 90));
    let mut counts: Vec<usize> = (0..queries).map(|_| generator.between(0, 60)).collect();
    counts.sort_unstable();
    let stride = counts.last().copied().unwrap_or(0) + generator.between(0, 3);
    let values = halves(generator, stride * head_dim);
    let weights = generator.values(queries * stride, 1.0);
    let first = generator.between(0, head_dim - 1);
    let dimensions = first..generator.between(first + 1, head_dim);
    let mut output = vec![0.0; queries * dimensions.len()];
    weighted_sums(
        kernels,
        KvFormat::F16,
        (&weights, stride, &counts),
        (&values, head_dim),
        dimensions,
        &mut output,
    );
    bits(&output)
}

pub(super) fn values_q8_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    values_quantized(kernels, generator, KvFormat::Q8)
}

pub(super) fn values_q4_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    values_quantized(kernels, generator, KvFormat::Q4)
}

/// On a part of the dimensions, and going on from sums that are there.
fn values_quantized(kernels: &Kernels, generator: &mut Generator, format: KvFormat) -> Vec<u32> {
    let (queries, blocks) = (generator.between(0, 8), generator.between(1, 4));
    let head_dim = 32 * blocks;
    let mut counts: Vec<usize> = (0..queries).map(|_| generator.between(0, 60)).collect();
    counts.sort_unstable();
    let stride = counts.last().copied().unwrap_or(0) + generator.between(0, 3);
    let values = stored(generator, format, stride, head_dim);
    let weights = generator.values(queries * stride, 1.0);
    let first = 32 * generator.between(0, blocks - 1);
    let dimensions = first..generator.between(first + 1, head_dim);
    let mut output = generator.values(queries * dimensions.len(), 3.0);
    for sum in &mut output {
        *sum = crate::convert::canonical(*sum);
    }
    weighted_sums(
        kernels,
        format,
        (&weights, stride, &counts),
        (&values, head_dim),
        dimensions,
        &mut output,
    );
    bits(&output)
}

fn weighted_sums(
    kernels: &Kernels,
    format: KvFormat,
    (weights, stride, counts): (&[f32], usize, &[usize]),
    (values, head_dim): (&[u8], usize),
    dimensions: Range<usize>,
    output: &mut [f32],
) {
    crate::environment::assert_default();
    // SAFETY: the table of available kernels.
    unsafe {
        (kernels.table().values(format))(
            weights, stride, counts, values, head_dim, dimensions, output,
        );
    }
}

fn halves(generator: &mut Generator, count: usize) -> Vec<u8> {
    let values = generator.values(count, 2.0);
    let halves = values.iter().map(|value| f32_to_f16(*value).to_le_bytes());
    halves.flatten().collect()
}

/// Positions in quantised blocks: any integers, ordinary f16 between them.
fn stored(
    generator: &mut Generator,
    format: KvFormat,
    positions: usize,
    head_dim: usize,
) -> Vec<u8> {
    let bytes = positions * format.row_bytes(head_dim);
    let mut stored: Vec<u8> = (0..bytes).map(|_| generator.bits() as u8).collect();
    // No f16 of the integers' bits is an infinity or NaN of its own payload, wherever it is read.
    for byte in &mut stored {
        if *byte & 0x7c == 0x7c {
            *byte ^= 0x40;
        }
    }
    stored
}
