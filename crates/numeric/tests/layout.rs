//! The packed layout is kept in files: its bytes are frozen per version, and used where they lie.

use lockstep_numeric::{
    Isa, Kernels, PACKED_LAYOUT_VERSION, PackError, PackedMatrix, Pool, QuantizedRows, SharedBytes,
    WeightFormat,
};
use std::{num::NonZeroUsize, sync::Arc};

const ROWS: usize = 37;
const COLUMNS: usize = 512;

/// A matrix of bytes that count up in steps of a prime, but for INT8's zero-points.
fn packed(format: WeightFormat) -> PackedMatrix {
    let length = format.row_bytes(COLUMNS).unwrap() * ROWS;
    let mut bytes: Vec<u8> = (0..length)
        .map(|index| (index * 151 + index / 256) as u8)
        .collect();
    if format == WeightFormat::Int8 {
        for row in bytes.chunks_exact_mut(length / ROWS) {
            row[4..8].copy_from_slice(&(-3i32).to_le_bytes());
        }
    }
    PackedMatrix::pack(format, ROWS, COLUMNS, &bytes).unwrap()
}

/// Memory on a 64-byte boundary, whose first bytes are of no use.
struct Memory(Vec<[u8; 64]>);

#[repr(align(64))]
struct Line;

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        let bytes = self.0.as_flattened();
        &bytes[bytes.as_ptr().align_offset(align_of::<Line>())..]
    }
}

/// The bytes behind `offset` bytes of other things.
fn memory(bytes: &[u8], offset: usize) -> SharedBytes {
    let mut memory = Memory(vec![[0; 64]; (bytes.len() + offset).div_ceil(64) + 1]);
    let skip = memory.0.as_flattened().len() - memory.as_ref().len();
    memory.0.as_flattened_mut()[skip + offset..][..bytes.len()].copy_from_slice(bytes);
    Arc::new(memory)
}

#[test]
fn the_layout_of_a_version_does_not_change() {
    let mut hasher = blake3::Hasher::new();
    for format in WeightFormat::ALL {
        hasher.update(format.name().as_bytes());
        hasher.update(packed(format).as_bytes());
    }
    // Another digest is another layout: raise the version with it, so that files of the old one are refused.
    assert_eq!(
        (PACKED_LAYOUT_VERSION, hasher.finalize().to_hex().as_str()),
        (
            1,
            "12af5db84468ede702cddc022b317bc07c096728ce2d7b682ed9eee4959c004b"
        )
    );
}

#[test]
fn a_matrix_is_the_same_wherever_its_bytes_lie() {
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Kernels::new(Isa::detect().unwrap(), pool).unwrap();
    for format in WeightFormat::ALL {
        let owned = packed(format);
        let shared =
            PackedMatrix::in_place(format, ROWS, COLUMNS, memory(owned.as_bytes(), 128), 128);
        if format == WeightFormat::Int8 {
            assert!(matches!(shared, Err(PackError::Place { .. })));
            continue;
        }
        let shared = shared.unwrap();
        assert!(shared.is_shared() && !owned.is_shared());
        assert_eq!(shared.resident_bytes(), owned.resident_bytes());
        let row = |matrix: &PackedMatrix| {
            let mut row = vec![0.0; COLUMNS];
            matrix.read_row(ROWS - 1, &mut row);
            row.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(row(&shared), row(&owned), "{format}");
        let input: Vec<f32> = (0..COLUMNS)
            .map(|index| index as f32 * 0.01 - 2.0)
            .collect();
        let product = |matrix: &PackedMatrix| {
            let mut output = vec![0.0; ROWS];
            let activations = format.activations();
            if activations.block_len() == 1 {
                kernels.matmul_float(matrix, &input, 1, &mut output);
            } else {
                let mut quantized = QuantizedRows::default();
                kernels.quantize(activations, &input, 1, COLUMNS, &mut quantized);
                kernels.matmul(matrix, &quantized, &mut output);
            }
            output
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(product(&shared), product(&owned), "{format}");
    }
}

#[test]
fn places_that_cannot_be_are_refused() {
    let format = WeightFormat::Q8_0;
    let matrix = packed(format);
    let memory = memory(matrix.as_bytes(), 64);
    let available = (*memory).as_ref().len();
    let at = |offset: usize| PackedMatrix::in_place(format, ROWS, COLUMNS, memory.clone(), offset);
    assert!(at(64).is_ok());
    for offset in [
        65,
        96,
        available,
        available.next_multiple_of(64),
        usize::MAX - 63,
    ] {
        assert_eq!(
            at(offset).unwrap_err(),
            PackError::Place {
                offset,
                length: matrix.resident_bytes(),
                available
            }
        );
    }
    assert!(PackedMatrix::in_place(format, ROWS, 33, memory.clone(), 0).is_err());
    assert!(PackedMatrix::in_place(format, usize::MAX, 32, memory, 0).is_err());
}
