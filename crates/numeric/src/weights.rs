//! Weight matrices packed into tiles of 16 rows, one layout for every instruction set.
//!
//! # Design
//! A tile holds 16 consecutive rows, zero-padded at the end of the matrix, and starts on a 64-byte boundary. Within
//! it a 32-bit lane belongs to one row:
//!
//! | format | tile |
//! |---|---|
//! | F32 | per column: 16 f32 |
//! | Q8_0 | per block 16 f16 d, the whole padded to 64 bytes; then per block 8 groups of 64 bytes, group g lane r holding q xor 0x80 for k = 4g .. 4g+3 |
//! | Q4_1 | per block 320 bytes: 16 f16 d, 16 f16 m, 4 groups of 64 bytes, group g lane r holding in its low nibbles k = 4g .. 4g+3 and in its high nibbles k = 16+4g .. 16+4g+3 |
//!
//! # Determinism
//! Packing moves bytes and computes nothing.

use std::fmt;

use thiserror::Error;

use crate::aligned::{AlignedBytes, LINE_BYTES};
use crate::convert::{canonical, f16_to_f32};

/// Rows in a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Elements in a block of the quantised formats, and of quantised activations.
pub(crate) const BLOCK_LEN: usize = 32;
/// Bytes of one block of a Q4_1 tile.
pub(crate) const Q4_1_TILE_BLOCK_BYTES: usize = 320;
/// Bytes of the quants of one block of a Q8_0 tile.
pub(crate) const Q8_0_TILE_QUANT_BYTES: usize = 512;
/// Bytes of the scales of one block of a Q8_0 tile.
pub(crate) const Q8_0_TILE_SCALE_BYTES: usize = 32;

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(non_camel_case_types)]
pub enum WeightFormat {
    /// Plain f32.
    F32,
    /// Blocks of 32 signed bytes with an f16 scale.
    Q8_0,
    /// Blocks of 32 unsigned nibbles with an f16 scale and an f16 minimum.
    Q4_1,
}

/// Why a matrix cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackError {
    /// Rows do not consist of whole blocks.
    #[error("columns are not a multiple of the block length {block_len} of {format}: {columns}")]
    PartialBlock {
        /// The format.
        format: WeightFormat,
        /// Its block length.
        block_len: usize,
        /// The columns given.
        columns: usize,
    },
    /// A dimension is zero, or the size exceeds the address space.
    #[error("matrix cannot be represented: {rows} rows by {columns} columns")]
    Shape {
        /// The rows given.
        rows: usize,
        /// The columns given.
        columns: usize,
    },
    /// The bytes do not have the length the shape asks for.
    #[error("matrix of {format} needs {expected} bytes: {actual}")]
    Length {
        /// The format.
        format: WeightFormat,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
}

impl WeightFormat {
    /// Elements in a block.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Q8_0 | Self::Q4_1 => BLOCK_LEN,
        }
    }

    /// Bytes of a stored block.
    fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Q8_0 => 34,
            Self::Q4_1 => 20,
        }
    }

    /// Bytes of a stored row; `None` unless `columns` is a multiple of the block length.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        if !columns.is_multiple_of(self.block_len()) {
            return None;
        }
        (columns / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a packed tile.
    fn tile_bytes(self, columns: usize) -> Option<usize> {
        let blocks = columns / self.block_len();
        match self {
            Self::F32 => blocks.checked_mul(4 * TILE_ROWS),
            Self::Q8_0 => blocks
                .checked_mul(Q8_0_TILE_QUANT_BYTES)?
                .checked_add(q8_0_scale_bytes(blocks)),
            Self::Q4_1 => blocks.checked_mul(Q4_1_TILE_BLOCK_BYTES),
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "F32",
            Self::Q8_0 => "Q8_0",
            Self::Q4_1 => "Q4_1",
        })
    }
}

/// Bytes of the scales at the head of a Q8_0 tile: whole lines.
pub(crate) fn q8_0_scale_bytes(blocks: usize) -> usize {
    (blocks * Q8_0_TILE_SCALE_BYTES).next_multiple_of(LINE_BYTES)
}

/// A weight matrix in the layout the kernels read.
#[derive(Clone)]
pub struct PackedMatrix {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    tile_bytes: usize,
    bytes: AlignedBytes,
}

impl PackedMatrix {
    /// Packs `rows` x `columns` elements stored row by row in GGUF's little-endian blocks.
    ///
    /// # Errors
    /// Columns that are no multiple of the block length, an empty or too large matrix, a wrong number of bytes.
    pub fn pack(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        let block_len = format.block_len();
        let shape_error = PackError::Shape { rows, columns };
        if rows == 0 || columns == 0 {
            return Err(shape_error);
        }
        if !columns.is_multiple_of(block_len) {
            return Err(PackError::PartialBlock {
                format,
                block_len,
                columns,
            });
        }
        let (Some(row_bytes), Some(tile_bytes)) =
            (format.row_bytes(columns), format.tile_bytes(columns))
        else {
            return Err(shape_error);
        };
        let tiles = rows.div_ceil(TILE_ROWS);
        let (Some(expected), Some(packed_bytes)) =
            (row_bytes.checked_mul(rows), tile_bytes.checked_mul(tiles))
        else {
            return Err(shape_error);
        };
        if bytes.len() != expected {
            return Err(PackError::Length {
                format,
                expected,
                actual: bytes.len(),
            });
        }
        if packed_bytes > isize::MAX as usize - LINE_BYTES {
            return Err(shape_error);
        }

        let mut packed = AlignedBytes::zeroed(packed_bytes);
        for (row, row_data) in bytes.chunks_exact(row_bytes).enumerate() {
            let tile = &mut packed.as_mut_slice()[row / TILE_ROWS * tile_bytes..][..tile_bytes];
            pack_row(format, row_data, row % TILE_ROWS, tile);
        }
        Ok(Self {
            format,
            rows,
            columns,
            tile_bytes,
            bytes: packed,
        })
    }

    /// Number of rows, i.e. of outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, i.e. of inputs.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Bytes this matrix occupies in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.bytes.as_slice().len()
    }

    /// Writes the row's elements as f32: d * q, then + m, each operation rounded.
    ///
    /// # Panics
    /// `row` is out of range or `out` is not one row long.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row out of range: {row}");
        assert_eq!(out.len(), self.columns, "output is not one row long");
        let tile = self.tiles(row / TILE_ROWS, 1);
        let lane = row % TILE_ROWS;
        match self.format {
            WeightFormat::F32 => {
                for (k, value) in out.iter_mut().enumerate() {
                    *value = canonical(f32_at(tile, (k * TILE_ROWS + lane) * 4));
                }
            }
            WeightFormat::Q8_0 => {
                let blocks = self.columns / BLOCK_LEN;
                for (block, values) in out.chunks_exact_mut(BLOCK_LEN).enumerate() {
                    let scale = f16_at(tile, block * Q8_0_TILE_SCALE_BYTES + lane * 2);
                    let quants = &tile[q8_0_scale_bytes(blocks) + block * Q8_0_TILE_QUANT_BYTES..];
                    for (k, value) in values.iter_mut().enumerate() {
                        *value = canonical(scale * f32::from(q8_0_quant(quants, lane, k)));
                    }
                }
            }
            WeightFormat::Q4_1 => {
                for (block, values) in out.chunks_exact_mut(BLOCK_LEN).enumerate() {
                    let data = &tile[block * Q4_1_TILE_BLOCK_BYTES..][..Q4_1_TILE_BLOCK_BYTES];
                    let (scale, minimum) = (f16_at(data, lane * 2), f16_at(data, 32 + lane * 2));
                    for (k, value) in values.iter_mut().enumerate() {
                        *value = canonical(
                            scale * f32::from(q4_1_quant(&data[64..], lane, k)) + minimum,
                        );
                    }
                }
            }
        }
    }

    /// The bytes of `count` tiles from tile `first`; the slice starts on a 64-byte boundary.
    pub(crate) fn tiles(&self, first: usize, count: usize) -> &[u8] {
        &self.bytes.as_slice()[first * self.tile_bytes..(first + count) * self.tile_bytes]
    }

    /// Number of tiles.
    pub(crate) fn tile_count(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "PackedMatrix({} {}x{})",
            self.format, self.rows, self.columns
        )
    }
}

/// Scatters one stored row into its lane of a tile.
fn pack_row(format: WeightFormat, row: &[u8], lane: usize, tile: &mut [u8]) {
    match format {
        WeightFormat::F32 => {
            for (k, element) in row.chunks_exact(4).enumerate() {
                tile[(k * TILE_ROWS + lane) * 4..][..4].copy_from_slice(element);
            }
        }
        WeightFormat::Q8_0 => {
            let (scales, quants) = tile.split_at_mut(q8_0_scale_bytes(row.len() / 34));
            for (block, data) in row.chunks_exact(34).enumerate() {
                scales[block * Q8_0_TILE_SCALE_BYTES + lane * 2..][..2].copy_from_slice(&data[..2]);
                let quants = &mut quants[block * Q8_0_TILE_QUANT_BYTES..][..Q8_0_TILE_QUANT_BYTES];
                for (k, quant) in data[2..].iter().enumerate() {
                    quants[k / 4 * 64 + lane * 4 + k % 4] = quant ^ 0x80;
                }
            }
        }
        WeightFormat::Q4_1 => {
            let blocks = tile.chunks_exact_mut(Q4_1_TILE_BLOCK_BYTES);
            for (data, packed) in row.chunks_exact(20).zip(blocks) {
                packed[lane * 2..][..2].copy_from_slice(&data[..2]);
                packed[32 + lane * 2..][..2].copy_from_slice(&data[2..4]);
                // GGUF pairs element j with element j + 16 in one byte, as the tile does.
                for (j, pair) in data[4..].iter().enumerate() {
                    packed[64 + j / 4 * 64 + lane * 4 + j % 4] = *pair;
                }
            }
        }
    }
}

/// The quant of row `lane` at position `k` of a Q8_0 tile's block.
#[inline]
pub(crate) fn q8_0_quant(quants: &[u8], lane: usize, k: usize) -> i8 {
    (quants[k / 4 * 64 + lane * 4 + k % 4] ^ 0x80) as i8
}

/// The quant of row `lane` at position `k` of a Q4_1 tile's block.
#[inline]
pub(crate) fn q4_1_quant(quants: &[u8], lane: usize, k: usize) -> u8 {
    let j = k % 16;
    let pair = quants[j / 4 * 64 + lane * 4 + j % 4];
    if k < 16 { pair & 15 } else { pair >> 4 }
}

/// The f16 stored at `offset`, widened.
#[inline]
pub(crate) fn f16_at(bytes: &[u8], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]))
}

/// The f32 stored at `offset`.
#[inline]
pub(crate) fn f32_at(bytes: &[u8], offset: usize) -> f32 {
    f32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}
