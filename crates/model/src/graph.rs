//! The op graph: an architecture as an ordered list of named operations over named buffers.
//!
//! # Design
//! A pass takes a batch of tokens through the list: consecutive ones of one text, or of several texts
//! at a time. Every buffer has `width` values per token of the batch, except behind [`Graph::head`],
//! where only the last token of each text that wants logits is left. A pass whose logits nobody needs
//! (all but the last of a prompt's chunks) stops before the head. An operation's number is its index
//! in the list.
//!
//! # Units and bounds
//! [`Work`] is in multiply-accumulates. [`Graph::price`] is a pure function of the operation, the
//! batch and the first position, and the price of a batch is the sum of its tokens' prices, so that
//! the price of a text does not depend on how it was cut into passes.
mod build;
mod price;

pub use build::{Builder, GraphError, weight_format};

use lockstep_numeric::{ActivationFormat, KvFormat, Pairs};
use std::num::NonZeroUsize;

/// Multiply-accumulates, the unit in which operations are priced.
pub type Work = u64;

/// A tensor, as an index into [`Graph::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub usize);

/// A buffer, as an index into [`Graph::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub usize);

/// How a tensor is used, and so how it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A weight per channel.
    Vector {
        /// Number of values.
        length: usize,
    },
    /// A projection or a table.
    Matrix {
        /// Outputs, or table entries.
        rows: usize,
        /// Inputs.
        columns: usize,
    },
    /// A projection of each of some experts.
    Experts {
        /// Experts.
        count: usize,
        /// Outputs of each.
        rows: usize,
        /// Inputs of each.
        columns: usize,
    },
    /// A short convolution over positions, depthwise.
    Convolution {
        /// Channels.
        channels: usize,
        /// Weights of each, the oldest position's first.
        taps: usize,
    },
}

/// A tensor of the model file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the file.
    pub name: String,
    /// Shape, checked against the file.
    pub shape: Shape,
}

/// An activation buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name.
    pub name: &'static str,
    /// Values per token.
    pub width: usize,
}

/// A mixture of experts with SwiGLU networks. The weight of expert i is p_i = 1 / (1 + exp(-score_i)); the `used` experts
/// with the largest p_i + bias_i are taken, of equal ones those with the lowest number; their weights are divided by
/// the larger of 2^-14 and their sum. Both sums are in the order of the experts' numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct ExpertsShape {
    pub input: BufferId,
    pub scores: BufferId,
    pub bias: Option<TensorId>,
    pub gate: TensorId,
    pub up: TensorId,
    pub down: TensorId,
    pub used: usize,
    pub output: BufferId,
}

/// What an operation does. `input` is read, `output` written whole.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Action {
    /// output = the table's rows of the tokens.
    Embed { table: TensorId, output: BufferId },
    /// output = input / rms(input) * weight, in each of so many equal parts of a row by itself.
    RmsNorm {
        input: BufferId,
        weight: TensorId,
        parts: usize,
        epsilon: f32,
        output: BufferId,
    },
    /// The pass's quantised activations of that format = input in 8-bit blocks; following products read them.
    Quantize {
        input: BufferId,
        format: ActivationFormat,
    },
    /// output = weight · input; unless they are F32, it reads the activations that the last
    /// [`Self::Quantize`] of the same format wrote.
    MatMul {
        weight: TensorId,
        input: BufferId,
        activations: ActivationFormat,
        output: BufferId,
    },
    /// values = values * factor.
    Scale { values: BufferId, factor: f32 },
    /// values += vector, in every row.
    AddVector { values: BufferId, vector: TensorId },
    /// Rotates each head of `values` by its position.
    Rope {
        values: BufferId,
        heads: usize,
        pairs: Pairs,
        /// Index into [`Graph::ropes`].
        rope: usize,
    },
    /// Stores the batch's keys and values.
    StoreKv {
        layer: usize,
        key: BufferId,
        value: BufferId,
    },
    /// output = attention of `queries` over the layer's stored positions up to their own: all, or the last ones.
    Attention {
        layer: usize,
        queries: BufferId,
        heads: usize,
        window: Option<NonZeroUsize>,
        output: BufferId,
    },
    /// output = the gated short convolution of `input`, which is three times as wide; see
    /// [`lockstep_numeric::Kernels::gated_convolution`]. The text keeps what later positions read.
    GatedConvolution {
        /// Number among those of the graph.
        layer: usize,
        input: BufferId,
        weight: TensorId,
        output: BufferId,
    },
    /// gate = silu(gate) * up.
    SiluMul { gate: BufferId, up: BufferId },
    /// gate = gelu(gate) * up; see [`lockstep_numeric::Kernels::gelu_mul`].
    GeluMul { gate: BufferId, up: BufferId },
    /// output = the sum of what the best experts of each row make of `input`, each times its weight.
    Experts(ExpertsShape),
    /// accumulator += addend.
    Add {
        accumulator: BufferId,
        addend: BufferId,
    },
    /// output = input of each text's last token, of those that want logits.
    SelectLast { input: BufferId, output: BufferId },
}

impl Action {
    /// The buffer written; none by the two that write the quantised activations or the cache.
    #[must_use]
    pub fn output(&self) -> Option<BufferId> {
        match *self {
            Self::Embed { output, .. }
            | Self::RmsNorm { output, .. }
            | Self::MatMul { output, .. }
            | Self::Attention { output, .. }
            | Self::GatedConvolution { output, .. }
            | Self::Experts(ExpertsShape { output, .. })
            | Self::SelectLast { output, .. } => Some(output),
            Self::Rope { values, .. }
            | Self::AddVector { values, .. }
            | Self::Scale { values, .. } => Some(values),
            Self::SiluMul { gate, .. } | Self::GeluMul { gate, .. } => Some(gate),
            Self::Add { accumulator, .. } => Some(accumulator),
            Self::Quantize { .. } | Self::StoreKv { .. } => None,
        }
    }
}

/// A named operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// For example `blk.3.attn_q`.
    pub name: String,
    /// What it does.
    pub action: Action,
}

/// Shape of the attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Layers, each with a key-value cache.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query heads share them in order.
    pub kv_heads: usize,
    /// Values per head.
    pub head_dim: usize,
}

/// How heads are rotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// What all frequencies are divided by.
    pub stretch: f32,
    /// What each frequency is divided by.
    pub factors: Option<TensorId>,
}

/// An architecture with its sizes filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The operations, in order.
    pub operations: Vec<Operation>,
    /// Index of the [`Action::SelectLast`] with which the part that makes logits begins.
    pub head: usize,
    /// Tensors used.
    pub tensors: Vec<Tensor>,
    /// Buffers used.
    pub buffers: Vec<Buffer>,
    /// The buffer that holds the logits after a whole pass.
    pub logits: BufferId,
    /// Attention.
    pub attention: AttentionShape,
    /// The weights of the convolutions, in order.
    pub convolutions: Vec<TensorId>,
    /// The rotary embeddings.
    pub ropes: Vec<Rope>,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Tokens it knows.
    pub vocabulary: usize,
}

impl Graph {
    /// Bytes of the keys and values of a text of so many positions, at most: layers that read a window keep less.
    #[must_use]
    pub fn cache_bytes(&self, format: KvFormat, positions: usize) -> u64 {
        let AttentionShape {
            layers,
            kv_heads,
            head_dim,
            ..
        } = self.attention;
        let layer = format.layer_bytes(kv_heads, head_dim, positions);
        layer.saturating_mul(layers as u64)
    }

    /// How many operations a pass has.
    #[must_use]
    pub fn pass_length(&self, logits: bool) -> usize {
        if logits {
            self.operations.len()
        } else {
            self.head
        }
    }
}
