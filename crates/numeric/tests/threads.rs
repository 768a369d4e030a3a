//! One and three threads give the same bits, on shapes small enough for an interpreter that looks for data races.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    AttentionSegment, Isa, Kernels, KvLayer, PackedMatrix, Pool, QuantizedRows, StoredRows,
    WeightFormat, elementary::Function,
};

/// Runs `compute` with one thread and with three and compares the bits.
fn assert_same(compute: impl Fn(&Kernels, &mut Generator) -> Vec<f32>) {
    let [one, three] = [1, 3].map(|threads| {
        let pool = Arc::new(Pool::new(NonZeroUsize::new(threads).unwrap()));
        let kernels = Kernels::new(Isa::detect().unwrap(), pool).unwrap();
        let output = compute(&kernels, &mut Generator::new(1));
        output.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    });
    assert_eq!(one, three);
    assert!(one.iter().any(|bits| *bits != 0), "something was computed");
}

#[test]
fn quantised_products() {
    // Four tiles, the last one short; two panels, the second one narrow.
    let (rows, columns, batch) = (50, 32, 5);
    for format in [WeightFormat::Q8_0, WeightFormat::Q4_1] {
        assert_same(|kernels, generator| {
            let mut bytes = generator.bytes(rows * format.row_bytes(columns).unwrap());
            for block in bytes.chunks_exact_mut(format.row_bytes(columns).unwrap()) {
                // The scale one half, and the minimum if there is one.
                block[..2].copy_from_slice(&0x3800u16.to_le_bytes());
                if format == WeightFormat::Q4_1 {
                    block[2..4].copy_from_slice(&0x3800u16.to_le_bytes());
                }
            }
            let weights = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
            let mut input = QuantizedRows::default();
            let values = generator.values(batch * columns, 2.0);
            kernels.quantize(format.activations(), &values, batch, columns, &mut input);
            let mut output = vec![0.0; batch * rows];
            kernels.matmul(&weights, &input, &mut output);
            output
        });
    }
}

#[test]
fn stored_products() {
    // More work than is done in place, in strips of several tiles.
    let (rows, columns, batch) = (100, 32, 5);
    for format in [WeightFormat::F32, WeightFormat::Q4_0] {
        assert_same(|kernels, generator| {
            let values = generator.values(rows * columns, 2.0);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let bytes = &bytes[..rows * format.row_bytes(columns).unwrap()];
            let weights = StoredRows::new(format, rows, columns, bytes).unwrap();
            let input = generator.values(batch * columns, 2.0);
            let mut output = vec![0.0; batch * rows];
            kernels.matmul_stored(&weights, &input, batch, &mut output);
            let b = generator.values(batch * rows, 2.0);
            let mut product = vec![0.0; columns * rows];
            let a = generator.values(columns * batch, 2.0);
            kernels.matmul_f32(&a, &b, (columns, batch, rows), &mut product);
            output.extend(product);
            output
        });
    }
}

#[test]
fn functions_and_softmax() {
    assert_same(|kernels, generator| {
        let mut values = generator.values(100 * 100, 2.0);
        kernels.apply(Function::Exp, &mut values);
        kernels.softmax_rows(&mut values, 100);
        values
    });
}

#[test]
fn float_products() {
    let (rows, columns, batch) = (50, 5, 3);
    assert_same(|kernels, generator| {
        let values = generator.values(rows * columns, 2.0);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weights = PackedMatrix::pack(WeightFormat::F32, rows, columns, &bytes).unwrap();
        let mut output = vec![0.0; batch * rows];
        let input = generator.values(batch * columns, 2.0);
        kernels.matmul_float(&weights, &input, batch, &mut output);
        output
    });
}

#[test]
fn attention() {
    let (kv_heads, heads, head_dim, batch) = (2, 4, 6, 5);
    assert_same(|kernels, generator| {
        let mut cache = KvLayer::new(kv_heads, head_dim, batch);
        let (keys, values) = (
            generator.values(batch * kv_heads * head_dim, 2.0),
            generator.values(batch * kv_heads * head_dim, 2.0),
        );
        kernels.store_kv(&mut cache, 0, &keys, &values);
        let queries = generator.values(batch * heads * head_dim, 2.0);
        let mut output = vec![0.0; queries.len()];
        let segment = AttentionSegment {
            cache: &cache,
            first_position: 0,
            rows: batch,
            window: None,
        };
        kernels.attention(&queries, heads, &[segment], &mut output);
        output
    });
}

#[test]
fn rows() {
    // Enough elements to be shared among threads.
    let count = 20_000;
    assert_same(|kernels, generator| {
        let mut sums = generator.values(count, 2.0);
        kernels.add(&mut sums, &generator.values(count, 2.0));
        sums
    });
}
