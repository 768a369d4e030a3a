//! A bounds-checked little-endian reader.
use super::GgufError;

#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
}

macro_rules! numbers {
    ($($name:ident: $type:ty),*) => {$(
        pub(crate) fn $name(&mut self) -> Result<$type, GgufError> {
            let mut bytes = [0; size_of::<$type>()];
            bytes.copy_from_slice(self.take(size_of::<$type>() as u64)?);
            Ok(<$type>::from_le_bytes(bytes))
        }
    )*};
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    pub(crate) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.offset) as u64
    }

    pub(crate) fn take(&mut self, count: u64) -> Result<&'a [u8], GgufError> {
        if count > self.remaining() {
            return Err(GgufError::Truncated {
                offset: self.offset,
                needed: count,
                available: self.remaining(),
            });
        }
        let start = self.offset;
        self.offset += count as usize;
        Ok(&self.bytes[start..self.offset])
    }

    /// Fails early when `count` items of at least `size` bytes cannot follow.
    pub(crate) fn expect(&self, count: u64, size: u64) -> Result<(), GgufError> {
        let needed = count.saturating_mul(size);
        if needed > self.remaining() {
            return Err(GgufError::Truncated {
                offset: self.offset,
                needed,
                available: self.remaining(),
            });
        }
        Ok(())
    }

    numbers!(u8: u8, i8: i8, u16: u16, i16: i16, u32: u32, i32: i32, u64: u64, i64: i64, f32: f32, f64: f64);

    pub(crate) fn string(&mut self) -> Result<&'a str, GgufError> {
        let offset = self.offset;
        let length = self.u64()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| GgufError::InvalidText { offset })
    }
}
