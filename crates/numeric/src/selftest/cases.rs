//! The kernels and what is built of them, one function each from a generator to output bits.

mod scalars;

mod elementary;

use super::{Case, Generator};
use crate::arch::kernel_cases;
use crate::convert::{f16_to_f32, f32_to_f16};
use crate::elementary::HARD_EXP;
use crate::{
    ActivationFormat, AdaptedRows, AttentionSegment, Convolution, Factors, Kernels, KvFormat,
    KvLayer, LowRank, PackedMatrix, Pairs, QuantizedRows, Rope, Rotations, WeightFormat,
};
use std::num::NonZeroUsize;

/// A case per kernel, of the same name, and one for each thing that is built of several or of none.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    KERNELS.iter().chain(OTHERS)
}

const KERNELS: &[Case] = &kernel_cases!();

const OTHERS: &[Case] = &[
    Case {
        name: "read_row",
        run: read_row,
    },
    Case {
        name: "read_row_all",
        run: read_row_all,
    },
    Case {
        name: "read_row_codes",
        run: read_row_codes,
    },
    Case {
        name: "attention_f16_f32",
        run: attention,
    },
    Case {
        name: "attention_segments_f16_f32",
        run: attention_segments,
    },
    Case {
        name: "attention_window_f16_f32",
        run: attention_window,
    },
    Case {
        name: "attention_q8_f32",
        run: attention_q8,
    },
    Case {
        name: "attention_q4_f32",
        run: attention_q4,
    },
    Case {
        name: "scale_f32_f32",
        run: scale,
    },
    Case {
        name: "gated_convolution_f32_f32",
        run: gated_convolution,
    },
    Case {
        name: "convert_f16_f32",
        run: convert,
    },
    Case {
        name: "exp_scalar_f32_f32",
        run: elementary::exp,
    },
    Case {
        name: "sin_f32_f32",
        run: elementary::sin,
    },
    Case {
        name: "cos_f32_f32",
        run: elementary::cos,
    },
    Case {
        name: "log_f32_f32",
        run: elementary::log,
    },
    Case {
        name: "tanh_f32_f32",
        run: elementary::tanh,
    },
    Case {
        name: "erf_f32_f32",
        run: elementary::erf,
    },
    Case {
        name: "convert_bf16_f32",
        run: scalars::convert_bf16,
    },
    Case {
        name: "minimum_maximum_f32_f32",
        run: scalars::minimum_maximum,
    },
    Case {
        name: "float_to_integer",
        run: scalars::float_to_integer,
    },
    Case {
        name: "fixed_16",
        run: scalars::fixed_16,
    },
    Case {
        name: "fixed_32",
        run: scalars::fixed_32,
    },
    Case {
        name: "stochastic_rounding",
        run: scalars::stochastic,
    },
    Case {
        name: "exact_f32",
        run: scalars::exact_f32,
    },
    Case {
        name: "exact_f64",
        run: scalars::exact_f64,
    },
];

macro_rules! products {
    ($($name:ident: $format:ident),* $(,)?) => {
        $(fn $name(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
            matmul(kernels, generator, WeightFormat::$format)
        })*
    };
}
products!(
    matmul_q8_0_f32: Q8_0,
    matmul_q4_0_f32: Q4_0,
    matmul_q4_1_f32: Q4_1,
    matmul_q5_0_f32: Q5_0,
    matmul_q5_1_f32: Q5_1,
    matmul_q2_k_f32: Q2_K,
    matmul_q3_k_f32: Q3_K,
    matmul_q4_k_f32: Q4_K,
    matmul_q5_k_f32: Q5_K,
    matmul_q6_k_f32: Q6_K,
    matmul_int8_f32: Int8,
    matmul_iq4_nl_f32: IQ4_NL,
    matmul_iq4_xs_f32: IQ4_XS,
);

macro_rules! float_products {
    ($($name:ident: $format:ident),*) => {
        $(fn $name(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
            matmul_float(kernels, generator, WeightFormat::$format)
        })*
    };
}
float_products!(matmul_f32_f32: F32, matmul_f16_f32: F16, matmul_bf16_f32: Bf16);

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Random stored blocks: scales ordinary, or any f16 at all; quants of all values.
fn weights(
    generator: &mut Generator,
    format: WeightFormat,
    rows: usize,
    columns: usize,
) -> PackedMatrix {
    let row_bytes = format.row_bytes(columns).expect("whole blocks");
    let layout = format.layout();
    let bytes = match format {
        WeightFormat::F32 => generator
            .values(rows * columns, 2.0)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        WeightFormat::F16 => generator
            .values(rows * columns, 2.0)
            .iter()
            .flat_map(|value| f32_to_f16(*value).to_le_bytes())
            .collect(),
        WeightFormat::Bf16 => generator
            .values(rows * columns, 2.0)
            .iter()
            .flat_map(|value| (value.to_bits().to_le_bytes()).into_iter().skip(2))
            .collect(),
        WeightFormat::Int8 => {
            let mut bytes = generator.bytes(rows * row_bytes);
            for row in bytes.chunks_exact_mut(row_bytes) {
                let zero_point = generator.between(0, 255) as i32 - 128;
                let scale = generator.values(1, 0.1)[0];
                row[..4].copy_from_slice(&scale.to_le_bytes());
                row[4..8].copy_from_slice(&zero_point.to_le_bytes());
                if generator.between(0, 7) == 0 {
                    let extreme = [0x00, 0x7f, 0x80, 0xff][generator.between(0, 3)];
                    row[8..].fill(extreme);
                }
            }
            bytes
        }
        _ => {
            let mut bytes = generator.bytes(rows * row_bytes);
            let wild = generator.between(0, 7) == 0;
            for block in bytes.chunks_exact_mut(layout.block_bytes) {
                for &offset in layout.halves {
                    if !(wild && generator.between(0, 3) == 0) {
                        let scale = f32_to_f16(generator.ordinary(0.1));
                        block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
                    }
                }
                if generator.between(0, 15) == 0 {
                    let extreme = [0x00, 0x7f, 0x80, 0xff][generator.between(0, 3)];
                    for (offset, byte) in block.iter_mut().enumerate() {
                        let of_half = |half: &usize| (*half..half + 2).contains(&offset);
                        if !layout.halves.iter().any(of_half) {
                            *byte = extreme;
                        }
                    }
                }
            }
            bytes
        }
    };
    PackedMatrix::pack(format, rows, columns, &bytes).expect("the shape is right")
}

fn quantized(
    kernels: &Kernels,
    generator: &mut Generator,
    format: ActivationFormat,
    batch: usize,
    columns: usize,
) -> QuantizedRows {
    let mut values = generator.values(batch * columns, 8.0);
    match generator.between(0, 7) {
        // Quants of the largest magnitude everywhere: the bounds of the integer sums.
        0 => values
            .iter_mut()
            .for_each(|value| *value = 3.0f32.copysign(*value)),
        1 => values.fill(-3.0),
        // Subnormal scales, whose inverse may be infinite.
        2 => values
            .iter_mut()
            .for_each(|value| *value *= f32::from_bits(0x0000_0040)),
        _ => {}
    }
    let mut rows = QuantizedRows::default();
    kernels.quantize(format, &values, batch, columns, &mut rows);
    rows
}

/// Scales and quants, whatever the layout.
fn quantize(kernels: &Kernels, generator: &mut Generator, format: ActivationFormat) -> Vec<u32> {
    let block_len = format.block_len();
    let (batch, blocks) = (generator.between(1, 15), generator.between(1, 40));
    let rows = quantized(kernels, generator, format, batch, block_len * blocks);
    let mut output = Vec::new();
    for row in 0..batch {
        for block in 0..blocks {
            let (scale, quants) = rows.block(row, block);
            output.push(scale.to_bits());
            output.extend(quants.iter().map(|quant| i32::from(*quant) as u32));
        }
    }
    output
}

fn quantize_f32_i8_32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    quantize(kernels, generator, ActivationFormat::Blocks32)
}

fn quantize_f32_i8_256(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    quantize(kernels, generator, ActivationFormat::Blocks256)
}

fn matmul(kernels: &Kernels, generator: &mut Generator, format: WeightFormat) -> Vec<u32> {
    let blocks = if format.block_len() == 32 { 9 } else { 3 };
    let (rows, columns, batch) = (
        generator.between(1, 90),
        format.block_len() * generator.between(1, blocks),
        generator.between(1, 15),
    );
    let weights = weights(generator, format, rows, columns);
    let input = quantized(kernels, generator, format.activations(), batch, columns);
    let mut output = vec![0.0; batch * rows];
    kernels.matmul(&weights, &input, &mut output);
    bits(&output)
}

fn matmul_float(kernels: &Kernels, generator: &mut Generator, format: WeightFormat) -> Vec<u32> {
    let (rows, columns, batch) = (
        generator.between(1, 70),
        generator.between(1, 100),
        generator.between(1, 15),
    );
    let weights = weights(generator, format, rows, columns);
    let input = generator.values(batch * columns, 8.0);
    let mut output = vec![0.0; batch * rows];
    kernels.matmul_float(&weights, &input, batch, &mut output);
    bits(&output)
}

/// A product with something added to some of its rows, of the values that `narrow` makes of f32.
fn low_rank(
    kernels: &Kernels,
    generator: &mut Generator,
    columns: usize,
    narrow: fn(f32) -> f32,
) -> Vec<u32> {
    let (rows, batch) = (generator.between(1, 70), generator.between(1, 15));
    let weights = weights(generator, WeightFormat::F32, rows, columns);
    let input = generator.values(batch * columns, 8.0);
    let rank = generator.between(1, 40);
    let mut factors = |rank: usize| {
        let mut of = |count: usize| -> Vec<f32> {
            let values = generator.values(count * rank, 2.0);
            values.into_iter().map(narrow).collect()
        };
        let (a, b) = (of(columns), of(rows));
        let scale = generator.ordinary(2.0);
        let pair = Factors {
            a: &a,
            b: &b,
            rank,
            scale,
        };
        LowRank::pack(&[pair]).remove(0)
    };
    // Three texts: the first as it is, the others adapted.
    let (first, second) = (factors(rank), factors(rank));
    let cut = batch / 3;
    let adapted = [
        AdaptedRows {
            rows: cut..2 * cut,
            factors: &first,
        },
        AdaptedRows {
            rows: 2 * cut..batch,
            factors: &second,
        },
    ];
    let mut output = vec![0.0; batch * rows];
    kernels.matmul_adapted(&weights, None, &input, &adapted, &mut output);
    bits(&output)
}

/// Values that F16 has.
fn half(value: f32) -> f32 {
    f16_to_f32(f32_to_f16(value))
}

fn low_rank_down_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let columns = generator.between(1, 100);
    low_rank(kernels, generator, columns, |value| value)
}

fn low_rank_down_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let columns = generator.between(1, 100);
    low_rank(kernels, generator, columns, half)
}

fn low_rank_up_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    low_rank(kernels, generator, 1, |value| value)
}

fn low_rank_up_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    low_rank(kernels, generator, 1, half)
}

fn read_row(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (rows, columns) = (generator.between(1, 40), 32 * generator.between(1, 4));
    let formats = [WeightFormat::F32, WeightFormat::Q8_0, WeightFormat::Q4_1];
    read_rows(generator, rows, columns, &formats)
}

fn read_row_all(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (rows, columns) = (generator.between(1, 40), 256 * generator.between(1, 2));
    read_rows(generator, rows, columns, &WeightFormat::ALL[..14])
}

fn read_row_codes(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (rows, columns) = (generator.between(1, 40), 256 * generator.between(1, 2));
    let formats = [WeightFormat::IQ4_NL, WeightFormat::IQ4_XS];
    read_rows(generator, rows, columns, &formats)
}

fn read_rows(
    generator: &mut Generator,
    rows: usize,
    columns: usize,
    formats: &[WeightFormat],
) -> Vec<u32> {
    let mut output = vec![0.0; columns];
    let mut all = Vec::new();
    for format in formats {
        let weights = weights(generator, *format, rows, columns);
        weights.read_row(generator.between(0, rows - 1), &mut output);
        all.extend(bits(&output));
    }
    all
}

fn rms_norm_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (batch, columns) = (generator.between(1, 12), generator.between(1, 1200));
    let weight = generator.values(columns, 2.0);
    let input = generator.values(batch * columns, 8.0);
    let mut output = vec![0.0; batch * columns];
    kernels.rms_norm(&input, &weight, 1e-5, batch, &mut output);
    bits(&output)
}

fn rope_interleaved_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    rope(kernels, generator, Pairs::Interleaved)
}

fn rope_halves_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    rope(kernels, generator, Pairs::Halves)
}

fn rope(kernels: &Kernels, generator: &mut Generator, pairs: Pairs) -> Vec<u32> {
    let (dimension, heads, batch) = (
        2 * generator.between(1, 40),
        generator.between(1, 9),
        generator.between(1, 15),
    );
    let first = generator.between(0, 20);
    let base = [10_000.0, 100_000.0, 500_000.0, 1_000_000.0][generator.between(0, 3)];
    let rope = Rope::new(dimension, base, None);
    let mut values = generator.values(batch * heads * dimension, 8.0);
    let positions: Vec<usize> = (first..first + batch).collect();
    let mut rotations = Rotations::default();
    kernels.rotations(&rope, &positions, &mut rotations);
    kernels.rope(&rotations, pairs, &mut values, heads);
    bits(&values)
}

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

fn attention(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 32, 64, 64, 80, generator.between(1, 100)][generator.between(0, 5)];
    let (kv_heads, sharing) = (generator.between(1, 3), generator.between(1, 4));
    let (first_position, rows) = (generator.between(0, 90), generator.between(1, 15));
    let positions = first_position + rows;
    let capacity = positions + generator.between(0, 20);
    let cache = cache(kernels, generator, kv_heads, head_dim, positions, capacity);
    let heads = kv_heads * sharing;
    let queries = generator.values(rows * heads * head_dim, 2.0);
    let mut output = vec![0.0; queries.len()];
    let segment = AttentionSegment {
        cache: &cache,
        first_position,
        rows,
        window: None,
    };
    kernels.attention(&queries, heads, &[segment], &mut output);
    bits(&output)
}

/// Several texts in a batch, long ones among them, with rows from none to a few.
fn attention_segments(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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
fn attention_window(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 24, 64][generator.between(0, 2)];
    let (kv_heads, sharing) = (generator.between(1, 2), generator.between(1, 8));
    let first_position = [0, 5, 40, 450][generator.between(0, 3)];
    let rows = generator.between(1, 9);
    let window = [1, 3, 16, 33, 400, 1_000][generator.between(0, 5)];
    let positions = first_position + rows;
    let cache = cache(kernels, generator, kv_heads, head_dim, positions, positions);
    let heads = kv_heads * sharing;
    let queries = generator.values(rows * heads * head_dim, 2.0);
    let mut output = vec![0.0; queries.len()];
    let segment = AttentionSegment {
        cache: &cache,
        first_position,
        rows,
        window: NonZeroUsize::new(window),
    };
    kernels.attention(&queries, heads, &[segment], &mut output);
    bits(&output)
}

fn attention_q8(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    attention_quantized(kernels, generator, KvFormat::Q8)
}

fn attention_q4(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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
    let heads = kv_heads * sharing;
    let queries = generator.values(rows * heads * head_dim, 2.0);
    let mut output = vec![0.0; queries.len()];
    let segment = AttentionSegment {
        cache: &cache,
        first_position,
        rows,
        window: NonZeroUsize::new(window),
    };
    kernels.attention(&queries, heads, &[segment], &mut output);
    bits(&output)
}

/// The kernel alone, with up to two blocks of queries.
fn scores_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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

fn scores_q8_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    scores_quantized(kernels, generator, KvFormat::Q8)
}

fn scores_q4_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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
fn values_f16_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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

fn values_q8_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    values_quantized(kernels, generator, KvFormat::Q8)
}

fn values_q4_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
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
    dimensions: std::ops::Range<usize>,
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

fn exp_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(0, 4000);
    let mut values: Vec<f32> = (0..count)
        .map(|index| match index % 3 {
            0 => generator.any(),
            1 => generator.ordinary(100.0),
            _ => f32::from_bits(HARD_EXP[generator.between(0, 7)]),
        })
        .collect();
    kernels.exp(&mut values);
    bits(&values)
}

fn narrow_f32_f16(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(0, 300);
    let limit = [1.0, 1e-7, 70_000.0][generator.between(0, 2)];
    let values = generator.values(count, limit);
    let mut output = vec![0; count];
    // SAFETY: the table of available kernels.
    unsafe { (kernels.table().narrow_f32_f16)(&values, &mut output) };
    output.into_iter().map(u32::from).collect()
}

fn softmax_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let limit = [1.0, 20.0, 200.0][generator.between(0, 2)];
    let mut values = generator.values(count, limit);
    kernels.softmax(&mut values);
    bits(&values)
}

fn silu_mul_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 20_000);
    let limit = [1.0, 20.0, 200.0][generator.between(0, 2)];
    let mut gate = generator.values(count, limit);
    let up = generator.values(count, 8.0);
    kernels.silu_mul(&mut gate, &up);
    bits(&gate)
}

fn gelu_mul_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 20_000);
    let limit = [1.0, 8.0, 200.0][generator.between(0, 2)];
    let mut gate = generator.values(count, limit);
    let up = generator.values(count, 8.0);
    kernels.gelu_mul(&mut gate, &up);
    bits(&gate)
}

fn scale(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let mut values = generator.values(count, 8.0);
    kernels.scale(&mut values, generator.values(1, 30.0)[0]);
    bits(&values)
}

fn add_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let mut sums = generator.values(count, 8.0);
    kernels.add(&mut sums, &generator.values(count, 8.0));
    bits(&sums)
}

fn mul_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let mut values = generator.values(count, 8.0);
    kernels.mul(&mut values, &generator.values(count, 8.0));
    bits(&values)
}

fn mul_add_f32_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let [mut sums, a, b] = [8.0; 3].map(|limit| generator.values(count, limit));
    crate::environment::assert_default();
    // SAFETY: the table of available kernels.
    unsafe { (kernels.table().mul_add_f32_f32)(&mut sums, &a, &b) };
    // Sums are only an intermediate result: their NaNs are not canonical.
    sums.iter()
        .map(|sum| crate::convert::canonical(*sum).to_bits())
        .collect()
}

/// Rows in parts, as chunks of a prompt are.
fn gated_convolution(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (channels, taps) = (generator.between(1, 90), generator.between(1, 5));
    let weight = generator.values(channels * taps, 2.0);
    let convolution = Convolution::new(&weight, channels);
    let mut history = generator.values((taps - 1) * channels, 2.0);
    let mut next = history.clone();
    let mut all = Vec::new();
    for _ in 0..3 {
        let rows = generator.between(1, 9);
        let input = generator.values(rows * 3 * channels, 4.0);
        let mut output = vec![0.0; rows * channels];
        kernels.gated_convolution(&convolution, &input, &history, &mut next, &mut output);
        std::mem::swap(&mut history, &mut next);
        all.extend(bits(&output));
    }
    all
}

fn convert(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    (0..2000)
        .map(|_| {
            let narrow = u32::from(f32_to_f16(generator.any()));
            narrow << 16 ^ f16_to_f32(generator.bits() as u16).to_bits()
        })
        .collect()
}
