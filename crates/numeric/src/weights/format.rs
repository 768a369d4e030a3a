//! The weight formats: how a row is stored, and how a tile of 16 rows is laid out for the kernels.

use std::fmt;

use crate::aligned::LINE_BYTES;

/// How the elements of a weight matrix are stored. All but [`Int8`](Self::Int8) are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(non_camel_case_types)]
pub enum WeightFormat {
    /// Plain f32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of 32 signed bytes with an f16 scale.
    Q8_0,
    /// Blocks of 32 nibbles, less 8, with an f16 scale.
    Q4_0,
    /// Blocks of 32 nibbles with an f16 scale and an f16 minimum.
    Q4_1,
    /// Blocks of 32 five-bit integers, less 16, with an f16 scale.
    Q5_0,
    /// Blocks of 32 five-bit integers with an f16 scale and an f16 minimum.
    Q5_1,
    /// Superblocks of 16 by 16 two-bit integers, with four-bit scales and minima.
    Q2_K,
    /// Superblocks of 16 by 16 three-bit integers, less 4, with six-bit scales.
    Q3_K,
    /// Superblocks of 8 by 32 nibbles, with six-bit scales and minima.
    Q4_K,
    /// Superblocks of 8 by 32 five-bit integers, with six-bit scales and minima.
    Q5_K,
    /// Superblocks of 16 by 16 six-bit integers, less 32, with eight-bit scales.
    Q6_K,
    /// Signed bytes with an f32 scale and an integer zero-point per row: the affine format of calibration. A row is
    /// stored as the scale, the zero-point (an i32 between -128 and 127) and the bytes.
    Int8,
    /// Blocks of 32 nibbles that stand for the integers of a table, with an f16 scale.
    IQ4_NL,
    /// Superblocks of 8 by 32 such nibbles, with six-bit scales.
    IQ4_XS,
}

/// The integers that the nibbles of IQ4_NL and IQ4_XS stand for.
pub(crate) const CODES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// What activations a product with weights of a format reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActivationFormat {
    /// f32 as they are.
    F32,
    /// Signed bytes in blocks of 32, an f32 scale each.
    Blocks32,
    /// Signed bytes in blocks of 256, an f32 scale each.
    Blocks256,
}

impl ActivationFormat {
    /// Elements that share a scale.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Blocks32 => 32,
            Self::Blocks256 => 256,
        }
    }
}

/// Where the parts of a stored row go in a tile.
///
/// A tile is a head and a body, each on a 64-byte boundary. The head holds `row_words` lines of 16 words, one per row,
/// and then per block and half (scale, minimum) 16 f16. The body holds per block `words` lines of 16 words, so that a
/// 32-bit lane belongs to one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Elements in a block.
    pub(crate) block_len: usize,
    /// Bytes of a stored block.
    pub(crate) block_bytes: usize,
    /// Words at the start of a stored row.
    pub(crate) row_words: usize,
    /// Offsets of the f16 of a stored block: scale, minimum.
    pub(crate) halves: &'static [usize],
    /// Words of a packed block.
    pub(crate) words: usize,
}

impl Layout {
    const fn new(
        block_len: usize,
        block_bytes: usize,
        halves: &'static [usize],
        words: usize,
    ) -> Self {
        Self {
            block_len,
            block_bytes,
            row_words: 0,
            halves,
            words,
        }
    }

    /// Bytes of the head of a tile with `blocks` blocks per row; `None` if that overflows.
    pub(crate) fn head_bytes(&self, blocks: usize) -> Option<usize> {
        blocks
            .checked_mul(self.halves.len() * 32)?
            .checked_next_multiple_of(LINE_BYTES)?
            .checked_add(self.row_words * LINE_BYTES)
    }

    /// Bytes of a tile with `blocks` blocks per row; `None` if that overflows.
    pub(crate) fn tile_bytes(&self, blocks: usize) -> Option<usize> {
        blocks
            .checked_mul(self.words * LINE_BYTES)?
            .checked_add(self.head_bytes(blocks)?)
    }

    /// Bytes of a stored row with `blocks` blocks; `None` if that overflows.
    pub(crate) fn row_bytes(&self, blocks: usize) -> Option<usize> {
        blocks
            .checked_mul(self.block_bytes)?
            .checked_add(self.row_words * 4)
    }
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Int8,
        Self::IQ4_NL,
        Self::IQ4_XS,
    ];

    pub(crate) const fn layout(self) -> Layout {
        match self {
            Self::F32 => Layout::new(1, 4, &[], 1),
            Self::F16 | Self::Bf16 => Layout::new(1, 2, &[0], 0),
            Self::Q8_0 => Layout::new(32, 34, &[0], 8),
            Self::Q4_0 => Layout::new(32, 18, &[0], 4),
            Self::Q4_1 => Layout::new(32, 20, &[0, 2], 4),
            Self::Q5_0 => Layout::new(32, 22, &[0], 5),
            Self::Q5_1 => Layout::new(32, 24, &[0, 2], 5),
            Self::Q2_K => Layout::new(256, 84, &[80, 82], 20),
            Self::Q3_K => Layout::new(256, 110, &[108], 28),
            Self::Q4_K => Layout::new(256, 144, &[0, 2], 36),
            Self::Q5_K => Layout::new(256, 176, &[0, 2], 44),
            Self::Q6_K => Layout::new(256, 210, &[208], 52),
            Self::IQ4_NL => Layout::new(32, 18, &[0], 4),
            Self::IQ4_XS => Layout::new(256, 136, &[0], 34),
            Self::Int8 => Layout {
                row_words: 2,
                ..Layout::new(32, 32, &[], 8)
            },
        }
    }

    /// Elements in a block.
    #[must_use]
    pub fn block_len(self) -> usize {
        self.layout().block_len
    }

    /// The activations that a product with such weights reads.
    #[must_use]
    pub fn activations(self) -> ActivationFormat {
        match self.block_len() {
            1 => ActivationFormat::F32,
            32 => ActivationFormat::Blocks32,
            _ => ActivationFormat::Blocks256,
        }
    }

    /// Bytes of a stored row; `None` unless `columns` is a multiple of the block length.
    #[must_use]
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let layout = self.layout();
        if !columns.is_multiple_of(layout.block_len) {
            return None;
        }
        layout.row_bytes(columns / layout.block_len)
    }

    /// The name, as GGUF spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::Int8 => "INT8",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
