//! Batch, chunk and other texts in the batch do not show in a result.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    AttentionSegment, Isa, Kernels, KvLayer, PackedMatrix, Pool, QuantizedRows, WeightFormat,
};

fn kernels(isa: Isa, threads: usize) -> Kernels {
    Kernels::new(
        isa,
        Arc::new(Pool::new(NonZeroUsize::new(threads).unwrap())),
    )
    .unwrap()
}

/// The instruction sets to test, with a word about those that are missing.
fn instruction_sets() -> Vec<Isa> {
    let available = Isa::available();
    for isa in Isa::ALL.into_iter().filter(|isa| !available.contains(isa)) {
        eprintln!("SKIPPED: {isa} is missing on this processor");
    }
    available
}

#[test]
fn a_product_does_not_depend_on_the_batch() {
    for isa in instruction_sets() {
        let kernels = kernels(isa, 2);
        let mut generator = Generator::new(7);
        for format in WeightFormat::ALL {
            if format.block_len() == 1 || format == WeightFormat::Int8 {
                continue;
            }
            for (rows, columns, batch) in [
                (40, 256, 1),
                (33, 512, 5),
                (16, 256, 9),
                (100, 768, 14),
                (8, 1536, 300),
            ] {
                let bytes = generator.bytes(rows * format.row_bytes(columns).unwrap());
                let weights = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
                let input: Vec<f32> = (0..batch * columns)
                    .map(|_| generator.ordinary(4.0))
                    .collect();
                let (mut together, mut alone) = (vec![0.0; batch * rows], vec![0.0; rows]);
                let mut quantized = QuantizedRows::default();
                kernels.quantize(format.activations(), &input, batch, columns, &mut quantized);
                kernels.matmul(&weights, &quantized, &mut together);
                for (input, expected) in input.chunks(columns).zip(together.chunks(rows)) {
                    kernels.quantize(format.activations(), input, 1, columns, &mut quantized);
                    kernels.matmul(&weights, &quantized, &mut alone);
                    let same = alone
                        .iter()
                        .zip(expected)
                        .all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{isa} {format} {rows}x{columns} batch {batch}");
                }
            }
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_chunk() {
    const HEADS: usize = 9;
    const HEAD_DIM: usize = 64;
    const POSITIONS: usize = 70;
    let mut generator = Generator::new(8);
    let mut cache = KvLayer::new(3, HEAD_DIM, POSITIONS);
    let elements = POSITIONS * 3 * HEAD_DIM;
    let (keys, values) = (
        generator.values(elements, 2.0),
        generator.values(elements, 2.0),
    );
    kernels(Isa::Portable, 1).store_kv(&mut cache, 0, &keys, &values);
    let queries: Vec<f32> = (0..POSITIONS * HEADS * HEAD_DIM)
        .map(|_| generator.ordinary(2.0))
        .collect();
    for isa in instruction_sets() {
        let kernels = kernels(isa, 2);
        let mut together = vec![0.0; queries.len()];
        let segment = |first_position, rows| AttentionSegment {
            cache: &cache,
            first_position,
            rows,
            window: None,
        };
        kernels.attention(&queries, HEADS, &[segment(0, POSITIONS)], &mut together);
        for chunk in [1, 5, 32] {
            let length = chunk * HEADS * HEAD_DIM;
            for (index, (queries, expected)) in queries
                .chunks(length)
                .zip(together.chunks(length))
                .enumerate()
            {
                let mut alone = vec![0.0; queries.len()];
                let rows = queries.len() / (HEADS * HEAD_DIM);
                kernels.attention(queries, HEADS, &[segment(index * chunk, rows)], &mut alone);
                let same = alone
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa} chunk {chunk} of {index}");
            }
        }
    }
}
