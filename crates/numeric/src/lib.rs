//! Canonical arithmetic: kernels whose bits do not depend on threads, vector width, batch or machine.
//!
//! # Design
//! [`Kernels`] is an instruction set ([`Isa`]) and a [`Pool`] of worker threads. The portable kernels are the
//! specification in executable form; the others are one set of generic kernels over vectors of 16, 8 or 4 lanes, and
//! give the same bits faster. Work is split over outputs only: over 16-row tiles of a matrix, over queries, positions
//! or dimensions in attention, over rows elsewhere.
//!
//! Beside the kernels: [`elementary`] functions, [`convert`] and [`scalar`] operations, [`Fixed`] point with its
//! [`Rounding`] modes, [`stochastic`] draws by counter, and order-free exact sums ([`ExactSum32`], [`ExactSum64`]).
//! [`encode_rows`] stores f32 in any of the formats below.
//!
//! # Determinism
//! Accumulators start at +0. `sequential` sums in order of k, two roundings a step. `lanes16` sums the element at
//! position p in lane p mod 16 and folds the lanes by 8, 4, 2, 1. Every f32 operation is rounded once, half to even;
//! no FMA; subnormals are kept; a NaN that is stored is 0x7fc00000. Elementary functions are correctly rounded. The
//! number of this text is [`ARITHMETIC_VERSION`].
//!
//! | weights | block | bytes | step of the chain per block, every operation rounded |
//! |---|---|---|---|
//! | [`F32`](WeightFormat::F32), [`F16`](WeightFormat::F16), [`BF16`](WeightFormat::Bf16) | 1 | 4, 2, 2 | acc = acc + w * x |
//! | [`Q8_0`](WeightFormat::Q8_0), [`Q4_0`](WeightFormat::Q4_0), [`Q5_0`](WeightFormat::Q5_0) | 32 | 34, 18, 22 | acc = acc + f32(idot) * (d * d_a) |
//! | [`Q4_1`](WeightFormat::Q4_1), [`Q5_1`](WeightFormat::Q5_1) | 32 | 20, 24 | the same; then acc = acc + m * (d_a * f32(sum)) |
//! | [`INT8`](WeightFormat::Int8) | 32 | 32, and 8 per row | as Q8_0, zero-point subtracted, d the row's |
//! | [`Q3_K`](WeightFormat::Q3_K), [`Q6_K`](WeightFormat::Q6_K) | 256 | 110, 210 | as Q8_0, integer scales inside idot |
//! | [`IQ4_NL`](WeightFormat::IQ4_NL), [`IQ4_XS`](WeightFormat::IQ4_XS) | 32, 256 | 18, 136 | as Q8_0, integers of a table, with integer scales inside idot |
//! | [`Q2_K`](WeightFormat::Q2_K), [`Q4_K`](WeightFormat::Q4_K), [`Q5_K`](WeightFormat::Q5_K) | 256 | 84, 144, 176 | the same; then acc = acc + f32(imin) * (m * d_a) |
//!
//! `idot` is the exact integer dot of a block's integers, offsets subtracted, and the activations' q_a; `sum` the exact
//! sum of the q_a; `imin` the negated exact sum of integer minima times q_a; d_a the activations' scale. Activations are
//! quantised in blocks of 32 or 256, as the weights ask ([`ActivationFormat`]): amax = largest magnitude, d_a = amax /
//! 127, i = 1 / d_a (0 when d_a is 0), q_a = x * i rounded half to even, saturated to [-127, 127], NaN to 0; a block
//! with a non-finite value has q_a = 0 and d_a = NaN.
//!
//! Attention: score = (sequential dot over the head's dimension) * scale with scale = 1 / sqrt(head_dim) in f32;
//! softmax: m = maximum, e = exp(x - m), y = e / lanes16(e), position p in lane p mod 16; values sequential over
//! positions. Only keys and values as they are stored ([`KvFormat`]) are read, the query's own included. rms-norm: s = lanes16(x * x),
//! r = 1 / sqrt(s / n + epsilon), y = (x * r) * w. silu(x) = x / (1 + exp(-x)). Rotary embedding: see [`Rope`].
//! Gated short convolution: see [`Kernels::gated_convolution`]. Products of low rank, added to a product: see
//! [`Kernels::matmul_adapted`].
//!
//! # Units and bounds
//! |idot| <= 32 * 255 * 127 < 2^20 in blocks of 32 and < 2^27 in superblocks, so it and every partial sum fit i32; the
//! instruction sets state their own intermediate bounds. Columns are multiples of the block length, rows arbitrary.
//!
//! # Panics
//! Kernels panic when the lengths of their arguments disagree: a broken invariant of the caller, not of its input.

mod aligned;
mod arch;
mod attention;
pub mod convert;
mod convolution;
pub mod elementary;
mod environment;
pub mod exact;
pub mod fixed;
mod isa;
mod kernels;
mod kv;
mod low_rank;
mod pool;
mod product;
mod quantized;
mod rope;
pub mod scalar;
pub mod selftest;
mod softmax;
pub mod stochastic;
mod stored;
mod weights;

pub use attention::AttentionSegment;
pub use convolution::Convolution;
pub use exact::{ExactSum32, ExactSum64};
pub use fixed::{Fixed, Fixed16, Fixed32, Rounding};
pub use isa::{Isa, IsaError};
pub use kernels::Kernels;
pub use kv::{KvFormat, KvFull, KvLayer, KvPool};
pub use low_rank::{AdaptedRows, Factors, LowRank};
pub use pool::Pool;
pub use quantized::QuantizedRows;
pub use rope::{Pairs, Rope, Rotations};
pub use selftest::{SelfTestError, selftest};
pub use softmax::{NonFinite, argmax, softmax};
pub use weights::{
    ActivationFormat, EncodeError, PACKED_LAYOUT_VERSION, PackError, PackedMatrix, Packer,
    SharedBytes, StoredRows, WeightFormat, encode_rows,
};

/// Version of the arithmetic; any change of any bit is a new version.
pub const ARITHMETIC_VERSION: u32 = 1;
