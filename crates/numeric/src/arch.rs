//! Kernels by instruction set: one table of functions each, chosen once at run time.
//!
//! # Design
//! [`portable`] is the specification in plain Rust. [`generic`] has every kernel once over a vector trait, and the
//! folders of the architectures only say what the vectors are. Declaring a kernel in [`kernels`] asks for a case of the
//! same name in `selftest::cases`: with it the kernel is tested on every instruction set against the portable one, and
//! its digest is frozen.
//!
//! # Safety
//! A function of a table may be called only on a processor that has the table's instruction set; [`crate::Isa`] hands
//! out a table only then.

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64;
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    all(target_arch = "wasm32", target_feature = "simd128")
))]
pub(crate) mod generic;
pub(crate) mod portable;
#[cfg(target_arch = "wasm32")]
pub(crate) mod wasm32;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

use crate::kv::KvFormat;
use crate::weights::TILE_ROWS;

/// One output per row of a tile.
pub(crate) type TileOutput = [f32; TILE_ROWS];

/// Positions that lie side by side in a tile of keys.
pub(crate) const KEY_LANES: usize = 16;

/// 2 * sqrt(2 / pi), rounded: the linear term of gelu's exponent.
pub(crate) const GELU_LINEAR: f32 = 1.595_769_2;
/// The cubic term beside it.
pub(crate) const GELU_CUBIC: f32 = 0.044_715;

/// Rows that a product with float weights takes together, at most.
pub(crate) const FLOAT_COLUMNS: usize = 6;

/// A product of packed tiles, side by side in memory, and one panel.
///
/// Arguments: the tiles; blocks per row; the panel; its width; the output, of which element `tile * width + column` is
/// written with canonical NaNs.
pub(crate) type MatmulKernel = unsafe fn(&[u8], usize, &[u32], usize, &mut [TileOutput]);

/// A product of packed tiles of float weights and up to [`FLOAT_COLUMNS`] rows.
///
/// Arguments: the tiles; columns per row; the rows; the output, of which element `tile * rows + row` is written with
/// canonical NaNs.
pub(crate) type FloatMatmulKernel = unsafe fn(&[u8], usize, &[f32], &mut [TileOutput]);

/// Rows of A times a row of the input.
///
/// Arguments: A row by row, each filled up with zeros to whole sixteens; the row; the output, an element per row of A, with
/// canonical NaNs.
pub(crate) type LowRankDownKernel = unsafe fn(&[u8], &[f32], &mut [f32]);

/// Adds scale * (B · t) to a row's outputs, or to some of them.
///
/// Arguments: the tiles of B, 16 rows each, rank columns one after another; t; the scale; the outputs, which get canonical
/// NaNs.
pub(crate) type LowRankUpKernel = unsafe fn(&[u8], &[f32], f32, &mut [f32]);

/// Quantises rows of `columns` elements each into one panel: `(rows, columns, panel)`.
pub(crate) type QuantizeKernel = unsafe fn(&[f32], usize, &mut [u32]);

/// Scaled scores of queries against whole tiles of keys.
///
/// Arguments: the queries, `head_dim` elements each; `head_dim`; the keys; the scale; the scores, those of query i from
/// `i * stride`; `stride`.
pub(crate) type ScoresKernel = unsafe fn(&[f32], usize, &[u8], f32, &mut [f32], usize);

/// To what is there for query i adds, for positions p below `counts[i]`, `weights[i * stride + p]` times row p of the
/// values.
///
/// Arguments: the weights; `stride`; the counts, ascending; the values; `head_dim`; the dimensions wanted, in quantised
/// formats beginning with a multiple of 16; the output, as many elements per query, with canonical NaNs.
pub(crate) type ValuesKernel =
    unsafe fn(&[f32], usize, &[usize], &[u8], usize, std::ops::Range<usize>, &mut [f32]);

impl KernelTable {
    /// For keys of a format.
    pub(crate) fn scores(&self, format: KvFormat) -> ScoresKernel {
        match format {
            KvFormat::F16 => self.scores_f16_f32,
            KvFormat::Q8 => self.scores_q8_f32,
            KvFormat::Q4 => self.scores_q4_f32,
        }
    }

    /// For values of a format.
    pub(crate) fn values(&self, format: KvFormat) -> ValuesKernel {
        match format {
            KvFormat::F16 => self.values_f16_f32,
            KvFormat::Q8 => self.values_q8_f32,
            KvFormat::Q4 => self.values_q4_f32,
        }
    }
}

/// Declares the kernels: the table's type, and what has to exist for each.
macro_rules! kernels {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        /// The kernels of one instruction set. Those of every other give the bits of [`portable`].
        pub(crate) struct KernelTable {
            $($(#[$doc])* pub(crate) $name: $type,)*
        }

        /// A table of the functions in scope that have the kernels' names.
        macro_rules! kernel_table {
            () => { crate::arch::KernelTable { $($name),* } };
        }
        pub(crate) use kernel_table;

        /// The cases in scope that have the kernels' names.
        macro_rules! kernel_cases {
            () => { [$(Case { name: stringify!($name), run: $name }),*] };
        }
        pub(crate) use kernel_cases;

        /// A test per kernel, which calls `check` with its name.
        #[cfg(test)]
        macro_rules! kernel_tests {
            () => { $(#[test] fn $name() { check(stringify!($name)); })* };
        }
        #[cfg(test)]
        pub(crate) use kernel_tests;
    };
}

kernels! {
    /// Blocks of 32.
    quantize_f32_i8_32: QuantizeKernel;
    /// Blocks of 256.
    quantize_f32_i8_256: QuantizeKernel;
    matmul_q8_0_f32: MatmulKernel;
    matmul_q4_0_f32: MatmulKernel;
    matmul_q4_1_f32: MatmulKernel;
    matmul_q5_0_f32: MatmulKernel;
    matmul_q5_1_f32: MatmulKernel;
    matmul_q2_k_f32: MatmulKernel;
    matmul_q3_k_f32: MatmulKernel;
    matmul_q4_k_f32: MatmulKernel;
    matmul_q5_k_f32: MatmulKernel;
    matmul_q6_k_f32: MatmulKernel;
    matmul_int8_f32: MatmulKernel;
    matmul_iq4_nl_f32: MatmulKernel;
    matmul_iq4_xs_f32: MatmulKernel;
    matmul_f32_f32: FloatMatmulKernel;
    matmul_f16_f32: FloatMatmulKernel;
    matmul_bf16_f32: FloatMatmulKernel;
    low_rank_down_f32_f32: LowRankDownKernel;
    low_rank_down_f16_f32: LowRankDownKernel;
    low_rank_up_f32_f32: LowRankUpKernel;
    low_rank_up_f16_f32: LowRankUpKernel;
    /// One row: `(input, weight, epsilon, output)`.
    rms_norm_f32_f32: unsafe fn(&[f32], &[f32], f32, &mut [f32]);
    scores_f16_f32: ScoresKernel;
    scores_q8_f32: ScoresKernel;
    scores_q4_f32: ScoresKernel;
    softmax_f32_f32: unsafe fn(&mut [f32]);
    values_f16_f32: ValuesKernel;
    values_q8_f32: ValuesKernel;
    values_q4_f32: ValuesKernel;
    /// `(gate, up)`: gate = silu(gate) * up.
    silu_mul_f32_f32: unsafe fn(&mut [f32], &[f32]);
    /// `(gate, up)`: gate = gelu(gate) * up.
    gelu_mul_f32_f32: unsafe fn(&mut [f32], &[f32]);
    /// `(accumulator, addend)`.
    add_f32_f32: unsafe fn(&mut [f32], &[f32]);
    /// `(values, factors)`.
    mul_f32_f32: unsafe fn(&mut [f32], &[f32]);
    /// `(accumulator, a, b)`: accumulator = accumulator + (a * b), without the canonical NaN.
    mul_add_f32_f32: unsafe fn(&mut [f32], &[f32], &[f32]);
    /// In place.
    exp_f32_f32: unsafe fn(&mut [f32]);
    /// `(values, output)`.
    narrow_f32_f16: unsafe fn(&[f32], &mut [u16]);
    /// `(cosines and sines, heads)`, in place.
    rope_interleaved_f32_f32: unsafe fn(&[[f32; 2]], &mut [f32]);
    /// `(cosines and sines, heads)`, in place.
    rope_halves_f32_f32: unsafe fn(&[[f32; 2]], &mut [f32]);
}
