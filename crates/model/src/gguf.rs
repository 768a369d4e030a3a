//! Reads GGUF model files, versions 2 and 3, and writes version 3.
//!
//! # Design
//! [`Gguf::parse`] reads the header, the metadata and the tensor table from the bytes of a whole
//! file. Metadata are owned; tensors stay where they are, and [`Gguf::tensor_bytes`] gives a slice. A model may be split into
//! several files ([`Gguf::parse_parts`]): the first has the metadata, each has some of the tensors, and `split.no` and
//! `split.count` say which of how many it is. [`Writer`] writes a file as its tensors are made.
//!
//! # Errors
//! The file is untrusted. Every count, offset and shape is checked against the file's size and
//! against overflow before it is used; nothing here panics or allocates more than a small multiple
//! of the file's size.
pub(crate) mod cursor;
mod tensor;
#[cfg(test)]
mod tests;
mod value;
mod write;

use cursor::Cursor;
use std::collections::{BTreeMap, btree_map::Entry as MapEntry};
pub use tensor::{TensorInfo, TensorType};
pub use value::Value;
pub(crate) use write::header;
pub use write::{NewTensor, Writer};

/// The alignment of tensor data when the metadata name none.
const ALIGNMENT_DEFAULT: u64 = 32;
/// Bytes of the shortest metadata pair: an empty key, a type, one byte.
const PAIR_BYTES_MIN: u64 = 8 + 4 + 1;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GgufError {
    #[error("not a GGUF file: it starts with bytes {found:02x?} instead of \"GGUF\"")]
    WrongMagic { found: Vec<u8> },
    #[error("unsupported GGUF version (2 and 3 are read): {version}")]
    UnsupportedVersion { version: u32 },
    #[error("file is truncated: {needed} bytes needed at byte {offset}, {available} there")]
    Truncated {
        offset: usize,
        needed: u64,
        available: u64,
    },
    #[error("text at byte {offset} is not UTF-8")]
    InvalidText { offset: usize },
    #[error("metadata key has a value of an unknown type {kind}: {key}")]
    UnknownValueType { key: String, kind: u32 },
    #[error("metadata key has a boolean that is neither 0 nor 1 but {byte}: {key}")]
    InvalidBool { key: String, byte: u8 },
    #[error("metadata array of length {length} at depth {depth} is too large: {key}")]
    ArrayTooLarge {
        key: String,
        length: u64,
        depth: usize,
    },
    #[error("metadata key occurs twice: {key}")]
    DuplicateKey { key: String },
    #[error("metadata key is missing: {key}")]
    MissingKey { key: String },
    #[error("metadata key is a {found}, not a {wanted}: {key}")]
    WrongValueType {
        key: String,
        wanted: &'static str,
        found: &'static str,
    },
    #[error("alignment is not a power of two between 1 and 65536: {alignment}")]
    InvalidAlignment { alignment: u64 },
    #[error("tensor occurs twice: {tensor}")]
    DuplicateTensor { tensor: String },
    #[error("tensor has {count} dimensions, not 1 to 4: {tensor}")]
    DimensionCount { tensor: String, count: u32 },
    #[error("tensor has an unknown type {id}: {tensor}")]
    UnknownTensorType { tensor: String, id: u32 },
    #[error("tensor has no elements: {tensor}")]
    EmptyTensor { tensor: String },
    #[error("tensor's rows of {columns} elements are not whole {tensor_type} blocks: {tensor}")]
    PartialBlock {
        tensor: String,
        tensor_type: TensorType,
        columns: u64,
    },
    #[error("tensor's size overflows: {tensor}")]
    ShapeOverflow { tensor: String },
    #[error("tensor's offset {offset} is not a multiple of the alignment {alignment}: {tensor}")]
    Misaligned {
        tensor: String,
        offset: u64,
        alignment: u64,
    },
    #[error(
        "tensor ends past the file: {length} bytes at {offset} of {available} bytes of data: {tensor}"
    )]
    TensorPastEnd {
        tensor: String,
        offset: u64,
        length: u64,
        available: u64,
    },
    #[error("tensors overlap: {first} and {second}")]
    TensorsOverlap { first: String, second: String },
    #[error("tensor is missing: {tensor}")]
    MissingTensor { tensor: String },
    #[error(
        "file is part {number} of a model of {count} files, and stands in the place of part {place} of {given}"
    )]
    WrongPart {
        number: u64,
        count: u64,
        place: usize,
        given: usize,
    },
    #[error("the model's files have {found} tensors together, not {wanted}")]
    WrongTensorCount { wanted: u64, found: usize },
}

/// A parsed file, or several that are one model.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    parts: Vec<&'a [u8]>,
    /// Where each file's tensors begin.
    data: Vec<usize>,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl<'a> Gguf<'a> {
    /// Parses the bytes of a whole file.
    ///
    /// # Errors
    /// The first thing found wrong; a file that is one of several is.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        Self::parse_parts(&[bytes])
    }

    /// Parses the bytes of the files of a model, in their order.
    ///
    /// # Errors
    /// The first thing found wrong, in one of them or between them.
    ///
    /// # Panics
    /// Without files.
    pub fn parse_parts(parts: &[&'a [u8]]) -> Result<Self, GgufError> {
        let parts: Vec<_> = parts.iter().map(|bytes| (*bytes, bytes.len())).collect();
        Self::parse_heads(&parts)
    }

    /// Parses what stands before the tensors in the files of a model, each with the length of the whole file. Asking for
    /// a tensor's bytes is an error then.
    ///
    /// # Errors
    /// As [`Self::parse_parts`].
    ///
    /// # Panics
    /// Without files, or when one is shorter than what is given of it.
    pub fn parse_heads(parts: &[(&'a [u8], usize)]) -> Result<Self, GgufError> {
        let mut files = parts
            .iter()
            .map(|(bytes, length)| Self::parse_part(bytes, *length));
        let mut whole = files.next().expect("a model has files")?;
        whole.check_part(0, parts.len())?;
        for (index, file) in (1..).zip(files) {
            let file = file?;
            file.check_part(index, parts.len())?;
            for (tensor, info) in file.tensors {
                let info = TensorInfo {
                    part: index,
                    ..info
                };
                if whole.tensors.insert(tensor.clone(), info).is_some() {
                    return Err(GgufError::DuplicateTensor { tensor });
                }
            }
            whole.parts.extend(file.parts);
            whole.data.extend(file.data);
        }
        if parts.len() > 1 && whole.metadata.contains_key("split.tensors.count") {
            let (wanted, found) = (whole.unsigned("split.tensors.count")?, whole.tensors.len());
            if wanted != found as u64 {
                return Err(GgufError::WrongTensorCount { wanted, found });
            }
        }
        Ok(whole)
    }

    /// Whether it is the part of a model that it has to be, counted from 0.
    fn check_part(&self, place: usize, given: usize) -> Result<(), GgufError> {
        let of = |key: &str, otherwise: u64| match self.metadata.get(key) {
            Some(value) => unsigned(key, value),
            None => Ok(otherwise),
        };
        let (number, count) = (of("split.no", 0)?, of("split.count", 1)?.max(1));
        if (number, count) == (place as u64, given as u64) {
            return Ok(());
        }
        Err(GgufError::WrongPart {
            number: number.saturating_add(1),
            count,
            place: place + 1,
            given,
        })
    }

    fn parse_part(bytes: &'a [u8], length: usize) -> Result<Self, GgufError> {
        assert!(bytes.len() <= length, "a part is no longer than its file");
        let mut cursor = Cursor::new(bytes);
        if !bytes.starts_with(b"GGUF") {
            let found = bytes[..bytes.len().min(4)].to_vec();
            return Err(GgufError::WrongMagic { found });
        }
        cursor.take(4)?;
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::UnsupportedVersion { version });
        }
        let tensor_count = cursor.u64()?;
        let pair_count = cursor.u64()?;
        let metadata = read_metadata(&mut cursor, pair_count)?;
        cursor.expect(tensor_count, tensor::ENTRY_BYTES_MIN)?;
        let entries = (0..tensor_count)
            .map(|_| tensor::Entry::read(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        let alignment = match metadata.get("general.alignment") {
            Some(value) => unsigned("general.alignment", value)?,
            None => ALIGNMENT_DEFAULT,
        };
        if !alignment.is_power_of_two() || alignment > 1 << 16 {
            return Err(GgufError::InvalidAlignment { alignment });
        }
        // The data section starts at the next multiple; a file without tensors may end before it.
        let start = cursor
            .offset()
            .next_multiple_of(alignment as usize)
            .min(length);
        let available = (length - start) as u64;
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let name = entry.name;
            let info = entry.place(start, available, alignment)?;
            if tensors.insert(name.to_owned(), info).is_some() {
                return Err(GgufError::DuplicateTensor {
                    tensor: name.to_owned(),
                });
            }
        }
        check_overlaps(&tensors)?;
        Ok(Self {
            parts: vec![bytes],
            data: vec![start],
            metadata,
            tensors,
        })
    }

    /// What a file of these metadata and tensors will be, as far as that can be told before their bytes are there: asking for
    /// those panics.
    ///
    /// # Errors
    /// When a tensor has a shape that no file has, or occurs twice.
    pub(crate) fn of_table(
        metadata: &[(String, Value)],
        tensors: &[NewTensor],
    ) -> Result<Gguf<'static>, GgufError> {
        let mut table = BTreeMap::new();
        for tensor in tensors {
            let name = &tensor.name;
            let entry = tensor::Entry::new(name, &tensor.dimensions, tensor.tensor_type);
            let info = entry.place(0, u64::MAX, 1)?;
            if table.insert(name.clone(), info).is_some() {
                return Err(GgufError::DuplicateTensor {
                    tensor: name.clone(),
                });
            }
        }
        Ok(Gguf {
            parts: Vec::new(),
            data: Vec::new(),
            metadata: metadata.iter().cloned().collect(),
            tensors: table,
        })
    }

    /// All metadata.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// The tensor table.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A tensor's entry.
    ///
    /// # Errors
    /// When the file has none of that name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensors.get(name).ok_or(GgufError::MissingTensor {
            tensor: name.to_owned(),
        })
    }

    /// A tensor's bytes, as stored.
    ///
    /// # Errors
    /// When the file has none of that name, or is given without its tensors.
    pub fn tensor_bytes(&self, name: &str) -> Result<&'a [u8], GgufError> {
        let TensorInfo { part, range, .. } = self.tensor(name)?;
        let bytes = self.parts[*part];
        bytes.get(range.clone()).ok_or(GgufError::Truncated {
            offset: range.start,
            needed: range.len() as u64,
            available: bytes.len().saturating_sub(range.start) as u64,
        })
    }

    /// What stands before the tensors in each file, and the whole file's length: enough for [`Self::parse_heads`].
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&'a [u8], usize)> {
        let parts = self.parts.iter().zip(&self.data);
        parts.map(|(bytes, start)| (&bytes[..*start], bytes.len()))
    }

    /// A required value.
    ///
    /// # Errors
    /// When the key is missing.
    pub fn value(&self, key: &str) -> Result<&Value, GgufError> {
        self.metadata.get(key).ok_or(GgufError::MissingKey {
            key: key.to_owned(),
        })
    }

    /// A required unsigned integer of any width.
    ///
    /// # Errors
    /// When the key is missing or something else.
    pub fn unsigned(&self, key: &str) -> Result<u64, GgufError> {
        unsigned(key, self.value(key)?)
    }

    /// A required f32.
    ///
    /// # Errors
    /// When the key is missing or something else.
    pub fn float(&self, key: &str) -> Result<f32, GgufError> {
        let value = self.value(key)?;
        value
            .as_f32()
            .ok_or_else(|| wrong_type(key, "number (f32)", value))
    }

    /// A required text.
    ///
    /// # Errors
    /// When the key is missing or something else.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        let value = self.value(key)?;
        value.as_str().ok_or_else(|| wrong_type(key, "text", value))
    }

    /// A required array.
    ///
    /// # Errors
    /// When the key is missing or something else.
    pub fn array(&self, key: &str) -> Result<&[Value], GgufError> {
        let value = self.value(key)?;
        value
            .as_array()
            .ok_or_else(|| wrong_type(key, "array", value))
    }
}

fn unsigned(key: &str, value: &Value) -> Result<u64, GgufError> {
    value
        .as_u64()
        .ok_or_else(|| wrong_type(key, "non-negative integer", value))
}

fn wrong_type(key: &str, wanted: &'static str, value: &Value) -> GgufError {
    GgufError::WrongValueType {
        key: key.to_owned(),
        wanted,
        found: value.type_name(),
    }
}

fn read_metadata(
    cursor: &mut Cursor<'_>,
    count: u64,
) -> Result<BTreeMap<String, Value>, GgufError> {
    cursor.expect(count, PAIR_BYTES_MIN)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.string()?;
        let value = Value::read(cursor, key)?;
        match metadata.entry(key.to_owned()) {
            MapEntry::Vacant(place) => place.insert(value),
            MapEntry::Occupied(place) => {
                return Err(GgufError::DuplicateKey {
                    key: place.key().clone(),
                });
            }
        };
    }
    Ok(metadata)
}

fn check_overlaps(tensors: &BTreeMap<String, TensorInfo>) -> Result<(), GgufError> {
    let mut places: Vec<_> = tensors
        .iter()
        .map(|(name, info)| (info.range.start, info.range.end, name))
        .collect();
    places.sort_unstable();
    for pair in places.windows(2) {
        if pair[1].0 < pair[0].1 {
            return Err(GgufError::TensorsOverlap {
                first: pair[0].2.clone(),
                second: pair[1].2.clone(),
            });
        }
    }
    Ok(())
}
