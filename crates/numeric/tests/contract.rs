//! The portable kernels against contract 1 written out naively, from the stored bytes, with none of the crate's layouts.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::convert::{f16_to_f32, f32_to_f16};
use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    AttentionSegment, Isa, Kernels, KvFormat, KvLayer, PackError, PackedMatrix, Pool,
    QuantizedRows, WeightFormat, elementary,
};

/// What nibbles stand for in IQ4_NL and IQ4_XS.
const CODES: [i32; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

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

/// A stored block, unpacked from the formats' definitions.
struct Stored {
    scale: f32,
    minimum: f32,
    /// Quants, offsets and zero-points subtracted, with the integer scale of their sub-block.
    quants: Vec<(i32, i32)>,
    /// Integer minima, one per quant.
    minima: Vec<i32>,
}

fn half(bytes: &[u8], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]))
}

/// Six-bit scale and minimum j of Q4_K and Q5_K: twelve bytes hold the low six, four and four bits of each.
fn six_bits(packed: &[u8], j: usize) -> (i32, i32) {
    let byte = |index: usize| i32::from(packed[index]);
    if j < 4 {
        (byte(j) % 64, byte(j + 4) % 64)
    } else {
        (
            byte(j + 4) % 16 + byte(j - 4) / 64 * 16,
            byte(j + 4) / 16 + byte(j) / 64 * 16,
        )
    }
}

fn unpack(format: WeightFormat, row: &[u8], block: usize) -> Stored {
    let (length, bytes) = match format {
        WeightFormat::Int8 => (32, &row[8 + block * 32..][..32]),
        _ => {
            let length = format.row_bytes(format.block_len()).unwrap();
            (format.block_len(), &row[block * length..][..length])
        }
    };
    // A place in packed integers of 4, 2 or 1 bits.
    let bits =
        |offset: usize, shift: usize, width: u32| i32::from(bytes[offset] >> shift) % (1 << width);
    let element = |k: usize| -> (i32, i32, i32) {
        let nibble = |first: usize| bits(first + k % 16, k / 16 * 4, 4);
        // Superblocks: 128 elements share 32 bytes of two-bit places, 64 share 32 bytes of nibbles.
        let two = |first: usize| bits(first + k / 128 * 32 + k % 32, k / 32 % 4 * 2, 2);
        let four = |first: usize| bits(first + k / 64 * 32 + k % 32, k / 32 % 2 * 4, 4);
        match format {
            WeightFormat::Q8_0 => (i32::from(bytes[2 + k] as i8), 1, 0),
            WeightFormat::Int8 => {
                let zero_point = i32::from_le_bytes([row[4], row[5], row[6], row[7]]);
                (i32::from(bytes[k] as i8) - zero_point, 1, 0)
            }
            WeightFormat::Q4_0 => (nibble(2) - 8, 1, 0),
            WeightFormat::Q4_1 => (nibble(4), 1, 0),
            WeightFormat::IQ4_NL => (CODES[nibble(2) as usize], 1, 0),
            WeightFormat::IQ4_XS => {
                let j = k / 32;
                let code = bits(8 + j * 16 + k % 16, k / 16 % 2 * 4, 4);
                let scale = bits(4 + j / 2, j % 2 * 4, 4) + 16 * bits(2 + j / 4, j % 4 * 2, 2) - 32;
                (CODES[code as usize], scale, 0)
            }
            WeightFormat::Q5_0 => (nibble(6) + 16 * bits(2 + k / 8, k % 8, 1) - 16, 1, 0),
            WeightFormat::Q5_1 => (nibble(8) + 16 * bits(4 + k / 8, k % 8, 1), 1, 0),
            WeightFormat::Q2_K => (two(16), bits(k / 16, 0, 4), bits(k / 16, 4, 4)),
            WeightFormat::Q3_K => {
                let j = k / 16;
                let low = bits(96 + j % 8, j / 8 * 4, 4);
                let scale = low + 16 * bits(104 + j % 4, j / 4 * 2, 2) - 32;
                (two(32) + 4 * bits(k % 32, k / 32, 1) - 4, scale, 0)
            }
            WeightFormat::Q4_K => {
                let (scale, minimum) = six_bits(&bytes[4..16], k / 32);
                (four(16), scale, minimum)
            }
            WeightFormat::Q5_K => {
                let (scale, minimum) = six_bits(&bytes[4..16], k / 32);
                (four(48) + 16 * bits(16 + k % 32, k / 32, 1), scale, minimum)
            }
            WeightFormat::Q6_K => {
                let low = bits(k / 128 * 64 + k % 64, k / 64 % 2 * 4, 4);
                let scale = i32::from(bytes[192 + k / 16] as i8);
                (low + 16 * two(128) - 32, scale, 0)
            }
            _ => unreachable!(),
        }
    };
    let (scale, minimum) = match format {
        WeightFormat::Int8 => (f32::from_le_bytes([row[0], row[1], row[2], row[3]]), 0.0),
        WeightFormat::Q2_K => (half(bytes, 80), half(bytes, 82)),
        WeightFormat::Q3_K => (half(bytes, 108), 0.0),
        WeightFormat::Q6_K => (half(bytes, 208), 0.0),
        _ => (half(bytes, 0), half(bytes, 2)),
    };
    Stored {
        scale,
        minimum,
        quants: (0..length).map(|k| (element(k).0, element(k).1)).collect(),
        minima: (0..length).map(|k| element(k).2).collect(),
    }
}

/// Random rows with ordinary scales.
fn stored_rows(
    generator: &mut Generator,
    format: WeightFormat,
    rows: usize,
    columns: usize,
) -> Vec<u8> {
    let mut bytes = generator.bytes(rows * format.row_bytes(columns).unwrap());
    let halves: &[usize] = match format {
        WeightFormat::Q2_K => &[80, 82],
        WeightFormat::Q3_K => &[108],
        WeightFormat::Q6_K => &[208],
        WeightFormat::Q8_0 | WeightFormat::Q4_0 | WeightFormat::Q5_0 => &[0],
        WeightFormat::Int8 => &[],
        _ => &[0, 2],
    };
    if format == WeightFormat::Int8 {
        for row in bytes.chunks_exact_mut(8 + columns) {
            row[..4].copy_from_slice(&generator.ordinary(0.1).to_le_bytes());
            let zero_point = generator.between(0, 255) as i32 - 128;
            row[4..8].copy_from_slice(&zero_point.to_le_bytes());
        }
        return bytes;
    }
    for block in bytes.chunks_exact_mut(format.row_bytes(format.block_len()).unwrap()) {
        for &offset in halves {
            let scale = f32_to_f16(generator.ordinary(0.1));
            block[offset..offset + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Scale and quants of a block of activations.
fn quantize(values: &[f32]) -> (f32, Vec<i32>) {
    let largest = values
        .iter()
        .fold(0.0, |largest: f32, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let quants = values
        .iter()
        .map(|x| (x * inverse).round_ties_even() as i32)
        .collect();
    (scale, quants)
}

/// One block's step of the chain.
fn chain_step(format: WeightFormat, mut sum: f32, stored: &Stored, values: &[f32]) -> f32 {
    let (x_scale, x) = quantize(values);
    let dot: i64 = stored
        .quants
        .iter()
        .zip(&x)
        .map(|((q, s), x)| i64::from(q * s * x))
        .sum();
    sum += dot as f32 * (stored.scale * x_scale);
    match format {
        WeightFormat::Q4_1 | WeightFormat::Q5_1 => {
            sum += stored.minimum * (x_scale * x.iter().sum::<i32>() as f32);
        }
        WeightFormat::Q2_K | WeightFormat::Q4_K | WeightFormat::Q5_K => {
            let minima: i32 = stored.minima.iter().zip(&x).map(|(m, x)| m * x).sum();
            sum += (-minima) as f32 * (stored.minimum * x_scale);
        }
        _ => {}
    }
    sum
}

/// The value of each element of a block.
fn values_of(format: WeightFormat, stored: &Stored) -> Vec<f32> {
    let pairs = stored.quants.iter().zip(&stored.minima);
    pairs
        .map(|((q, s), m)| match format {
            WeightFormat::Q4_1 | WeightFormat::Q5_1 => stored.scale * *q as f32 + stored.minimum,
            WeightFormat::Q3_K | WeightFormat::Q6_K | WeightFormat::IQ4_XS => {
                (stored.scale * *s as f32) * *q as f32
            }
            WeightFormat::Q2_K | WeightFormat::Q4_K | WeightFormat::Q5_K => {
                (stored.scale * *s as f32) * *q as f32 - stored.minimum * *m as f32
            }
            _ => stored.scale * *q as f32,
        })
        .collect()
}

#[test]
fn quantised_products_follow_the_block_chain() {
    let (mut generator, kernels) = (Generator::new(1), kernels());
    for format in WeightFormat::ALL {
        if format.block_len() == 1 {
            continue;
        }
        let block_len = format.block_len();
        for (rows, blocks, batch) in [(1, 1, 1), (16, 2, 2), (35, 3, 7), (48, 5, 13)] {
            let columns = blocks * block_len;
            let bytes = stored_rows(&mut generator, format, rows, columns);
            let input = values(&mut generator, batch * columns);
            let weights = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
            let mut quantized = QuantizedRows::default();
            kernels.quantize(format.activations(), &input, batch, columns, &mut quantized);
            let mut output = vec![0.0; batch * rows];
            kernels.matmul(&weights, &quantized, &mut output);

            let row_bytes = format.row_bytes(columns).unwrap();
            let mut expected = Vec::new();
            for input in input.chunks(columns) {
                for row in bytes.chunks(row_bytes) {
                    let blocks = input.chunks(block_len).enumerate();
                    expected.push(blocks.fold(0.0f32, |sum, (block, values)| {
                        chain_step(format, sum, &unpack(format, row, block), values)
                    }));
                }
            }
            assert_bits(&output, &expected);

            let mut row = vec![0.0; columns];
            weights.read_row(rows - 1, &mut row);
            let last = &bytes[bytes.len() - row_bytes..];
            let expected: Vec<f32> = (0..blocks)
                .flat_map(|block| values_of(format, &unpack(format, last, block)))
                .collect();
            assert_bits(&row, &expected);
        }
    }
}

#[test]
fn a_zero_point_out_of_range_is_refused() {
    let mut bytes = vec![0; 2 * 40];
    bytes[40 + 4..40 + 8].copy_from_slice(&(-129i32).to_le_bytes());
    assert_eq!(
        PackedMatrix::pack(WeightFormat::Int8, 2, 32, &bytes).unwrap_err(),
        PackError::ZeroPoint {
            row: 1,
            zero_point: -129
        }
    );
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
    kernels.matmul_float(&weights, &input, batch, &mut output);
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

/// What a cache of that format makes of a head's elements.
fn stored(format: KvFormat, head: &[f32]) -> Vec<f32> {
    let narrow = |x: f32| f16_to_f32(f32_to_f16(x));
    let inverse = |d: f32| if d == 0.0 { 0.0 } else { 1.0 / d };
    let blocks = head.chunks(32).map(|block| match format {
        KvFormat::F16 => block.iter().map(|x| narrow(*x)).collect::<Vec<_>>(),
        KvFormat::Q8 => {
            let amax = block.iter().fold(0.0f32, |amax, x| amax.max(x.abs()));
            let d = narrow(amax / 127.0);
            let quant = |x: &f32| (x * inverse(d)).round_ties_even().clamp(-127.0, 127.0);
            block.iter().map(|x| quant(x) * d).collect()
        }
        KvFormat::Q4 => {
            let least = block.iter().fold(f32::MAX, |least, x| least.min(*x));
            let largest = block.iter().fold(f32::MIN, |largest, x| largest.max(*x));
            let m = narrow(least);
            let d = narrow((largest - m) / 15.0);
            let quant = |x: &f32| ((x - m) * inverse(d)).round_ties_even().clamp(0.0, 15.0);
            block.iter().map(|x| quant(x) * d + m).collect()
        }
    });
    blocks.flatten().collect()
}

#[test]
fn attention_reads_stored_positions_in_order() {
    for (format, head_dim) in [(KvFormat::F16, 20), (KvFormat::Q8, 64), (KvFormat::Q4, 64)] {
        attention_over(format, head_dim);
    }
}

fn attention_over(format: KvFormat, head_dim: usize) {
    let (mut generator, kernels) = (Generator::new(4), kernels());
    let (kv_heads, sharing, positions) = (2, 3, 137);
    let (keys, width) = (
        values(&mut generator, positions * kv_heads * head_dim),
        kv_heads * head_dim,
    );
    let contents = values(&mut generator, keys.len());
    let mut cache = KvLayer::with_capacity(format, kv_heads, head_dim, positions);
    kernels.store_kv(&mut cache, 0, &keys, &contents);
    let stored = |rows: Vec<f32>| -> Vec<f32> {
        rows.chunks(head_dim)
            .flat_map(|head| stored(format, head))
            .collect()
    };
    let (keys, contents) = (stored(keys), stored(contents));
    let (heads, batch) = (kv_heads * sharing, 9);
    let first = positions - batch;
    let queries = values(&mut generator, batch * heads * head_dim);
    for window in [
        None,
        NonZeroUsize::new(1),
        NonZeroUsize::new(11),
        NonZeroUsize::new(33),
    ] {
        let mut output = vec![0.0; queries.len()];
        let segment = AttentionSegment {
            cache: &cache,
            first_position: first,
            rows: batch,
            window,
        };
        kernels.attention(&queries, heads, &[segment], &mut output);

        let mut expected = Vec::new();
        for (index, query) in queries.chunks(head_dim).enumerate() {
            let (b, h) = (index / heads, index % heads);
            let offset = |p: usize| p * width + h / sharing * head_dim;
            let seen = first + b + 1;
            let from = window.map_or(0, |window| seen.saturating_sub(window.get()));
            let scores: Vec<f32> = (from..seen)
                .map(|p| {
                    let key = &keys[offset(p)..][..head_dim];
                    let dot = query
                        .iter()
                        .zip(key)
                        .fold(0.0f32, |sum, (x, k)| sum + x * k);
                    dot * (1.0 / (head_dim as f32).sqrt())
                })
                .collect();
            let maximum = scores.iter().fold(f32::MIN, |maximum, x| maximum.max(*x));
            let weights: Vec<f32> = scores
                .iter()
                .map(|x| elementary::exp(x - maximum))
                .collect();
            // Each in the lane of its position.
            let lanes = std::iter::repeat_n(0.0, from % 16).chain(weights.iter().copied());
            let sum = lanes16(lanes);
            for d in 0..head_dim {
                expected.push((from..seen).fold(0.0f32, |acc, p| {
                    acc + (weights[p - from] / sum) * contents[offset(p) + d]
                }));
            }
        }
        assert_bits(&output, &expected);
    }
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
