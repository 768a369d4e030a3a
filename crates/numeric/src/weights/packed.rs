//! A weight matrix in the layout the kernels read.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::pack::pack_tile;
use super::{TILE_ROWS, Tiles, WeightFormat, element};
use crate::aligned::{AlignedBytes, LINE_BYTES};

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
    /// There are more columns than the operation takes.
    #[error("more columns than {max}: {columns}")]
    Columns {
        /// Most columns.
        max: usize,
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
    /// The place of a packed matrix does not lie in the memory, or not on a 64-byte boundary.
    #[error(
        "{length} bytes of packed matrix have no place in memory of {available} bytes: {offset}"
    )]
    Place {
        /// Where the matrix should begin.
        offset: usize,
        /// Its bytes.
        length: usize,
        /// Bytes of the memory.
        available: usize,
    },
    /// The zero-point of an INT8 row is out of range.
    #[error("zero-point of row {row} is not between -128 and 127: {zero_point}")]
    ZeroPoint {
        /// The row.
        row: usize,
        /// The value stored.
        zero_point: i32,
    },
}

/// Memory that holds packed matrices and that others own, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A weight matrix in the layout the kernels read.
#[derive(Clone)]
pub struct PackedMatrix {
    shape: Packing,
    /// Shared with the other matrices of a model.
    storage: Storage,
}

#[derive(Clone)]
enum Storage {
    Owned(Arc<AlignedBytes>),
    Shared(SharedBytes),
}

impl Storage {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes.as_slice(),
            Self::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

/// A matrix's shape, and where its tiles are.
#[derive(Clone, Debug)]
struct Packing {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    tile_bytes: usize,
    range: Range<usize>,
}

impl Packing {
    fn new(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        start: usize,
    ) -> Result<Self, PackError> {
        let layout = format.layout();
        let block_len = layout.block_len;
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
        let blocks = columns / block_len;
        let sizes = || {
            let row_bytes = layout.row_bytes(blocks)?;
            row_bytes.checked_mul(rows)?;
            let tile_bytes = layout.tile_bytes(blocks)?;
            let packed = tile_bytes.checked_mul(rows.div_ceil(TILE_ROWS))?;
            let end = start.checked_add(packed)?;
            (end <= isize::MAX as usize - LINE_BYTES).then_some((row_bytes, tile_bytes, end))
        };
        let (row_bytes, tile_bytes, end) = sizes().ok_or(shape_error)?;
        Ok(Self {
            format,
            rows,
            columns,
            row_bytes,
            tile_bytes,
            range: start..end,
        })
    }

    /// Checks stored bytes and writes the tiles.
    fn pack(&self, bytes: &[u8], tiles: &mut [u8]) -> Result<(), PackError> {
        let expected = self.row_bytes * self.rows;
        if bytes.len() != expected {
            return Err(PackError::Length {
                format: self.format,
                expected,
                actual: bytes.len(),
            });
        }
        check_zero_points(self.format, self.row_bytes, bytes)?;
        let blocks = self.columns / self.format.block_len();
        for (tile, rows) in tiles
            .chunks_exact_mut(self.tile_bytes)
            .zip(bytes.chunks(self.row_bytes * TILE_ROWS))
        {
            pack_tile(self.format, rows, self.row_bytes, blocks, tile);
        }
        Ok(())
    }
}

/// Packs the matrices of a model into one piece of memory, in the order in which they are read.
pub struct Packer {
    storage: AlignedBytes,
    packed: Vec<Packing>,
}

impl Packer {
    /// Room for `bytes`, the sum of [`PackedMatrix::packed_bytes`] of what will be packed.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            storage: AlignedBytes::zeroed(bytes),
            packed: Vec::new(),
        }
    }

    /// Packs the next matrix.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    ///
    /// # Panics
    /// There is no room.
    pub fn pack(
        &mut self,
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<(), PackError> {
        let start = self.packed.last().map_or(0, |packed| packed.range.end);
        let packing = Packing::new(format, rows, columns, start)?;
        packing.pack(
            bytes,
            &mut self.storage.as_mut_slice()[packing.range.clone()],
        )?;
        self.packed.push(packing);
        Ok(())
    }

    /// The matrices, in order.
    #[must_use]
    pub fn finish(self) -> Vec<PackedMatrix> {
        let storage = Arc::new(self.storage);
        self.packed
            .into_iter()
            .map(|shape| PackedMatrix {
                shape,
                storage: Storage::Owned(Arc::clone(&storage)),
            })
            .collect()
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Packer({} matrices)", self.packed.len())
    }
}

impl PackedMatrix {
    /// Bytes that such a matrix takes when packed.
    ///
    /// # Errors
    /// As [`Self::pack`], but for the bytes.
    pub fn packed_bytes(
        format: WeightFormat,
        rows: usize,
        columns: usize,
    ) -> Result<usize, PackError> {
        Ok(Packing::new(format, rows, columns, 0)?.range.end)
    }

    /// Packs `rows` x `columns` elements stored row by row in little-endian blocks.
    ///
    /// # Errors
    /// Columns that are no multiple of the block length, an empty or too large matrix, a wrong number of bytes, an INT8
    /// zero-point out of range.
    pub fn pack(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        let shape = Packing::new(format, rows, columns, 0)?;
        // Before memory is taken for it.
        let expected = shape.row_bytes * rows;
        if bytes.len() != expected {
            return Err(PackError::Length {
                format,
                expected,
                actual: bytes.len(),
            });
        }
        let mut storage = AlignedBytes::zeroed(shape.range.end);
        shape.pack(bytes, storage.as_mut_slice())?;
        Ok(Self {
            shape,
            storage: Storage::Owned(Arc::new(storage)),
        })
    }

    /// A matrix that lies packed in `memory` from byte `offset` on, as [`Self::as_bytes`] gave it under the same
    /// [`PACKED_LAYOUT_VERSION`](crate::PACKED_LAYOUT_VERSION). It is used where it is: nothing is read or copied now, and
    /// other bytes make another matrix.
    ///
    /// # Errors
    /// A shape that cannot be packed; a place that is not in the memory or not on a 64-byte boundary; INT8, whose
    /// zero-points could not be trusted.
    pub fn in_place(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        memory: SharedBytes,
        offset: usize,
    ) -> Result<Self, PackError> {
        let length = Self::packed_bytes(format, rows, columns)?;
        let place = |available| PackError::Place {
            offset,
            length,
            available,
        };
        let bytes = (*memory).as_ref();
        let shape = Packing::new(format, rows, columns, offset).map_err(|_| place(bytes.len()))?;
        let inside = bytes.get(shape.range.clone());
        if format == WeightFormat::Int8 || !inside.is_some_and(is_aligned) {
            return Err(place(bytes.len()));
        }
        Ok(Self {
            shape,
            storage: Storage::Shared(memory),
        })
    }

    /// The tiles' bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.storage.as_slice()[self.shape.range.clone()]
    }

    /// Whether it lies in memory that others own.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.storage, Storage::Shared(_))
    }

    /// Number of rows, i.e. of outputs.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Number of columns, i.e. of inputs.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.shape.columns
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.shape.format
    }

    /// Bytes this matrix occupies in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.shape.range.len()
    }

    /// Writes the row's elements as f32, each operation rounded: d * q, then + m; superblocks (d * s) * q, then
    /// - dmin * m.
    ///
    /// # Panics
    /// `row` is out of range or `out` is not one row long.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows(), "row out of range: {row}");
        assert_eq!(out.len(), self.columns(), "output is not one row long");
        let tile = self.tiles().bytes(row / TILE_ROWS, 1);
        element::read_row(self.format(), tile, row % TILE_ROWS, out);
    }

    /// All tiles.
    pub(crate) fn tiles(&self) -> Tiles<'_> {
        let bytes = self.as_bytes();
        // Memory of others is asked for anew each time.
        assert!(is_aligned(bytes), "tiles are on a 64-byte boundary");
        Tiles::new(bytes, self.shape.tile_bytes, 0)
    }

    /// Number of tiles.
    pub(crate) fn tile_count(&self) -> usize {
        self.rows().div_ceil(TILE_ROWS)
    }
}

impl fmt::Debug for PackedMatrix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "PackedMatrix({} {}x{})",
            self.format(),
            self.rows(),
            self.columns()
        )
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(LINE_BYTES)
}

/// Refuses INT8 rows whose zero-point is no signed byte.
pub(super) fn check_zero_points(
    format: WeightFormat,
    row_bytes: usize,
    bytes: &[u8],
) -> Result<(), PackError> {
    if format != WeightFormat::Int8 {
        return Ok(());
    }
    for (row, stored) in bytes.chunks_exact(row_bytes).enumerate() {
        let zero_point = i32::from_le_bytes([stored[4], stored[5], stored[6], stored[7]]);
        if i8::try_from(zero_point).is_err() {
            return Err(PackError::ZeroPoint { row, zero_point });
        }
    }
    Ok(())
}
