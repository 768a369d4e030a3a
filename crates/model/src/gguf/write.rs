//! Writes files.
use super::{ALIGNMENT_DEFAULT, TensorType, Value};
use std::io::{self, Write};

/// A tensor of a file that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions, the contiguous one first.
    pub dimensions: Vec<u64>,
    /// Its encoding.
    pub tensor_type: TensorType,
}

impl NewTensor {
    fn bytes(&self) -> u64 {
        let mut dimensions = self.dimensions.iter();
        let row = dimensions
            .next()
            .and_then(|columns| self.tensor_type.bytes(*columns));
        let bytes = dimensions.try_fold(row.unwrap_or_default(), |bytes, dimension| {
            bytes.checked_mul(*dimension)
        });
        bytes
            .filter(|bytes| *bytes > 0)
            .expect("a tensor is made of whole blocks")
    }
}

/// Writes a file of version 3, tensor by tensor, so that no more than one need be in memory.
///
/// # Determinism
/// Metadata and tensors stand in the file in the order in which they are given.
#[derive(Clone, Debug)]
pub struct Writer {
    header: Vec<u8>,
    lengths: Vec<u64>,
    alignment: u64,
}

impl Writer {
    /// Lays a file out.
    ///
    /// # Panics
    /// When a tensor is not made of whole blocks, or the metadata have an alignment that is no power of two.
    #[must_use]
    pub fn new(metadata: &[(String, Value)], tensors: &[NewTensor]) -> Self {
        let alignment = metadata.iter().find(|(key, _)| key == "general.alignment");
        let alignment = alignment.map_or(ALIGNMENT_DEFAULT, |(_, value)| {
            value.as_u64().unwrap_or_default()
        });
        assert!(
            alignment.is_power_of_two(),
            "an alignment is a power of two"
        );
        let lengths: Vec<u64> = tensors.iter().map(NewTensor::bytes).collect();
        Self {
            header: header(metadata, tensors.iter().zip(&lengths), alignment),
            lengths,
            alignment,
        }
    }

    /// Bytes of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        let lengths = self.lengths.iter();
        let padded = lengths.map(|length| length.next_multiple_of(self.alignment));
        self.header.len() as u64 + padded.sum::<u64>()
    }

    /// Writes the file to `out`. `tensor` hears the index of each tensor in turn and appends its bytes to what it is
    /// given.
    ///
    /// # Errors
    /// Whatever `tensor` or `out` gives.
    ///
    /// # Panics
    /// When a tensor has not as many bytes as its shape asks for.
    pub fn write<E: From<io::Error>>(
        &self,
        out: &mut impl Write,
        mut tensor: impl FnMut(usize, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        out.write_all(&self.header)?;
        let mut bytes = Vec::new();
        for (index, &length) in self.lengths.iter().enumerate() {
            bytes.clear();
            tensor(index, &mut bytes)?;
            assert_eq!(bytes.len() as u64, length, "bytes of tensor {index}");
            bytes.resize(length.next_multiple_of(self.alignment) as usize, 0);
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// All that stands before the tensors' bytes, when each of them has the length said with it.
pub(crate) fn header<'a>(
    metadata: &[(String, Value)],
    tensors: impl ExactSizeIterator<Item = (&'a NewTensor, &'a u64)>,
    alignment: u64,
) -> Vec<u8> {
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut header, key);
        header.extend(value.kind().to_le_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0u64;
    for (tensor, length) in tensors {
        put_text(&mut header, &tensor.name);
        header.extend((tensor.dimensions.len() as u32).to_le_bytes());
        for dimension in &tensor.dimensions {
            header.extend(dimension.to_le_bytes());
        }
        header.extend(tensor.tensor_type.id().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += length.next_multiple_of(alignment);
    }
    header.resize(header.len().next_multiple_of(alignment as usize), 0);
    header
}

fn put_text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn put_value(file: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => file.push(*value),
        Value::I8(value) => file.extend(value.to_le_bytes()),
        Value::U16(value) => file.extend(value.to_le_bytes()),
        Value::I16(value) => file.extend(value.to_le_bytes()),
        Value::U32(value) => file.extend(value.to_le_bytes()),
        Value::I32(value) => file.extend(value.to_le_bytes()),
        Value::F32(value) => file.extend(value.to_le_bytes()),
        Value::Bool(value) => file.push(u8::from(*value)),
        Value::String(value) => put_text(file, value),
        Value::U64(value) => file.extend(value.to_le_bytes()),
        Value::I64(value) => file.extend(value.to_le_bytes()),
        Value::F64(value) => file.extend(value.to_le_bytes()),
        Value::Array(values) => {
            file.extend(values.first().map_or(0, Value::kind).to_le_bytes());
            file.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put_value(file, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Gguf;

    #[test]
    fn what_is_written_is_read() {
        let text = |text: &str| Value::String(text.to_owned());
        let metadata = [
            ("general.alignment".to_owned(), Value::U32(64)),
            (
                "b".to_owned(),
                Value::Array(vec![text("x"), text(""), text("é")]),
            ),
            ("a".to_owned(), Value::F64(-0.5)),
            ("empty".to_owned(), Value::Array(Vec::new())),
            (
                "nested".to_owned(),
                Value::Array(vec![Value::Array(vec![Value::I8(-3)])]),
            ),
        ];
        let tensor = |name: &str, dimensions: &[u64], tensor_type| NewTensor {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            tensor_type,
        };
        let writer = Writer::new(
            &metadata,
            &[
                tensor("second", &[3], TensorType::F32),
                tensor("first", &[32, 2, 2], TensorType::Q8_0),
            ],
        );
        let mut file = Vec::new();
        let written = writer.write::<io::Error>(&mut file, |index, bytes| {
            bytes.resize([12, 136][index], index as u8 + 1);
            Ok(())
        });
        written.unwrap();
        assert_eq!(file.len() as u64, writer.file_bytes());
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!(gguf.metadata().len(), metadata.len());
        for (key, value) in &metadata {
            assert_eq!(&gguf.metadata()[key], value);
        }
        assert_eq!(gguf.tensor_bytes("second").unwrap(), [1; 12]);
        assert_eq!(gguf.tensor_bytes("first").unwrap(), [2; 136]);
        assert_eq!(gguf.tensor("first").unwrap().rows, 4);
    }
}
