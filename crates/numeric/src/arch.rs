//! Kernels by instruction set: one table of functions each, chosen once at run time.
//!
//! # Safety
//! A function of a table may be called only on a processor that has the table's instruction set; [`crate::Isa`] hands
//! out a table only then.

pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

use crate::weights::TILE_ROWS;

/// One output per row of a tile.
pub(crate) type TileOutput = [f32; TILE_ROWS];

/// Positions that lie side by side in a tile of keys.
pub(crate) const KEY_LANES: usize = 16;

/// Queries that the attention kernels take together, at most.
pub(crate) const QUERY_BLOCK: usize = 6;

/// A product of packed tiles (one or two, side by side in memory) and one panel.
///
/// Arguments: the tiles; blocks per row; the panel; its width; the output, of which element `tile * width + column` is
/// written with canonical NaNs.
pub(crate) type MatmulKernel = unsafe fn(&[u8], usize, &[u32], usize, &mut [TileOutput]);

/// Scaled scores of up to [`QUERY_BLOCK`] queries against whole tiles of keys.
///
/// Arguments: the queries, `head_dim` elements each; `head_dim`; the keys; the scale; the scores, those of query i from
/// `i * stride`; `stride`.
pub(crate) type ScoresKernel = unsafe fn(&[f32], usize, &[u16], f32, &mut [f32], usize);

/// For query i the sum over positions p below `counts[i]` of `weights[i * stride + p]` times row p of the values.
///
/// Arguments: the weights; `stride`; the counts, ascending; the values; `head_dim`; the output, `head_dim` elements per
/// query with canonical NaNs.
pub(crate) type ValuesKernel = unsafe fn(&[f32], usize, &[usize], &[u16], usize, &mut [f32]);

/// The kernels of one instruction set. Those of every other give the bits of [`portable`].
pub(crate) struct KernelTable {
    /// Quantises `rows` of `columns` elements each into one panel.
    pub(crate) quantize_f32_i8: unsafe fn(rows: &[f32], columns: usize, panel: &mut [u32]),
    pub(crate) matmul_q8_0_f32: MatmulKernel,
    pub(crate) matmul_q4_1_f32: MatmulKernel,
    /// One tile of F32 weights and up to [`QUERY_BLOCK`] rows of `columns` elements each, one output per row.
    pub(crate) matmul_f32_f32:
        unsafe fn(tile: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]),
    pub(crate) rms_norm_f32_f32:
        unsafe fn(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32]),
    pub(crate) scores_f16_f32: ScoresKernel,
    pub(crate) softmax_f32_f32: unsafe fn(values: &mut [f32]),
    pub(crate) values_f16_f32: ValuesKernel,
    pub(crate) silu_mul_f32_f32: unsafe fn(gate: &mut [f32], up: &[f32]),
}
