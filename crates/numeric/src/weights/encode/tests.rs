use super::*;
use crate::PackedMatrix;
use proptest::prelude::*;
use std::num::NonZeroUsize;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap())
}

fn encode(format: WeightFormat, values: &[f32], columns: usize) -> Vec<u8> {
    let mut out = Vec::new();
    encode_rows(&pool(1), format, values, columns, None, &mut out).unwrap();
    out
}

fn decode(format: WeightFormat, bytes: &[u8], columns: usize) -> Vec<f32> {
    let rows = bytes.len() / format.row_bytes(columns).unwrap();
    let matrix = PackedMatrix::pack(format, rows, columns, bytes).unwrap();
    let mut values = vec![0.0; rows * columns];
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        matrix.read_row(row, values);
    }
    values
}

/// SplitMix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sums of four uniform numbers, which look like weights: standard deviation near 0.58 `size`.
fn bells(seed: u64, count: usize, size: f32) -> Vec<f32> {
    let mut state = seed;
    let mut unit = || (random(&mut state) >> 40) as f32 / (1 << 24) as f32 - 0.5;
    (0..count)
        .map(|_| (unit() + unit() + unit() + unit()) * size)
        .collect()
}

/// The weighted root mean square of the differences, as a share of that of the values.
fn share(values: &[f32], found: &[f32], weights: &[f32]) -> f64 {
    let (mut errors, mut squares) = (0.0, 0.0);
    for ((value, found), weight) in values.iter().zip(found).zip(weights.iter().cycle()) {
        let (value, weight) = (f64::from(*value), f64::from(*weight));
        errors += weight * (value - f64::from(*found)) * (value - f64::from(*found));
        squares += weight * value * value;
    }
    (errors / squares).sqrt()
}

#[test]
fn bell_shaped_weights_come_out_as_near_as_the_bits_allow() {
    let columns = 512;
    let values = bells(7, 64 * columns, 0.05);
    for (format, most) in [
        (WeightFormat::F32, 0.0),
        (WeightFormat::F16, 3e-4),
        (WeightFormat::Bf16, 2e-3),
        (WeightFormat::Q8_0, 5.2e-3),
        (WeightFormat::Int8, 9e-3),
        (WeightFormat::Q6_K, 1.9e-2),
        (WeightFormat::Q5_K, 3.4e-2),
        (WeightFormat::Q5_1, 3.5e-2),
        (WeightFormat::Q5_0, 4.1e-2),
        (WeightFormat::Q4_K, 7.0e-2),
        (WeightFormat::Q4_1, 7.2e-2),
        (WeightFormat::IQ4_NL, 8.0e-2),
        (WeightFormat::IQ4_XS, 8.0e-2),
        (WeightFormat::Q4_0, 8.4e-2),
        (WeightFormat::Q3_K, 1.6e-1),
        (WeightFormat::Q2_K, 2.9e-1),
    ] {
        let found = decode(format, &encode(format, &values, columns), columns);
        let share = share(&values, &found, &[1.0]);
        assert!(share <= most, "{format}: {share}");
        println!("{format} {share:.5}");
    }
}

#[test]
fn important_columns_come_out_nearer() {
    let columns = 256;
    let values = bells(3, 32 * columns, 0.1);
    let importance: Vec<f32> = (0..columns)
        .map(|column| if column % 11 == 0 { 40.0 } else { 0.5 })
        .collect();
    for format in WeightFormat::ALL {
        if format.block_len() == 1 || format == WeightFormat::Int8 {
            continue;
        }
        let mut bytes = Vec::new();
        let weights = Some(importance.as_slice());
        encode_rows(&pool(1), format, &values, columns, weights, &mut bytes).unwrap();
        let with = share(&values, &decode(format, &bytes, columns), &importance);
        let plain = decode(format, &encode(format, &values, columns), columns);
        let without = share(&values, &plain, &importance);
        assert!(with < without, "{format}: {with} {without}");
    }
}

#[test]
fn values_on_the_grid_of_a_scale_come_back() {
    let columns = 256;
    for (format, low, high, minimum) in [
        (WeightFormat::Q8_0, -127i32, 127, 0.0),
        (WeightFormat::Q4_0, -8, 7, 0.0),
        (WeightFormat::Q5_0, -16, 15, 0.0),
        (WeightFormat::Q4_1, 0, 15, -0.25),
        (WeightFormat::Q5_1, 0, 31, -0.25),
    ] {
        let mut state = 11;
        let extent = (high - low + 1) as u64;
        let mut level = |k: usize| match k % 32 {
            0 => low,
            1 => high,
            _ => low + (random(&mut state) % extent) as i32,
        };
        let values: Vec<f32> = (0..4 * columns)
            .map(|k| level(k) as f32 * 0.031_25 + minimum)
            .collect();
        let bytes = encode(format, &values, columns);
        assert_eq!(decode(format, &bytes, columns), values, "{format}");
        assert_eq!(encode(format, &values, columns), bytes, "{format}");
    }
}

#[test]
fn zeros_of_either_sign_are_the_same() {
    for format in WeightFormat::ALL {
        if format.block_len() == 1 {
            continue;
        }
        let zeros = encode(format, &[0.0; 256], 256);
        assert_eq!(encode(format, &[-0.0; 256], 256), zeros, "{format}");
        let mut mixed = [0.0; 256];
        mixed.iter_mut().step_by(3).for_each(|value| *value = -0.0);
        assert_eq!(encode(format, &mixed, 256), zeros, "{format}");
        assert!(
            decode(format, &zeros, 256)
                .iter()
                .all(|value| *value == 0.0)
        );
    }
}

#[test]
fn rows_do_not_know_of_threads_or_each_other() {
    let columns = 256;
    let values = bells(5, 37 * columns, 1.0);
    let importance = bells(6, columns, 1.0)
        .iter()
        .map(|x| x * x)
        .collect::<Vec<_>>();
    for format in WeightFormat::ALL {
        let encode = |threads, values: &[f32]| {
            let mut out = vec![9];
            let importance = Some(importance.as_slice());
            encode_rows(
                &pool(threads),
                format,
                values,
                columns,
                importance,
                &mut out,
            )
            .unwrap();
            assert_eq!(out.remove(0), 9);
            out
        };
        let alone = encode(1, &values);
        assert_eq!(encode(5, &values), alone, "{format}");
        let rows: Vec<u8> = values
            .chunks_exact(columns)
            .flat_map(|row| encode(1, row))
            .collect();
        assert_eq!(rows, alone, "{format}");
    }
}

#[test]
fn the_bytes_are_those_of_every_machine() {
    let columns = 256;
    let values = bells(1, 8 * columns, 0.7);
    let importance = bells(2, columns, 1.0)
        .iter()
        .map(|x| x * x)
        .collect::<Vec<_>>();
    let found: Vec<_> = WeightFormat::ALL
        .into_iter()
        .map(|format| {
            let mut bytes = Vec::new();
            let importance = Some(importance.as_slice());
            encode_rows(&pool(1), format, &values, columns, importance, &mut bytes).unwrap();
            // FNV-1a.
            let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
            });
            format!("{format} {hash:016x}")
        })
        .collect();
    assert_eq!(found, FROZEN);
}

const FROZEN: [&str; 16] = [
    "F32 c1394ae01e7a555c",
    "F16 e88a05c351bc1985",
    "BF16 40034494386740dc",
    "Q8_0 80a08460f2244864",
    "Q4_0 c7441bfdf8f6e839",
    "Q4_1 7e4d784a9c8294e7",
    "Q5_0 26ff24fde65e9bec",
    "Q5_1 dc71a3a605689261",
    "Q2_K 1adbb3e384753f2c",
    "Q3_K 7d1cbda16cff05f8",
    "Q4_K 626dd5c9a0d567ed",
    "Q5_K 6dcf5e6597be686b",
    "Q6_K ca0a02facac60546",
    "INT8 cd26585d75e9edf1",
    "IQ4_NL f8a3aa41b808a809",
    "IQ4_XS 86fe6bdd001c840a",
];

#[test]
fn what_cannot_be_encoded_is_named() {
    let error = |format, values: &[f32], columns, importance: Option<&[f32]>| {
        let mut out = vec![1, 2];
        let error = encode_rows(&pool(1), format, values, columns, importance, &mut out);
        assert_eq!(out, [1, 2]);
        error.unwrap_err().to_string()
    };
    let mut values = vec![0.5; 96];
    assert_eq!(
        error(WeightFormat::Q4_K, &values, 48, None),
        "columns are not a multiple of the block length 256 of Q4_K: 48"
    );
    assert_eq!(
        error(WeightFormat::F32, &values, 0, None),
        "columns are not a multiple of the block length 1 of F32: 0"
    );
    assert_eq!(
        error(WeightFormat::F32, &values, 36, None),
        "values are no whole rows of 36: 96"
    );
    assert_eq!(
        error(WeightFormat::Q8_0, &values, 32, Some(&[1.0; 31])),
        "importance is not one number for each of 32 columns: 31"
    );
    let mut importance = [1.0; 32];
    importance[7] = -1.0;
    assert_eq!(
        error(WeightFormat::Q8_0, &values, 32, Some(&importance)),
        "importance of column 7 is not a finite number from 0 on: -1"
    );
    values[70] = 1e6;
    assert_eq!(
        error(WeightFormat::Q5_1, &values, 32, None),
        "value of row 2, column 6 is too large for Q5_1: 1000000"
    );
    for (value, name) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
        values[40] = value;
        for format in WeightFormat::ALL {
            if format.block_len() <= 32 {
                assert_eq!(
                    error(format, &values, 32, None),
                    format!("value of row 1, column 8 is not finite: {name}")
                );
            }
        }
    }
}

/// Values of every magnitude, many of them special.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0f32..1.0,
        1 => -F16_MAX..F16_MAX,
        1 => prop::sample::select(vec![0.0, -0.0, 1.0, -1.0, F16_MAX, -F16_MAX, 1e-8, -1e-20, 1e-40, 6e-5]),
    ]
}

fn block() -> impl Strategy<Value = Vec<f32>> {
    let size = prop::sample::select(vec![1.0f32, 1e-3, 1e-7, 1e-30, 1.0]);
    let values = prop::collection::vec(value(), 256);
    let same = value().prop_map(|value| vec![value; 256]);
    (prop_oneof![4 => values, 1 => same], size)
        .prop_map(|(values, size)| values.iter().map(|value| value * size).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever they are, they come back finite and no further away than a coarse grid over each block.
    #[test]
    fn every_block_comes_back_within_its_grid(values in block(), weights in prop::collection::vec(0.0f32..3.0, 256)) {
        for format in WeightFormat::ALL {
            let mut bytes = Vec::new();
            encode_rows(&pool(1), format, &values, 256, Some(&weights), &mut bytes).unwrap();
            let found = decode(format, &bytes, 256);
            let amax = values.iter().fold(0.0f32, |amax, value| amax.max(value.abs()));
            for (value, found) in values.iter().zip(&found) {
                prop_assert!(found.is_finite(), "{format}: {value} {found}");
                // No element is worse off than by the largest of its superblock, and by what f16 cannot tell.
                prop_assert!((value - found).abs() <= amax * 1.01 + 1e-6, "{format}: {value} {found}");
            }
            // Together they are better off than as zeros.
            let (mut errors, mut squares) = (0.0f64, 0.0f64);
            for ((value, found), weight) in values.iter().zip(&found).zip(&super::weights(Some(&weights), 256).unwrap()) {
                let (value, found, weight) = (f64::from(*value), f64::from(*found), f64::from(*weight));
                errors += weight * (value - found) * (value - found);
                squares += weight * value * value;
            }
            if format != WeightFormat::Int8 {
                prop_assert!(errors <= squares * 1.0001 + 1e-9, "{format}: {errors} of {squares}");
            }
        }
    }

    /// A float that a format has stays as it is.
    #[test]
    fn floats_stay(bits in prop::collection::vec(any::<u16>(), 32)) {
        for (format, widen) in [
            (WeightFormat::F16, crate::convert::f16_to_f32 as fn(u16) -> f32),
            (WeightFormat::Bf16, crate::convert::bf16_to_f32),
        ] {
            let values: Vec<f32> = bits.iter().map(|bits| widen(*bits)).collect();
            if values.iter().all(|value| value.is_finite()) {
                let expected: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
                prop_assert_eq!(encode(format, &values, 32), expected);
            }
        }
    }
}
