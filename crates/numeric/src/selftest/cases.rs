//! The kernels, one function each from a generator to output bits.

use super::{Case, Generator};
use crate::convert::{f16_to_f32, f32_to_f16};
use crate::elementary;
use crate::{Kernels, KvLayer, PackedMatrix, QuantizedRows, RopeTable, WeightFormat};

/// Every kernel of [`Kernels`] and every elementary function.
pub const CASES: &[Case] = &[
    Case {
        name: "quantize_f32_i8",
        run: quantize,
    },
    Case {
        name: "matmul_q8_0_f32",
        run: |kernels, generator| matmul(kernels, generator, WeightFormat::Q8_0),
    },
    Case {
        name: "matmul_q4_1_f32",
        run: |kernels, generator| matmul(kernels, generator, WeightFormat::Q4_1),
    },
    Case {
        name: "matmul_f32_f32",
        run: matmul_f32,
    },
    Case {
        name: "read_row",
        run: read_row,
    },
    Case {
        name: "rms_norm_f32_f32",
        run: rms_norm,
    },
    Case {
        name: "rope_interleaved_f32_f32",
        run: rope,
    },
    Case {
        name: "attention_f16_f32",
        run: attention,
    },
    Case {
        name: "softmax_f32_f32",
        run: softmax,
    },
    Case {
        name: "silu_mul_f32_f32",
        run: silu_mul,
    },
    Case {
        name: "add_f32_f32",
        run: add,
    },
    Case {
        name: "convert_f16_f32",
        run: convert,
    },
    Case {
        name: "exp_f32_f32",
        run: |_, generator| unary(generator, elementary::exp),
    },
    Case {
        name: "sin_f32_f32",
        run: |_, generator| unary(generator, elementary::sin),
    },
    Case {
        name: "cos_f32_f32",
        run: |_, generator| unary(generator, elementary::cos),
    },
];

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Random GGUF blocks: scales ordinary, or any f16 at all; quants of all values.
fn weights(
    generator: &mut Generator,
    format: WeightFormat,
    rows: usize,
    columns: usize,
) -> PackedMatrix {
    let row_bytes = format.row_bytes(columns).expect("whole blocks");
    let bytes = match format {
        WeightFormat::F32 => generator
            .values(rows * columns, 2.0)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        WeightFormat::Q8_0 | WeightFormat::Q4_1 => {
            let mut bytes = generator.bytes(rows * row_bytes);
            let wild = generator.between(0, 7) == 0;
            let scales = if format == WeightFormat::Q8_0 { 1 } else { 2 };
            for block in bytes.chunks_exact_mut(row_bytes / (columns / format.block_len())) {
                for scale in block.chunks_exact_mut(2).take(scales) {
                    if !(wild && generator.between(0, 3) == 0) {
                        scale.copy_from_slice(&f32_to_f16(generator.ordinary(0.1)).to_le_bytes());
                    }
                }
                if generator.between(0, 15) == 0 {
                    let extreme = [0x00, 0x7f, 0x80, 0xff][generator.between(0, 3)];
                    block[2 * scales..].fill(extreme);
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
    kernels.quantize(&values, batch, columns, &mut rows);
    rows
}

fn quantize(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (batch, columns) = (generator.between(1, 15), 32 * generator.between(1, 40));
    quantized(kernels, generator, batch, columns)
        .words()
        .to_vec()
}

fn matmul(kernels: &Kernels, generator: &mut Generator, format: WeightFormat) -> Vec<u32> {
    let (rows, columns, batch) = (
        generator.between(1, 90),
        32 * generator.between(1, 9),
        generator.between(1, 15),
    );
    let weights = weights(generator, format, rows, columns);
    let input = quantized(kernels, generator, batch, columns);
    let mut output = vec![0.0; batch * rows];
    kernels.matmul(&weights, &input, &mut output);
    bits(&output)
}

fn matmul_f32(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (rows, columns, batch) = (
        generator.between(1, 70),
        generator.between(1, 100),
        generator.between(1, 15),
    );
    let weights = weights(generator, WeightFormat::F32, rows, columns);
    let input = generator.values(batch * columns, 8.0);
    let mut output = vec![0.0; batch * rows];
    kernels.matmul_f32(&weights, &input, batch, &mut output);
    bits(&output)
}

fn read_row(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (rows, columns) = (generator.between(1, 40), 32 * generator.between(1, 4));
    let mut output = vec![0.0; columns];
    let mut all = Vec::new();
    for format in [WeightFormat::F32, WeightFormat::Q8_0, WeightFormat::Q4_1] {
        let weights = weights(generator, format, rows, columns);
        weights.read_row(generator.between(0, rows - 1), &mut output);
        all.extend(bits(&output));
    }
    all
}

fn rms_norm(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (batch, columns) = (generator.between(1, 12), generator.between(1, 1200));
    let weight = generator.values(columns, 2.0);
    let input = generator.values(batch * columns, 8.0);
    let mut output = vec![0.0; batch * columns];
    kernels.rms_norm(&input, &weight, 1e-5, batch, &mut output);
    bits(&output)
}

fn rope(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let (dimension, heads, batch) = (
        2 * generator.between(1, 40),
        generator.between(1, 9),
        generator.between(1, 15),
    );
    let first = generator.between(0, 20);
    let base = [10_000.0, 100_000.0, 500_000.0, 1_000_000.0][generator.between(0, 3)];
    let table = RopeTable::new(dimension, base, first + batch);
    let mut values = generator.values(batch * heads * dimension, 8.0);
    kernels.rope_interleaved(&table, &mut values, heads, first);
    bits(&values)
}

fn attention(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let head_dim = [16, 32, 64, 64, 80, generator.between(1, 100)][generator.between(0, 5)];
    let (kv_heads, sharing) = (generator.between(1, 3), generator.between(1, 4));
    let (first, batch) = (generator.between(0, 90), generator.between(1, 15));
    let mut cache = KvLayer::new(kv_heads, head_dim, first + batch + generator.between(0, 20));
    for position in 0..first + batch {
        let key = generator.values(kv_heads * head_dim, 2.0);
        let value = generator.values(kv_heads * head_dim, 2.0);
        cache.store(position, &key, &value);
    }
    let heads = kv_heads * sharing;
    let queries = generator.values(batch * heads * head_dim, 2.0);
    let mut output = vec![0.0; queries.len()];
    kernels.attention(&queries, heads, &cache, first, &mut output);
    bits(&output)
}

fn softmax(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let limit = [1.0, 20.0, 200.0][generator.between(0, 2)];
    let mut values = generator.values(count, limit);
    kernels.softmax(&mut values);
    bits(&values)
}

fn silu_mul(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 20_000);
    let limit = [1.0, 20.0, 200.0][generator.between(0, 2)];
    let mut gate = generator.values(count, limit);
    let up = generator.values(count, 8.0);
    kernels.silu_mul(&mut gate, &up);
    bits(&gate)
}

fn add(kernels: &Kernels, generator: &mut Generator) -> Vec<u32> {
    let count = generator.between(1, 300);
    let mut sums = generator.values(count, 8.0);
    kernels.add(&mut sums, &generator.values(count, 8.0));
    bits(&sums)
}

fn convert(_: &Kernels, generator: &mut Generator) -> Vec<u32> {
    (0..2000)
        .map(|_| {
            let narrow = u32::from(f32_to_f16(generator.any()));
            narrow << 16 ^ f16_to_f32(generator.bits() as u16).to_bits()
        })
        .collect()
}

fn unary(generator: &mut Generator, function: fn(f32) -> f32) -> Vec<u32> {
    (0..4000)
        .map(|index| {
            let x = if index % 2 == 0 {
                generator.any()
            } else {
                generator.ordinary(100.0)
            };
            function(x).to_bits()
        })
        .collect()
}
