//! Metadata values.
use super::{GgufError, cursor::Cursor};

/// Arrays longer than this are refused: no vocabulary comes near, and a value takes more memory
/// than it takes bytes in the file.
const ARRAY_LENGTH_MAX: u64 = 1 << 24;
/// Arrays of arrays deeper than this are refused.
const ARRAY_DEPTH_MAX: usize = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value {
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, GgufError> {
        let kind = cursor.u32()?;
        Self::read_kind(cursor, key, kind, 0)
    }

    fn read_kind(
        cursor: &mut Cursor<'_>,
        key: &str,
        kind: u32,
        depth: usize,
    ) -> Result<Self, GgufError> {
        Ok(match kind {
            0 => Self::U8(cursor.u8()?),
            1 => Self::I8(cursor.i8()?),
            2 => Self::U16(cursor.u16()?),
            3 => Self::I16(cursor.i16()?),
            4 => Self::U32(cursor.u32()?),
            5 => Self::I32(cursor.i32()?),
            6 => Self::F32(cursor.f32()?),
            7 => match cursor.u8()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                byte => {
                    return Err(GgufError::InvalidBool {
                        key: key.to_owned(),
                        byte,
                    });
                }
            },
            8 => Self::String(cursor.string()?.to_owned()),
            9 => Self::Array(Self::read_array(cursor, key, depth)?),
            10 => Self::U64(cursor.u64()?),
            11 => Self::I64(cursor.i64()?),
            12 => Self::F64(cursor.f64()?),
            _ => {
                return Err(GgufError::UnknownValueType {
                    key: key.to_owned(),
                    kind,
                });
            }
        })
    }

    fn read_array(
        cursor: &mut Cursor<'_>,
        key: &str,
        depth: usize,
    ) -> Result<Vec<Self>, GgufError> {
        let kind = cursor.u32()?;
        let length = cursor.u64()?;
        if length > ARRAY_LENGTH_MAX || depth >= ARRAY_DEPTH_MAX {
            return Err(GgufError::ArrayTooLarge {
                key: key.to_owned(),
                length,
                depth,
            });
        }
        cursor.expect(length, 1)?;
        (0..length)
            .map(|_| Self::read_kind(cursor, key, kind, depth + 1))
            .collect()
    }

    /// The number that stands for the value's type in a file.
    pub(super) fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// The name of the value's type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// The value of any integer type, when it is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value of an `f32`.
    #[must_use]
    pub fn as_f32(&self) -> Option<f32> {
        match *self {
            Self::F32(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a `bool`.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }
}
