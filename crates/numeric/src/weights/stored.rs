//! Weight rows where somebody else keeps them, not packed.

use super::pack::pack_tile;
use super::packed::{PackError, check_zero_points};
use super::{TILE_ROWS, WeightFormat};

/// Rows of a matrix as they are stored, row by row in little-endian blocks. There may be none, or no columns.
#[derive(Clone, Copy, Debug)]
pub struct StoredRows<'a> {
    format: WeightFormat,
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: &'a [u8],
}

impl<'a> StoredRows<'a> {
    /// Most columns: 16 rows of them are packed into memory of every thread.
    pub const COLUMNS_MAX: usize = 1 << 20;

    /// Bytes of so many rows and columns.
    ///
    /// # Errors
    /// Columns that are no multiple of the block length or exceed [`Self::COLUMNS_MAX`], a size beyond the address
    /// space.
    pub fn bytes(format: WeightFormat, rows: usize, columns: usize) -> Result<usize, PackError> {
        Self::shape(format, rows, columns).map(|(_, bytes)| bytes)
    }

    /// `rows` x `columns` elements in `bytes`.
    ///
    /// # Errors
    /// As [`Self::bytes`]; a wrong number of bytes; an INT8 zero-point out of range.
    pub fn new(
        format: WeightFormat,
        rows: usize,
        columns: usize,
        bytes: &'a [u8],
    ) -> Result<Self, PackError> {
        let (row_bytes, expected) = Self::shape(format, rows, columns)?;
        if bytes.len() != expected {
            return Err(PackError::Length {
                format,
                expected,
                actual: bytes.len(),
            });
        }
        check_zero_points(format, row_bytes, bytes)?;
        Ok(Self {
            format,
            rows,
            columns,
            row_bytes,
            bytes,
        })
    }

    /// Bytes of a row and of all.
    fn shape(
        format: WeightFormat,
        rows: usize,
        columns: usize,
    ) -> Result<(usize, usize), PackError> {
        if columns > Self::COLUMNS_MAX {
            return Err(PackError::Columns {
                max: Self::COLUMNS_MAX,
                columns,
            });
        }
        let block_len = format.block_len();
        let row_bytes = format.row_bytes(columns).ok_or(PackError::PartialBlock {
            format,
            block_len,
            columns,
        })?;
        let bytes = row_bytes.checked_mul(rows);
        Ok((row_bytes, bytes.ok_or(PackError::Shape { rows, columns })?))
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of a packed tile; there are columns.
    pub(crate) fn tile_bytes(&self) -> usize {
        let layout = self.format.layout();
        layout
            .tile_bytes(self.columns / layout.block_len)
            .expect("columns are bounded")
    }

    /// Packs tile `tile`. Lanes beyond the last row stay as they are.
    pub(crate) fn pack(&self, tile: usize, out: &mut [u8]) {
        let first = tile * TILE_ROWS;
        let rows = first * self.row_bytes..(first + TILE_ROWS).min(self.rows) * self.row_bytes;
        let blocks = self.columns / self.format.block_len();
        pack_tile(self.format, &self.bytes[rows], self.row_bytes, blocks, out);
    }
}
