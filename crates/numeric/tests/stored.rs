//! Products with stored matrices give the bits of those with packed ones, and every function those of its definition,
//! on every instruction set and number of threads.

use std::num::NonZeroUsize;
use std::sync::Arc;

use lockstep_numeric::elementary::Function;
use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    ActivationFormat, Isa, Kernels, PackError, PackedMatrix, Pool, QuantizedRows, StoredRows,
    WeightFormat,
};

/// Kernels of every instruction set on one, two and three threads.
fn all_kernels() -> Vec<Kernels> {
    let isas = Isa::available().into_iter();
    isas.flat_map(|isa| {
        [1, 2, 3].map(|threads| {
            let pool = Arc::new(Pool::new(NonZeroUsize::new(threads).unwrap()));
            Kernels::new(isa, pool).unwrap()
        })
    })
    .collect()
}

fn reference() -> Kernels {
    Kernels::new(Isa::Portable, Arc::new(Pool::new(NonZeroUsize::MIN))).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Stored bytes without an INT8 zero-point out of range.
fn stored(
    generator: &mut Generator,
    format: WeightFormat,
    (rows, columns): (usize, usize),
) -> Vec<u8> {
    let row_bytes = format.row_bytes(columns).unwrap();
    let mut bytes = generator.bytes(rows * row_bytes);
    if format == WeightFormat::Int8 {
        for row in bytes.chunks_exact_mut(row_bytes) {
            let zero_point = i32::from(row[4] as i8);
            row[4..8].copy_from_slice(&zero_point.to_le_bytes());
        }
    }
    bytes
}

/// The product with a packed matrix.
fn packed_product(weights: &PackedMatrix, input: &[f32], batch: usize) -> Vec<f32> {
    let kernels = reference();
    let mut output = vec![0.0; batch * weights.rows()];
    match weights.format().activations() {
        ActivationFormat::F32 => kernels.matmul_float(weights, input, batch, &mut output),
        format => {
            let mut rows = QuantizedRows::default();
            kernels.quantize(format, input, batch, weights.columns(), &mut rows);
            kernels.matmul(weights, &rows, &mut output);
        }
    }
    output
}

#[test]
fn stored_rows_multiply_as_packed_ones() {
    let all = all_kernels();
    let mut generator = Generator::new(1);
    for format in WeightFormat::ALL {
        for (rows, blocks, batch) in [(1, 1, 1), (15, 3, 2), (16, 2, 6), (50, 1, 7), (130, 3, 13)] {
            let columns = blocks * format.block_len();
            let bytes = stored(&mut generator, format, (rows, columns));
            let input = generator.values(batch * columns, 2.0);
            let packed = PackedMatrix::pack(format, rows, columns, &bytes).unwrap();
            let expected = packed_product(&packed, &input, batch);
            let weights = StoredRows::new(format, rows, columns, &bytes).unwrap();
            for kernels in &all {
                let what = format!("{format} {rows} {columns} {batch} {kernels:?}");
                let mut output = vec![1.0; batch * rows];
                kernels.matmul_stored(&weights, &input, batch, &mut output);
                assert_eq!(bits(&output), bits(&expected), "{what}");
            }
        }
    }
}

#[test]
fn a_product_of_plain_matrices_is_that_with_the_transpose() {
    let all = all_kernels();
    let mut generator = Generator::new(2);
    for (m, k, n) in [
        (1, 1, 1),
        (2, 3, 15),
        (7, 1, 16),
        (6, 33, 17),
        (13, 20, 100),
    ] {
        let (a, b) = (
            generator.values(m * k, 2.0),
            generator.values(k * n, f32::MAX),
        );
        let transpose = (0..n).flat_map(|j| (0..k).map(move |l| (l, j)));
        let bytes: Vec<u8> = transpose
            .flat_map(|(l, j)| b[l * n + j].to_le_bytes())
            .collect();
        let packed = PackedMatrix::pack(WeightFormat::F32, n, k, &bytes).unwrap();
        let expected = packed_product(&packed, &a, m);
        for kernels in &all {
            let mut output = vec![1.0; m * n];
            kernels.matmul_f32(&a, &b, (m, k, n), &mut output);
            assert_eq!(bits(&output), bits(&expected), "{m} {k} {n} {kernels:?}");
        }
    }
}

#[test]
fn parts_of_a_batch_do_not_show() {
    // More than one part: 16 Mi elements are quantised together.
    let (rows, columns, batch) = (3, 1 << 20, 17);
    let mut generator = Generator::new(3);
    let format = WeightFormat::Q8_0;
    let bytes = stored(&mut generator, format, (rows, columns));
    let weights = StoredRows::new(format, rows, columns, &bytes).unwrap();
    let input = generator.values(batch * columns, 2.0);
    let kernels = &all_kernels()[3];
    let mut output = vec![0.0; batch * rows];
    kernels.matmul_stored(&weights, &input, batch, &mut output);
    for (input, output) in input.chunks(columns).zip(output.chunks(rows)) {
        let mut alone = vec![0.0; rows];
        kernels.matmul_stored(&weights, input, 1, &mut alone);
        assert_eq!(bits(output), bits(&alone));
    }
}

#[test]
fn nothing_gives_zeros_or_nothing() {
    let kernels = reference();
    for format in WeightFormat::ALL {
        let bytes = vec![0; 5 * format.row_bytes(0).unwrap()];
        let weights = StoredRows::new(format, 5, 0, &bytes).unwrap();
        let mut output = [1.0; 10];
        kernels.matmul_stored(&weights, &[], 2, &mut output);
        assert_eq!(bits(&output), [0; 10]);
        let weights = StoredRows::new(format, 0, format.block_len(), &[]).unwrap();
        kernels.matmul_stored(&weights, &vec![1.0; format.block_len()], 1, &mut []);
    }
    let mut output = [1.0; 6];
    kernels.matmul_f32(&[], &[], (2, 0, 3), &mut output);
    assert_eq!(bits(&output), [0; 6]);
    kernels.matmul_f32(&[1.0; 4], &[], (2, 2, 0), &mut []);
    kernels.softmax_rows(&mut [], 0);
    kernels.apply(Function::Log, &mut []);
}

#[test]
fn what_is_no_matrix_is_refused() {
    let q8_0 = WeightFormat::Q8_0;
    let refused = |rows, columns, bytes: &[u8]| {
        StoredRows::new(q8_0, rows, columns, bytes)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(1, 33, &[]),
        "columns are not a multiple of the block length 32 of Q8_0: 33"
    );
    assert_eq!(
        refused(1, 32, &[0; 33]),
        "matrix of Q8_0 needs 34 bytes: 33"
    );
    assert_eq!(
        refused(1, (1 << 20) + 32, &[]),
        "more columns than 1048576: 1048608"
    );
    assert_eq!(
        StoredRows::bytes(q8_0, usize::MAX, 32),
        Err(PackError::Shape {
            rows: usize::MAX,
            columns: 32
        })
    );
    let row = [&[0; 4][..], &128_i32.to_le_bytes()].concat();
    assert_eq!(
        StoredRows::new(WeightFormat::Int8, 1, 0, &row).unwrap_err(),
        PackError::ZeroPoint {
            row: 0,
            zero_point: 128
        }
    );
}

#[test]
fn functions_and_rows_of_softmax_are_those_of_one() {
    let mut generator = Generator::new(4);
    for count in [1, 15, 16, 100, 10_000] {
        let values: Vec<f32> = (0..count).map(|_| generator.any()).collect();
        for kernels in all_kernels() {
            for function in Function::ALL {
                let mut output = values.clone();
                kernels.apply(function, &mut output);
                let expected: Vec<f32> = values.iter().map(|value| function.at(*value)).collect();
                assert_eq!(bits(&output), bits(&expected), "{function:?} {kernels:?}");
            }
            let columns = if count == 1 { 1 } else { 5 };
            let whole = count / columns * columns;
            let (mut output, mut expected) = (values[..whole].to_vec(), values[..whole].to_vec());
            kernels.softmax_rows(&mut output, columns);
            for row in expected.chunks_exact_mut(columns) {
                lockstep_numeric::softmax(row);
            }
            assert_eq!(bits(&output), bits(&expected), "{count} {kernels:?}");
        }
    }
}
