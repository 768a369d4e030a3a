//! Builds a graph against a model file, checking every tensor it names.
use super::{
    Action, AttentionShape, Buffer, BufferId, Graph, Operation, Rope, Shape, Tensor, TensorId,
};
use crate::gguf::{Gguf, GgufError, TensorType};
use lockstep_numeric::{ActivationFormat, WeightFormat};
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

/// The weight format of a tensor type, where the kernels have one: that of the same name.
#[must_use]
pub fn weight_format(tensor_type: TensorType) -> Option<WeightFormat> {
    WeightFormat::ALL
        .into_iter()
        .find(|format| format.name() == tensor_type.name())
}

/// The names of the formats that a matrix may have.
const MATRIX_TYPES: &str =
    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS";

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
    /// Buffers whose quantised values are at hand, one per format at most.
    quantized: Vec<(BufferId, ActivationFormat)>,
}

impl<'f> Builder<'f> {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &'f Gguf<'f> {
        self.file
    }

    /// Starts a graph over the tensors of `file`.
    #[must_use]
    pub fn new(file: &'f Gguf<'f>) -> Self {
        Self {
            file,
            operations: Vec::new(),
            tensors: Vec::new(),
            buffers: Vec::new(),
            quantized: Vec::new(),
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
        let written = action.output();
        self.quantized
            .retain(|(buffer, _)| Some(*buffer) != written);
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
        let format = weight_format(stored).map_or(ActivationFormat::F32, WeightFormat::activations);
        let name = name.into();
        if format != ActivationFormat::F32 && !self.quantized.contains(&(input, format)) {
            // The suffix tells the formats of one input apart.
            let suffix = match format {
                ActivationFormat::Blocks256 => "input_256",
                _ => "input",
            };
            self.push(
                format!("{name}.{suffix}"),
                Action::Quantize { input, format },
            );
            self.quantized.retain(|(_, other)| *other != format);
            self.quantized.push((input, format));
        }
        self.push(
            name,
            Action::MatMul {
                weight,
                input,
                activations: format,
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

    /// Names the matrices of some experts in the file, checking their shape and type.
    ///
    /// # Errors
    /// When they are missing or not as wanted.
    pub fn experts(
        &mut self,
        name: &str,
        count: usize,
        rows: usize,
        columns: usize,
    ) -> Result<TensorId, GraphError> {
        let shape = Shape::Experts {
            count,
            rows,
            columns,
        };
        self.tensor(name, shape)
    }

    /// Names the weights of a convolution in the file, checking their shape and type.
    ///
    /// # Errors
    /// When they are missing or not as wanted.
    pub fn convolution(
        &mut self,
        name: &str,
        channels: usize,
        taps: usize,
    ) -> Result<TensorId, GraphError> {
        self.tensor(name, Shape::Convolution { channels, taps })
    }

    fn tensor(&mut self, name: &str, shape: Shape) -> Result<TensorId, GraphError> {
        let info = self.file.tensor(name)?;
        let (wanted, supported) = match shape {
            Shape::Vector { length } => (vec![length as u64], "F32"),
            Shape::Matrix { rows, columns } => (vec![columns as u64, rows as u64], MATRIX_TYPES),
            Shape::Experts {
                count,
                rows,
                columns,
            } => (
                vec![columns as u64, rows as u64, count as u64],
                MATRIX_TYPES,
            ),
            Shape::Convolution { channels, taps } => (vec![taps as u64, channels as u64], "F32"),
        };
        if info.dimensions != wanted {
            return Err(GraphError::WrongShape {
                tensor: name.to_owned(),
                wanted: format!("dimensions {wanted:?}"),
                found: format!("{:?}", info.dimensions),
            });
        }
        let fits = match shape {
            Shape::Vector { .. } | Shape::Convolution { .. } => info.tensor_type == TensorType::F32,
            Shape::Matrix { .. } | Shape::Experts { .. } => {
                weight_format(info.tensor_type).is_some()
            }
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
        ropes: Vec<Rope>,
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
        let convolutions = self.operations.iter();
        let convolutions = convolutions.filter_map(|operation| match operation.action {
            Action::GatedConvolution { weight, .. } => Some(weight),
            _ => None,
        });
        Ok(Graph {
            head,
            convolutions: convolutions.collect(),
            vocabulary: self.buffers[logits.0].width,
            operations: self.operations,
            tensors: self.tensors,
            buffers: self.buffers,
            logits,
            attention,
            ropes,
            context_length,
        })
    }
}
