//! The portable kernels against contract 1 written out naively, from the stored bytes, with none of the crate's layouts.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::convert::{f16_to_f32, f32_to_f16};
use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    Isa, Kernels, KvLayer, PackError, PackedMatrix, Pool, QuantizedRows, WeightFormat, elementary,
};

fn kernels() -> Kernels {
    Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap()
}

fn values(generator: &mut Generator, count: usize) -> Vec<f32> {
    (0..count).map(|_| generator.ordinary(3.0)).collect()
}

fn assert_bits(actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len());
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(
            actual.to_bits(),
            expected.to_bits(),
            "at {index}: {actual:e} instead of {expected:e}"
        );
    }
}

/// Random blocks with ordinary scales.
fn blocks(generator: &mut Generator, format: WeightFormat, rows: usize, columns: usize) -> Vec<u8> {
    let mut bytes = generator.bytes(rows * format.row_bytes(columns).unwrap());
    let (block, scales) = if format == WeightFormat::Q8_0 {
        (34, 1)
    } else {
        (20, 2)
    };
    for block in bytes.chunks_exact_mut(block) {
        for scale in block.chunks_exact_mut(2).take(scales) {
            scale.copy_from_slice(&f32_to_f16(generator.ordinary(0.1)).to_le_bytes());
        }
    }
    bytes
}

/// Scale, minimum and quants of a stored block.
fn unpack(format: WeightFormat, block: &[u8]) -> (f32, f32, [i32; 32]) {
    let f16 = |offset: usize| f16_to_f32(u16::from_le_bytes([block[offset], block[offset + 1]]));
    match format {
        WeightFormat::Q8_0 => (
            f16(0),
            0.0,
            std::array::from_fn(|k| i32::from(block[2 + k] as i8)),
        ),
        _ => {
            let nibble = |k: usize| {
                if k < 16 {
                    block[4 + k] & 15
                } else {
                    block[4 + k - 16] >> 4
                }
            };
            (
                f16(0),
                f16(2),
                std::array::from_fn(|k| i32::from(nibble(k))),
            )
        }
    }
}

/// Scale and quants of a block of activations.
fn quantize(values: &[f32]) -> (f32, [i32; 32]) {
    let largest = values
        .iter()
        .fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    (
        scale,
        std::array::from_fn(|k| (values[k] * inverse).round_ties_even() as i32),
    )
}

#[test]
fn quantised_products_follow_the_block_chain() {
    let (mut generator, kernels) = (Generator::new(1), kernels());
    for format in [WeightFormat::Q8_0, WeightFormat::Q4_1] {
        for (rows, columns, batch) in [(1, 32, 1), (16, 64, 2), (35, 96, 7), (48, 160, 13)] {
            let bytes = blocks(&mut generator, format, rows, columns);
            let input = values(&mut generator, batch * columns);
            let weights = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
            let mut quantized = QuantizedRows::default();
            kernels.quantize(&input, batch, columns, &mut quantized);
            let mut output = vec![0.0; batch * rows];
            kernels.matmul(&weights, &quantized, &mut output);

            let row_bytes = format.row_bytes(columns).unwrap();
            let mut expected = Vec::new();
            for input in input.chunks(columns) {
                for row in bytes.chunks(row_bytes) {
                    let mut sum = 0.0f32;
                    for (block, values) in
                        row.chunks(row_bytes / (columns / 32)).zip(input.chunks(32))
                    {
                        let (scale, minimum, quants) = unpack(format, block);
                        let (activation_scale, activations) = quantize(values);
                        let dot: i32 = quants.iter().zip(&activations).map(|(w, x)| w * x).sum();
                        sum += dot as f32 * (scale * activation_scale);
                        if format == WeightFormat::Q4_1 {
                            sum += minimum
                                * (activation_scale * activations.iter().sum::<i32>() as f32);
                        }
                    }
                    expected.push(sum);
                }
            }
            assert_bits(&output, &expected);

            let mut row = vec![0.0; columns];
            weights.read_row(rows - 1, &mut row);
            let last = bytes[bytes.len() - row_bytes..].chunks(row_bytes / (columns / 32));
            let expected: Vec<f32> = last
                .flat_map(|block| {
                    let (scale, minimum, quants) = unpack(format, block);
                    quants.map(|quant| scale * quant as f32 + minimum)
                })
                .collect();
            assert_eq!(row, expected);
        }
    }
}

#[test]
fn f32_products_are_sequential() {
    let (mut generator, kernels) = (Generator::new(2), kernels());
    let (rows, columns, batch) = (21, 37, 8);
    let (matrix, input) = (
        values(&mut generator, rows * columns),
        values(&mut generator, batch * columns),
    );
    let bytes: Vec<u8> = matrix
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let weights = PackedMatrix::pack(WeightFormat::F32, rows, columns, &bytes).unwrap();
    let mut output = vec![0.0; batch * rows];
    kernels.matmul_f32(&weights, &input, batch, &mut output);
    let mut expected = Vec::new();
    for input in input.chunks(columns) {
        for row in matrix.chunks(columns) {
            expected.push(
                row.iter()
                    .zip(input)
                    .fold(0.0f32, |sum, (w, x)| sum + w * x),
            );
        }
    }
    assert_bits(&output, &expected);
}

/// The element at position p to lane p mod 16, folded 8, 4, 2, 1.
fn lanes16(terms: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 16];
    terms
        .enumerate()
        .for_each(|(p, term)| lanes[p % 16] += term);
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

#[test]
fn rms_norm_and_silu_follow_their_formulas() {
    let (mut generator, kernels) = (Generator::new(3), kernels());
    let (x, w) = (values(&mut generator, 45), values(&mut generator, 45));
    let mut output = vec![0.0; 45];
    kernels.rms_norm(&x, &w, 1e-5, 1, &mut output);
    let r = 1.0 / (lanes16(x.iter().map(|x| x * x)) / 45.0 + 1e-5).sqrt();
    let expected: Vec<f32> = x.iter().zip(&w).map(|(x, w)| (x * r) * w).collect();
    assert_bits(&output, &expected);

    let mut gate = x.clone();
    kernels.silu_mul(&mut gate, &w);
    let expected: Vec<f32> = x
        .iter()
        .zip(&w)
        .map(|(x, w)| (x / (1.0 + elementary::exp(-x))) * w)
        .collect();
    assert_bits(&gate, &expected);
}

#[test]
fn attention_reads_stored_positions_in_order() {
    let (mut generator, kernels) = (Generator::new(4), kernels());
    let (kv_heads, sharing, head_dim, positions) = (2, 3, 20, 37);
    let (keys, stored) = (
        values(&mut generator, positions * kv_heads * head_dim),
        kv_heads * head_dim,
    );
    let contents = values(&mut generator, keys.len());
    let mut cache = KvLayer::new(kv_heads, head_dim, positions);
    for p in 0..positions {
        cache.store(
            p,
            &keys[p * stored..][..stored],
            &contents[p * stored..][..stored],
        );
    }
    let narrow = |x: f32| f16_to_f32(f32_to_f16(x));
    let (heads, batch) = (kv_heads * sharing, 9);
    let first = positions - batch;
    let queries = values(&mut generator, batch * heads * head_dim);
    let mut output = vec![0.0; queries.len()];
    kernels.attention(&queries, heads, &cache, first, &mut output);

    let mut expected = Vec::new();
    for (index, query) in queries.chunks(head_dim).enumerate() {
        let (b, h) = (index / heads, index % heads);
        let offset = |p: usize| p * stored + h / sharing * head_dim;
        let seen = first + b + 1;
        let scores: Vec<f32> = (0..seen)
            .map(|p| {
                let key = &keys[offset(p)..][..head_dim];
                let dot = query
                    .iter()
                    .zip(key)
                    .fold(0.0f32, |sum, (x, k)| sum + x * narrow(*k));
                dot * (1.0 / (head_dim as f32).sqrt())
            })
            .collect();
        let maximum = scores.iter().fold(f32::MIN, |maximum, x| maximum.max(*x));
        let weights: Vec<f32> = scores
            .iter()
            .map(|x| elementary::exp(x - maximum))
            .collect();
        let sum = lanes16(weights.iter().copied());
        for d in 0..head_dim {
            expected.push((0..seen).fold(0.0f32, |acc, p| {
                acc + (weights[p] / sum) * narrow(contents[offset(p) + d])
            }));
        }
    }
    assert_bits(&output, &expected);
}

#[test]
fn matrices_of_a_wrong_shape_are_refused() {
    let pack = |format, rows, columns, length| {
        PackedMatrix::pack(format, rows, columns, &vec![0; length]).unwrap_err()
    };
    assert_eq!(
        pack(WeightFormat::Q8_0, 1, 33, 34),
        PackError::PartialBlock {
            format: WeightFormat::Q8_0,
            block_len: 32,
            columns: 33
        }
    );
    assert_eq!(
        pack(WeightFormat::Q4_1, 2, 64, 79),
        PackError::Length {
            format: WeightFormat::Q4_1,
            expected: 80,
            actual: 79
        }
    );
    assert_eq!(
        pack(WeightFormat::F32, 0, 4, 0),
        PackError::Shape {
            rows: 0,
            columns: 4
        }
    );
    assert_eq!(
        pack(WeightFormat::F32, usize::MAX, 4, 0),
        PackError::Shape {
            rows: usize::MAX,
            columns: 4
        }
    );
    assert_eq!(WeightFormat::Q8_0.row_bytes(33), None);
}
