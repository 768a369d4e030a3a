//! Weight matrices packed into tiles of 16 rows, one layout for every instruction set.
//!
//! # Design
//! A tile holds 16 consecutive rows, zero-padded at the end of the matrix, and starts on a 64-byte boundary. In it a
//! 32-bit lane of a line of 64 bytes belongs to one row, so vectors run across rows and one accumulator belongs to one
//! output. The bytes serve 16, 8 and 4 lanes alike. Packing moves bits and computes nothing.

mod element;
mod format;
mod pack;
mod packed;

pub(crate) use element::Block;
pub use format::{ActivationFormat, WeightFormat};
pub use packed::{PackError, PackedMatrix, Packer};

/// Rows in a tile.
pub(crate) const TILE_ROWS: usize = 16;
