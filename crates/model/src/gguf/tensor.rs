//! The tensor table: types, shapes and places.
use super::{GgufError, cursor::Cursor};
use std::{fmt, ops::Range};

/// An element encoding a file may use: its number, name, and the size of its blocks. Listing one
/// here means that its size can be checked, not that its values can be computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block_len: u64,
    block_bytes: u64,
}

const TYPES: &[TensorType] = &[
    TensorType::new(0, "F32", 1, 4),
    TensorType::new(1, "F16", 1, 2),
    TensorType::new(2, "Q4_0", 32, 18),
    TensorType::new(3, "Q4_1", 32, 20),
    TensorType::new(6, "Q5_0", 32, 22),
    TensorType::new(7, "Q5_1", 32, 24),
    TensorType::new(8, "Q8_0", 32, 34),
    TensorType::new(9, "Q8_1", 32, 36),
    TensorType::new(10, "Q2_K", 256, 84),
    TensorType::new(11, "Q3_K", 256, 110),
    TensorType::new(12, "Q4_K", 256, 144),
    TensorType::new(13, "Q5_K", 256, 176),
    TensorType::new(14, "Q6_K", 256, 210),
    TensorType::new(15, "Q8_K", 256, 292),
    TensorType::new(20, "IQ4_NL", 32, 18),
    TensorType::new(23, "IQ4_XS", 256, 136),
    TensorType::new(24, "I8", 1, 1),
    TensorType::new(25, "I16", 1, 2),
    TensorType::new(26, "I32", 1, 4),
    TensorType::new(27, "I64", 1, 8),
    TensorType::new(28, "F64", 1, 8),
    TensorType::new(30, "BF16", 1, 2),
];

impl TensorType {
    /// IEEE-754 single precision.
    pub const F32: Self = TYPES[0];
    /// IEEE-754 half precision.
    pub const F16: Self = TYPES[1];
    /// The upper half of an F32.
    pub const BF16: Self = TYPES[21];
    /// Blocks of 32: an f16 scale, an f16 minimum, 32 four-bit values.
    pub const Q4_1: Self = TYPES[3];
    /// Blocks of 32: an f16 scale, 32 eight-bit values.
    pub const Q8_0: Self = TYPES[6];

    const fn new(id: u32, name: &'static str, block_len: u64, block_bytes: u64) -> Self {
        Self {
            id,
            name,
            block_len,
            block_bytes,
        }
    }

    /// The name that the format's specification gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// The number that stands for it in a file.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.id
    }

    /// Elements of a block; rows are whole numbers of blocks.
    #[must_use]
    pub const fn block_len(self) -> u64 {
        self.block_len
    }

    /// Bytes of so many elements, whole blocks of them; nothing when they are not, or too many.
    #[must_use]
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let blocks = elements / self.block_len;
        let whole = elements.is_multiple_of(self.block_len);
        blocks.checked_mul(self.block_bytes).filter(|_| whole)
    }

    /// The type of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        TYPES.iter().copied().find(|known| known.name == name)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)
    }
}

/// One tensor's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Elements per row: GGUF's first, contiguous dimension.
    pub columns: usize,
    /// Rows: the product of all other dimensions (1 for a vector).
    pub rows: usize,
    /// Dimensions as written, contiguous one first.
    pub dimensions: Vec<u64>,
    /// Encoding.
    pub tensor_type: TensorType,
    /// Which of the model's files it is in, counted from 0.
    pub part: usize,
    /// Where its bytes lie in that file.
    pub range: Range<usize>,
}

/// An entry whose place is still relative to the data section.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    dimensions: Vec<u64>,
    tensor_type: TensorType,
    offset: u64,
}

const DIMENSIONS_MAX: u32 = 4;
/// Bytes of the shortest entry: empty name, no dimensions.
pub(super) const ENTRY_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

impl<'a> Entry<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let name = cursor.string()?;
        let count = cursor.u32()?;
        if count == 0 || count > DIMENSIONS_MAX {
            return Err(GgufError::DimensionCount {
                tensor: name.to_owned(),
                count,
            });
        }
        let dimensions = (0..count)
            .map(|_| cursor.u64())
            .collect::<Result<Vec<_>, _>>()?;
        let id = cursor.u32()?;
        let tensor_type =
            *TYPES
                .iter()
                .find(|known| known.id == id)
                .ok_or(GgufError::UnknownTensorType {
                    tensor: name.to_owned(),
                    id,
                })?;
        let offset = cursor.u64()?;
        Ok(Self {
            name,
            dimensions,
            tensor_type,
            offset,
        })
    }

    /// Of a file that is not there yet.
    pub(super) fn new(name: &'a str, dimensions: &[u64], tensor_type: TensorType) -> Self {
        Self {
            name,
            dimensions: dimensions.to_vec(),
            tensor_type,
            offset: 0,
        }
    }

    /// Checks shape, alignment and place against a data section of `available` bytes at `start`.
    pub(super) fn place(
        self,
        start: usize,
        available: u64,
        alignment: u64,
    ) -> Result<TensorInfo, GgufError> {
        let name = || self.name.to_owned();
        let overflow = || GgufError::ShapeOverflow { tensor: name() };
        let columns = self.dimensions[0];
        let rows = self.dimensions[1..]
            .iter()
            .try_fold(1u64, |rows, &size| rows.checked_mul(size))
            .ok_or_else(overflow)?;
        if columns == 0 || rows == 0 {
            return Err(GgufError::EmptyTensor { tensor: name() });
        }
        if !columns.is_multiple_of(self.tensor_type.block_len) {
            return Err(GgufError::PartialBlock {
                tensor: name(),
                tensor_type: self.tensor_type,
                columns,
            });
        }
        let row = self.tensor_type.bytes(columns);
        let length = row
            .and_then(|row| row.checked_mul(rows))
            .ok_or_else(overflow)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned {
                tensor: name(),
                offset: self.offset,
                alignment,
            });
        }
        match self.offset.checked_add(length) {
            Some(end) if end <= available => {}
            _ => {
                return Err(GgufError::TensorPastEnd {
                    tensor: name(),
                    offset: self.offset,
                    length,
                    available,
                });
            }
        }
        // Offsets fit: the data section is a slice in memory.
        let begin = start + self.offset as usize;
        Ok(TensorInfo {
            columns: columns as usize,
            rows: rows as usize,
            part: 0,
            range: begin..begin + length as usize,
            tensor_type: self.tensor_type,
            dimensions: self.dimensions,
        })
    }
}
