//! Every instruction set gives the portable kernels' bits, for any shape, value and number of threads.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::selftest::{CASES, Generator};
use lockstep_numeric::{Isa, Kernels, KvLayer, PackedMatrix, Pool, QuantizedRows, WeightFormat};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

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
fn every_kernel_equals_the_portable_one() {
    let reference = kernels(Isa::Portable, 1);
    let others: Vec<Kernels> = instruction_sets()
        .into_iter()
        .flat_map(|isa| (1..=4).map(move |threads| kernels(isa, threads)))
        .collect();
    for case in CASES {
        let mut runner = TestRunner::new(Config {
            cases: 100,
            failure_persistence: None,
            ..Config::default()
        });
        runner
            .run(&any::<u64>(), |seed| {
                let expected = case.output(&reference, seed);
                for kernels in &others {
                    let actual = case.output(kernels, seed);
                    let place = actual
                        .iter()
                        .zip(&expected)
                        .position(|(actual, expected)| actual != expected);
                    prop_assert_eq!(place, None, "{:?} {:?} differs", case, kernels);
                    prop_assert_eq!(actual.len(), expected.len());
                }
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn a_product_does_not_depend_on_the_batch() {
    for isa in instruction_sets() {
        let kernels = kernels(isa, 2);
        let mut generator = Generator::new(7);
        for format in [WeightFormat::Q8_0, WeightFormat::Q4_1] {
            for (rows, columns, batch) in [
                (40, 96, 1),
                (33, 64, 5),
                (16, 32, 9),
                (100, 576, 14),
                (8, 1536, 300),
            ] {
                let bytes = generator.bytes(rows * format.row_bytes(columns).unwrap());
                let weights = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
                let input: Vec<f32> = (0..batch * columns)
                    .map(|_| generator.ordinary(4.0))
                    .collect();
                let (mut together, mut alone) = (vec![0.0; batch * rows], vec![0.0; rows]);
                let mut quantized = QuantizedRows::default();
                kernels.quantize(&input, batch, columns, &mut quantized);
                kernels.matmul(&weights, &quantized, &mut together);
                for (input, expected) in input.chunks(columns).zip(together.chunks(rows)) {
                    kernels.quantize(input, 1, columns, &mut quantized);
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
    for position in 0..POSITIONS {
        cache.store(
            position,
            &generator.values(3 * HEAD_DIM, 2.0),
            &generator.values(3 * HEAD_DIM, 2.0),
        );
    }
    let queries: Vec<f32> = (0..POSITIONS * HEADS * HEAD_DIM)
        .map(|_| generator.ordinary(2.0))
        .collect();
    for isa in instruction_sets() {
        let kernels = kernels(isa, 2);
        let mut together = vec![0.0; queries.len()];
        kernels.attention(&queries, HEADS, &cache, 0, &mut together);
        for chunk in [1, 5, 32] {
            let length = chunk * HEADS * HEAD_DIM;
            for (index, (queries, expected)) in queries
                .chunks(length)
                .zip(together.chunks(length))
                .enumerate()
            {
                let mut alone = vec![0.0; queries.len()];
                kernels.attention(queries, HEADS, &cache, index * chunk, &mut alone);
                let same = alone
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{isa} chunk {chunk} of {index}");
            }
        }
    }
}
