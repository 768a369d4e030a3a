//! Quantisation: a model file written again with its weights in other formats.
//!
//! # Design
//! A [`Policy`] says which tensor gets which format. [`Plan::new`] settles it for a file, so that what will happen can be
//! shown before it does, and [`Plan::write`] does it, tensor by tensor. A [`Calibration`] measures on a text what the
//! columns of each product, those of every expert by themselves, are multiplied with; columns that weigh more are then
//! encoded nearer. How values are encoded is the numeric crate's [`encode_rows`].
//!
//! # Determinism
//! The file is a function of the source, the policy and the calibration's text: not of threads, instruction sets or the
//! machine.
//!
//! # Errors
//! Weights that are not finite, formats that files cannot have, and weights that are quantised already, unless that is
//! allowed. INT8 is refused by name: no GGUF file can carry it, and its home is the `int` profile. The scales and
//! zero-points of activations that it needs come out of a [`Calibration`].
mod calibrate;
mod policy;
#[cfg(test)]
mod tests;

pub use calibrate::{Calibration, Columns};
pub use policy::{Policy, PolicyError, PolicyFile, Reason, RuleFile};

use crate::{
    gguf::{Gguf, GgufError, NewTensor, TensorInfo, TensorType, Value, Writer},
    graph::weight_format,
};
use lockstep_numeric::{EncodeError, PackError, PackedMatrix, Pool, WeightFormat, encode_rows};
use std::io::{self, Write};

/// Elements that are f32 at one time.
const GROUP_ELEMENTS: usize = 1 << 22;

/// Why a file cannot be quantised.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum QuantizeError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("tensor is quantised already, and quantising it again loses more: {tensor} is {found}")]
    AlreadyQuantized { tensor: String, found: TensorType },
    #[error("tensor has a type that is not computed with: {tensor} is {found}")]
    UnsupportedType { tensor: String, found: TensorType },
    #[error("cannot read tensor: {tensor}")]
    Decode {
        tensor: String,
        #[source]
        source: PackError,
    },
    #[error("cannot encode tensor: {tensor}")]
    Encode {
        tensor: String,
        #[source]
        source: EncodeError,
    },
    #[error("cannot write the file")]
    Write(#[from] io::Error),
}

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its name.
    pub tensor: String,
    /// Its encoding in the source.
    pub from: TensorType,
    /// Its encoding in the new file.
    pub to: TensorType,
    /// The format that the policy asks for, which may not suit its shape.
    pub wanted: WeightFormat,
    /// Why it is this one.
    pub reason: Reason,
    /// Elements.
    pub elements: u64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes in the new file.
    pub bytes_after: u64,
    /// Whether a calibration weighs its columns.
    pub calibrated: bool,
}

/// A new file, laid out.
#[derive(Debug)]
pub struct Plan<'a> {
    gguf: &'a Gguf<'a>,
    calibration: Option<&'a Calibration>,
    tensors: Vec<(Planned, TensorInfo)>,
    writer: Writer,
}

impl<'a> Plan<'a> {
    /// Settles what becomes of every tensor of `gguf`. Weights that are quantised already are taken as they are where
    /// the format stays; where it does not, only if `requantize` allows it.
    ///
    /// # Errors
    /// When a tensor cannot get its format.
    pub fn new(
        gguf: &'a Gguf<'a>,
        policy: &Policy,
        calibration: Option<&'a Calibration>,
        requantize: bool,
    ) -> Result<Self, QuantizeError> {
        // In the order in which they lie in the source.
        let mut sources: Vec<_> = gguf.tensors().iter().collect();
        sources.sort_by_key(|(_, info)| (info.part, info.range.start));
        let mut tensors = Vec::with_capacity(sources.len());
        for (name, info) in sources {
            let found = info.tensor_type;
            let tensor = || name.clone();
            let source = weight_format(found).ok_or(QuantizeError::UnsupportedType {
                tensor: tensor(),
                found,
            })?;
            let choice = policy.choose(name, &info.dimensions);
            if source.block_len() > 1 && source != choice.format && !requantize {
                return Err(QuantizeError::AlreadyQuantized {
                    tensor: tensor(),
                    found,
                });
            }
            let to = TensorType::named(choice.format.name()).expect("no policy chooses INT8");
            let elements = (info.columns as u64).saturating_mul(info.rows as u64);
            let row_bytes = to.bytes(info.columns as u64).unwrap_or_default();
            let matters = choice.format.block_len() > 1 && source != choice.format;
            let planned = Planned {
                tensor: tensor(),
                from: found,
                to,
                wanted: choice.wanted,
                reason: choice.reason,
                elements,
                bytes_before: info.range.len() as u64,
                bytes_after: row_bytes
                    .checked_mul(info.rows as u64)
                    .ok_or(GgufError::ShapeOverflow { tensor: tensor() })?,
                calibrated: matters
                    && calibration
                        .is_some_and(|calibration| calibration.tensors.contains_key(name)),
            };
            tensors.push((planned, info.clone()));
        }
        let new_tensors: Vec<_> = tensors
            .iter()
            .map(|(planned, info)| NewTensor {
                name: planned.tensor.clone(),
                dimensions: info.dimensions.clone(),
                tensor_type: planned.to,
            })
            .collect();
        Ok(Self {
            gguf,
            calibration,
            writer: Writer::new(&metadata(gguf, policy.format()), &new_tensors),
            tensors,
        })
    }

    /// The tensors, in the order in which they are written.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Planned> {
        self.tensors.iter().map(|(planned, _)| planned)
    }

    /// Bytes of the new file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.writer.file_bytes()
    }

    /// Writes the new file to `out`. `before` hears of each tensor before it is made.
    ///
    /// # Errors
    /// When a tensor's values cannot be encoded or `out` fails.
    pub fn write(
        &self,
        pool: &Pool,
        out: &mut impl Write,
        mut before: impl FnMut(&Planned),
    ) -> Result<(), QuantizeError> {
        self.writer.write(out, |index, bytes| {
            let (planned, info) = &self.tensors[index];
            before(planned);
            self.encode(pool, planned, info, bytes)
        })
    }

    fn encode(
        &self,
        pool: &Pool,
        planned: &Planned,
        info: &TensorInfo,
        out: &mut Vec<u8>,
    ) -> Result<(), QuantizeError> {
        let stored = self.gguf.tensor_bytes(&planned.tensor)?;
        // One, or one for each expert.
        let matrix_rows = info.dimensions.get(1).map_or(1, |rows| *rows as usize);
        let matrices = stored.chunks(stored.len() / info.rows * matrix_rows);
        for (matrix, stored) in matrices.enumerate() {
            let weighs = self.calibration.filter(|_| planned.calibrated);
            let importance = weighs.and_then(|found| found.importance(&planned.tensor, matrix));
            let (rows, importance) = ((matrix * matrix_rows, stored), importance.as_deref());
            encode_matrix(pool, planned, info.columns, rows, importance, out)?;
        }
        Ok(())
    }
}

/// Encodes stored rows, of which the first has this number in its tensor.
fn encode_matrix(
    pool: &Pool,
    planned: &Planned,
    columns: usize,
    (first_row, stored): (usize, &[u8]),
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), QuantizeError> {
    let tensor = || planned.tensor.clone();
    let known = "the plan accepts only types the kernels have";
    let (from, to) = (
        weight_format(planned.from).expect(known),
        weight_format(planned.to).expect(known),
    );
    let row_bytes = from.row_bytes(columns).unwrap_or(usize::MAX);
    let group_rows = (GROUP_ELEMENTS / columns).max(1);
    let mut values = Vec::new();
    let groups = stored
        .chunks(group_rows.saturating_mul(row_bytes))
        .enumerate();
    for (group, stored) in groups {
        let rows = stored.len() / row_bytes;
        decode(from, rows, columns, stored, &mut values).map_err(|source| {
            QuantizeError::Decode {
                tensor: tensor(),
                source,
            }
        })?;
        // What stays as it is has to be finite, too, and so goes through the encoder of f32.
        let (format, importance) = match from == to {
            true => (WeightFormat::F32, None),
            false => (to, importance),
        };
        let begun = out.len();
        encode_rows(pool, format, &values, columns, importance, out).map_err(|source| {
            QuantizeError::Encode {
                tensor: tensor(),
                source: in_rows_from(first_row + group * group_rows, source),
            }
        })?;
        if from == to {
            out.truncate(begun);
            out.extend_from_slice(stored);
        }
    }
    Ok(())
}

/// The same error, its row counted from the first of the tensor.
fn in_rows_from(first: usize, error: EncodeError) -> EncodeError {
    match error {
        EncodeError::NotFinite { row, column, value } => EncodeError::NotFinite {
            row: first + row,
            column,
            value,
        },
        EncodeError::TooLarge {
            format,
            row,
            column,
            value,
        } => EncodeError::TooLarge {
            format,
            row: first + row,
            column,
            value,
        },
        other => other,
    }
}

/// Rows as f32.
fn decode(
    format: WeightFormat,
    rows: usize,
    columns: usize,
    stored: &[u8],
    values: &mut Vec<f32>,
) -> Result<(), PackError> {
    let matrix = PackedMatrix::pack(format, rows, columns, stored)?;
    values.clear();
    values.resize(rows * columns, 0.0);
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        matrix.read_row(row, values);
    }
    Ok(())
}

/// The source's metadata with what the new formats change; a model of several files becomes one.
fn metadata(gguf: &Gguf<'_>, format: WeightFormat) -> Vec<(String, Value)> {
    let mut metadata = gguf.metadata().clone();
    metadata.retain(|key, _| !key.starts_with("split."));
    let file_type = file_type(format);
    metadata.insert("general.file_type".to_owned(), Value::U32(file_type));
    metadata.insert("general.quantization_version".to_owned(), Value::U32(2));
    metadata.into_iter().collect()
}

/// The number that GGUF's specification and llama.cpp give to files mostly of a format; of those with several mixtures
/// the medium one.
fn file_type(format: WeightFormat) -> u32 {
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q8_0 => 7,
        WeightFormat::Q5_0 => 8,
        WeightFormat::Q5_1 => 9,
        WeightFormat::Q2_K => 10,
        WeightFormat::Q3_K => 12,
        WeightFormat::Q4_K => 15,
        WeightFormat::Q5_K => 17,
        WeightFormat::Q6_K => 18,
        WeightFormat::IQ4_NL => 25,
        WeightFormat::IQ4_XS => 30,
        WeightFormat::Bf16 => 32,
        _ => unreachable!("no policy has this format: {format}"),
    }
}
