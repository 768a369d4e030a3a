//! Builds a graph against a model file, checking every tensor it names.
use super::{Action, AttentionShape, Buffer, BufferId, Graph, Operation, Shape, Tensor, TensorId};
use crate::gguf::{Gguf, GgufError, TensorType};
use lockstep_numeric::WeightFormat;
use std::collections::BTreeSet;

/// Why a file does not make a graph.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GraphError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("unsupported architecture (known: {known}): {name}")]
    UnsupportedArchitecture { name: String, known: String },
    #[error("metadata value is out of range (allowed: {allowed}): {key} = {value}")]
    OutOfRange {
        key: String,
        value: String,
        allowed: String,
    },
    #[error("the model uses a feature that is not supported: {feature}")]
    UnsupportedFeature { feature: String },
    #[error("tensor has {found} instead of {wanted}: {tensor}")]
    WrongShape {
        tensor: String,
        wanted: String,
        found: String,
    },
    #[error("tensor type is not supported here (supported: {supported}): {tensor} is {found}")]
    UnsupportedType {
        tensor: String,
        supported: &'static str,
        found: TensorType,
    },
    #[error("the architecture has no use for a tensor of the file: {tensor}")]
    UnusedTensor { tensor: String },
}

/// The weight format of a tensor type, where the kernels have one.
#[must_use]
pub fn weight_format(tensor_type: TensorType) -> Option<WeightFormat> {
    match tensor_type {
        TensorType::F32 => Some(WeightFormat::F32),
        TensorType::Q8_0 => Some(WeightFormat::Q8_0),
        TensorType::Q4_1 => Some(WeightFormat::Q4_1),
        _ => None,
    }
}

/// Collects operations.
///
/// Inserts the quantisation of a product's input where the weights need it, once per value of the
/// input buffer.
#[derive(Debug)]
pub struct Builder<'f> {
    file: &'f Gguf<'f>,
    operations: Vec<Operation>,
    tensors: Vec<Tensor>,
    buffers: Vec<Buffer>,
    quantized: Option<BufferId>,
}

impl<'f> Builder<'f> {
    /// Starts a graph over the tensors of `file`.
    #[must_use]
    pub fn new(file: &'f Gguf<'f>) -> Self {
        Self {
            file,
            operations: Vec::new(),
            tensors: Vec::new(),
            buffers: Vec::new(),
            quantized: None,
        }
    }

    /// A size from the metadata, between 1 and 2^24.
    ///
    /// # Errors
    /// When the key is missing, not an integer, or out of range.
    pub fn size(&self, key: &str) -> Result<usize, GraphError> {
        self.size_up_to(key, 1 << 24)
    }

    /// A size from the metadata, between 1 and `max`.
    ///
    /// # Errors
    /// When the key is missing, not an integer, or out of range.
    pub fn size_up_to(&self, key: &str, max: u64) -> Result<usize, GraphError> {
        let value = self.file.unsigned(key)?;
        if (1..=max).contains(&value) {
            return Ok(value as usize);
        }
        Err(GraphError::OutOfRange {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: format!("1 to {max}"),
        })
    }

    /// A finite number from the metadata, at least `min`.
    ///
    /// # Errors
    /// When the key is missing, not an f32, or out of range.
    pub fn number(&self, key: &str, min: f32) -> Result<f32, GraphError> {
        let value = self.file.float(key)?;
        if value.is_finite() && value >= min {
            return Ok(value);
        }
        Err(GraphError::OutOfRange {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: format!("finite, at least {min}"),
        })
    }

    /// Adds a buffer.
    pub fn buffer(&mut self, name: &'static str, width: usize) -> BufferId {
        self.buffers.push(Buffer { name, width });
        BufferId(self.buffers.len() - 1)
    }

    /// Adds an operation that is not a product.
    pub fn push(&mut self, name: impl Into<String>, action: Action) {
        let written = match action {
            Action::Embed { output, .. }
            | Action::RmsNorm { output, .. }
            | Action::MatMul { output, .. }
            | Action::Attention { output, .. }
            | Action::SelectLast { output, .. } => Some(output),
            Action::Rope { values, .. } => Some(values),
            Action::SiluMul { gate, .. } => Some(gate),
            Action::Add { accumulator, .. } => Some(accumulator),
            Action::Quantize { .. } | Action::StoreKv { .. } => None,
        };
        if written == self.quantized {
            self.quantized = None;
        }
        self.operations.push(Operation {
            name: name.into(),
            action,
        });
    }

    /// Adds output = weight · input, quantising the input first where needed.
    pub fn product(
        &mut self,
        name: impl Into<String>,
        weight: TensorId,
        input: BufferId,
        output: BufferId,
    ) {
        let stored = self.file.tensors()[&self.tensors[weight.0].name].tensor_type;
        let quantized = stored != TensorType::F32;
        let name = name.into();
        if quantized && self.quantized != Some(input) {
            self.push(format!("{name}.input"), Action::Quantize { input });
            self.quantized = Some(input);
        }
        self.push(
            name,
            Action::MatMul {
                weight,
                input,
                quantized,
                output,
            },
        );
    }

    /// Names a matrix of the file, checking its shape and type.
    ///
    /// # Errors
    /// When it is missing or not as wanted.
    pub fn matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<TensorId, GraphError> {
        self.tensor(name, Shape::Matrix { rows, columns })
    }

    /// Names a vector of the file, checking its length and type.
    ///
    /// # Errors
    /// When it is missing or not as wanted.
    pub fn vector(&mut self, name: &str, length: usize) -> Result<TensorId, GraphError> {
        self.tensor(name, Shape::Vector { length })
    }

    fn tensor(&mut self, name: &str, shape: Shape) -> Result<TensorId, GraphError> {
        let info = self.file.tensor(name)?;
        let (wanted, supported) = match shape {
            Shape::Vector { length } => (vec![length as u64], "F32"),
            Shape::Matrix { rows, columns } => {
                (vec![columns as u64, rows as u64], "F32, Q4_1, Q8_0")
            }
        };
        if info.dimensions != wanted {
            return Err(GraphError::WrongShape {
                tensor: name.to_owned(),
                wanted: format!("dimensions {wanted:?}"),
                found: format!("{:?}", info.dimensions),
            });
        }
        let fits = match shape {
            Shape::Vector { .. } => info.tensor_type == TensorType::F32,
            Shape::Matrix { .. } => weight_format(info.tensor_type).is_some(),
        };
        if !fits {
            return Err(GraphError::UnsupportedType {
                tensor: name.to_owned(),
                supported,
                found: info.tensor_type,
            });
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape,
        });
        Ok(TensorId(self.tensors.len() - 1))
    }

    /// Ends the graph. The operation before which the head begins is the only
    /// [`Action::SelectLast`].
    ///
    /// # Errors
    /// When the file has a tensor that no operation uses.
    ///
    /// # Panics
    /// When the list has no [`Action::SelectLast`].
    pub fn finish(
        self,
        logits: BufferId,
        attention: AttentionShape,
        rope_base: f32,
        context_length: usize,
    ) -> Result<Graph, GraphError> {
        let used: BTreeSet<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        if let Some(tensor) = self
            .file
            .tensors()
            .keys()
            .find(|n| !used.contains(n.as_str()))
        {
            return Err(GraphError::UnusedTensor {
                tensor: tensor.clone(),
            });
        }
        let head = self
            .operations
            .iter()
            .position(|operation| matches!(operation.action, Action::SelectLast { .. }))
            .expect("every architecture selects the last token before its head");
        Ok(Graph {
            head,
            vocabulary: self.buffers[logits.0].width,
            operations: self.operations,
            tensors: self.tensors,
            buffers: self.buffers,
            logits,
            attention,
            rope_base,
            context_length,
        })
    }
}
