//! Weight matrices packed into tiles of 16 rows, one layout for every instruction set.
//!
//! # Design
//! A tile holds 16 consecutive rows, zero-padded at the end of the matrix, and starts on a 64-byte boundary. In it a
//! 32-bit lane of a line of 64 bytes belongs to one row, so vectors run across rows and one accumulator belongs to one
//! output. The bytes serve 16, 8 and 4 lanes alike. Packing moves bits and computes nothing. Packed bytes may be kept in
//! files and used where they are mapped: [`PACKED_LAYOUT_VERSION`] says which layout they have.

mod element;
mod encode;
mod format;
mod pack;
mod packed;
mod stored;

pub(crate) use element::Block;
pub use encode::{EncodeError, encode_rows};
pub(crate) use format::CODES;
pub use format::{ActivationFormat, WeightFormat};
pub(crate) use pack::pack_columns;
pub use packed::{PackError, PackedMatrix, Packer, SharedBytes};
pub use stored::StoredRows;

/// Version of the packed layout of every format; files keep packed bytes, so any change of any byte is a new version.
pub const PACKED_LAYOUT_VERSION: u32 = 1;

/// Rows in a tile.
pub(crate) const TILE_ROWS: usize = 16;

/// Tiles side by side in memory, the first of which has a number.
#[derive(Clone, Copy)]
pub(crate) struct Tiles<'a> {
    bytes: &'a [u8],
    tile_bytes: usize,
    first: usize,
}

impl<'a> Tiles<'a> {
    /// The tiles in `bytes`, on a 64-byte boundary, numbered from `first` on.
    pub(crate) fn new(bytes: &'a [u8], tile_bytes: usize, first: usize) -> Self {
        Self {
            bytes,
            tile_bytes,
            first,
        }
    }

    /// The bytes of `count` tiles from tile `first`.
    pub(crate) fn bytes(&self, first: usize, count: usize) -> &'a [u8] {
        &self.bytes[(first - self.first) * self.tile_bytes..][..count * self.tile_bytes]
    }
}
