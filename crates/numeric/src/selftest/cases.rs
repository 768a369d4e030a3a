//! The kernels and what is built of them, one function each from a generator to output bits.

mod attention;
mod elementary;
mod scalars;

use super::{Case, Generator};
use crate::arch::kernel_cases;
use crate::convert::{f16_to_f32, f32_to_f16};
use crate::elementary::HARD_EXP;
use crate::{
    ActivationFormat, AdaptedRows, Convolution, Factors, Kernels, LowRank, PackedMatrix, Pairs,
    QuantizedRows, Rope, Rotations, WeightFormat,
};
use attention::{
    scores_f16_f32, scores_q4_f32, scores_q8_f32, values_f16_f32, values_q4_f32, values_q8_f32,
};

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
        run: attention::attention,
    },
    Case {
        name: "attention_segments_f16_f32",
        run: attention::attention_segments,
    },
    Case {
        name: "attention_window_f16_f32",
        run: attention::attention_window,
    },
    Case {
        name: "attention_q8_f32",
        run: attention::attention_q8,
    },
    Case {
        name: "attention_q4_f32",
        run: attention::attention_q4,
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
