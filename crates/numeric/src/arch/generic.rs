//! Every kernel once, over a vector trait; instruction sets instantiate it.
//!
//! # Design
//! [`Simd`] is a token that proves an instruction set, with the operations the kernels need on vectors of `LANES`
//! 32-bit lanes. A kernel is an `#[inline(always)]` function over it; [`instantiate`] wraps each one in a function
//! with the instruction set's target features, into which everything inlines, and makes the table of them.
//!
//! # Determinism
//! Every f32 operation of the trait is the IEEE one, rounded once, never fused. Integer dots are exact in any order, so
//! an instruction set may take its own. Lanes run across outputs; the order along k is written here, once for all.
//!
//! # Safety
//! Kernels take raw pointers into slices whose lengths they assert first; each loop stays within what was asserted.

// Blocks of registers are indexed by constants, so that the loops over them unroll.
#![allow(clippy::needless_range_loop)]

pub(crate) mod attention;
pub(crate) mod block;
pub(crate) mod elementwise;
pub(crate) mod float;
pub(crate) mod low_rank;
pub(crate) mod norm;
pub(crate) mod quantize;
pub(crate) mod superblock;

use crate::convert::f16_to_f32;
use crate::weights::CODES;

/// Vectors of one instruction set. A value of the type proves that the processor has it.
pub(crate) trait Simd: Copy {
    /// 32-bit lanes in a vector: 4, 8 or 16.
    const LANES: usize;
    /// `LANES` f32.
    type F32: Copy;
    /// `LANES` i32, or four times as many bytes.
    type I32: Copy;
    /// Sums of products of 4-bit weights over one block of 32.
    type NibbleSum: Copy;
    /// Sums of products of weights of up to 8 bits.
    type ByteSum: Copy;

    /// # Safety
    /// 4 * `LANES` bytes can be read.
    unsafe fn load_f32(self, from: *const f32) -> Self::F32;
    /// # Safety
    /// 4 * `LANES` bytes can be written.
    unsafe fn store_f32(self, to: *mut f32, value: Self::F32);
    /// `LANES` f16, widened.
    /// # Safety
    /// 2 * `LANES` bytes can be read.
    unsafe fn load_f16(self, from: *const u8) -> Self::F32;
    /// In every lane one f16, widened.
    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::F32 {
        self.splat_f32(f16_to_f32(bits))
    }
    /// `LANES` bytes, widened with their signs.
    /// # Safety
    /// `LANES` bytes can be read.
    unsafe fn load_i8(self, from: *const u8) -> Self::I32;
    /// `LANES` bf16, widened.
    /// # Safety
    /// 2 * `LANES` bytes can be read.
    unsafe fn load_bf16(self, from: *const u8) -> Self::F32;
    /// Narrows to f16, half to even; a NaN must be canonical.
    /// # Safety
    /// 2 * `LANES` bytes can be written.
    unsafe fn store_f16(self, to: *mut u16, value: Self::F32);
    /// # Safety
    /// 4 * `LANES` bytes can be read.
    unsafe fn load_i32(self, from: *const u8) -> Self::I32;
    /// The low bytes of the lanes.
    /// # Safety
    /// `LANES` bytes can be written.
    unsafe fn store_i8(self, to: *mut i8, value: Self::I32);

    fn splat_f32(self, value: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn abs(self, a: Self::F32) -> Self::F32;
    fn neg(self, a: Self::F32) -> Self::F32;
    /// The larger; a NaN in either wins. Which zero wins is open.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger, of lanes without a sign; a NaN wins. Their bits compare as integers.
    fn max_size(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The largest lane, of lanes without a sign; a NaN wins.
    fn largest_size(self, a: Self::F32) -> f32;
    /// Every NaN replaced by the canonical one.
    fn canonical(self, a: Self::F32) -> Self::F32;
    /// Every NaN replaced by +0; the rest clamped to -127 and 127, rounded half to even.
    fn to_quants(self, a: Self::F32) -> Self::I32;
    /// The correctly rounded exponential; NaN gives the canonical one.
    fn exp(self, a: Self::F32) -> Self::F32;

    fn splat_i32(self, value: i32) -> Self::I32;
    fn add_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn mul_i32(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn and(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn or(self, a: Self::I32, b: Self::I32) -> Self::I32;
    fn shift_left<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// Zeros move in.
    fn shift_right<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// The sign moves in.
    fn shift_right_signed<const N: i32>(self, a: Self::I32) -> Self::I32;
    /// Each lane, rounded half to even.
    fn to_f32(self, a: Self::I32) -> Self::F32;
    /// The sum of all lanes, which must not overflow.
    fn sum_lanes(self, a: Self::I32) -> i32;

    /// Per lane four weights from 0 to 15 times four signed bytes of magnitude up to 127, added up over at most 8 calls.
    fn nibble_dot(self, sum: Self::NibbleSum, weights: Self::I32, x: Self::I32) -> Self::NibbleSum;
    /// The start of such a sum that finishes at `correction`.
    fn nibble_start(self, correction: Self::I32) -> Self::NibbleSum;
    /// The sum; `correction` as at the start.
    fn nibble_finish(self, sum: Self::NibbleSum, correction: Self::I32) -> Self::I32;

    fn byte_start(self, correction: Self::I32) -> Self::ByteSum;
    /// Per lane four weights from 0 to 127 times four signed bytes of magnitude up to 127.
    fn byte_dot(self, sum: Self::ByteSum, weights: Self::I32, x: Self::I32) -> Self::ByteSum;
    /// The sum with `correction`, as at the start.
    fn byte_finish(self, sum: Self::ByteSum, correction: Self::I32) -> Self::I32;

    /// The start of a sum of [`Self::flipped_dot`], given -128 times the sum of all its x.
    fn flipped_start(self, correction: Self::I32) -> Self::ByteSum;
    /// As [`Self::byte_dot`] for signed weights whose top bit is flipped.
    fn flipped_dot(self, sum: Self::ByteSum, weights: Self::I32, x: Self::I32) -> Self::ByteSum;
    /// The exact sum of products with the signed weights.
    fn flipped_finish(self, sum: Self::ByteSum) -> Self::I32;

    /// What nibbles, one in each byte, stand for in IQ4_NL and IQ4_XS, as bytes for [`Self::flipped_dot`].
    fn codes(self, nibbles: Self::I32) -> Self::I32;

    /// Asks for the cache line at `address`, which may be any, in the second-level cache.
    fn prefetch(self, address: *const u8);
}

/// The integers of IQ4_NL and IQ4_XS with their top bit flipped.
pub(crate) static FLIPPED_CODES: [u8; 16] = {
    let mut codes = [0; 16];
    let mut index = 0;
    while index < codes.len() {
        codes[index] = CODES[index].cast_unsigned() ^ 0x80;
        index += 1;
    }
    codes
};

/// The f32 with these bits in every lane.
#[inline(always)]
pub(crate) fn splat_bits<S: Simd>(simd: S, bits: u32) -> S::F32 {
    simd.splat_f32(f32::from_bits(bits))
}

/// Wraps the kernels in functions with target features, and makes their table.
///
/// Arguments: the token type; its features; vectors of rows that a product takes together for one column and for
/// several; vectors in 16 lanes; queries that attention takes together, and vectors of positions or dimensions.
macro_rules! instantiate {
    (
        $simd:ident, $features:literal, rows: $decode:literal / $prefill:literal, sixteen: $sixteen:literal,
        attention: $queries:literal x $vectors:literal
    ) => {
        $crate::arch::generic::instantiate!(@block $simd, $features, $decode, $prefill;
            matmul_q8_0_f32: Q8_0, matmul_q4_0_f32: Q4_0, matmul_q4_1_f32: Q4_1, matmul_q5_0_f32: Q5_0,
            matmul_q5_1_f32: Q5_1, matmul_int8_f32: Int8, matmul_iq4_nl_f32: Iq4Nl);
        $crate::arch::generic::instantiate!(@superblock $simd, $features;
            matmul_q2_k_f32: Q2K, matmul_q3_k_f32: Q3K, matmul_q4_k_f32: Q4K, matmul_q5_k_f32: Q5K,
            matmul_q6_k_f32: Q6K, matmul_iq4_xs_f32: Iq4Xs);
        $crate::arch::generic::instantiate!(@float $simd, $features;
            matmul_f32_f32: F32, matmul_f16_f32: F16, matmul_bf16_f32: Bf16);
        $crate::arch::generic::instantiate!(@low_rank $simd, $features, $sixteen;
            low_rank_down_f32_f32, low_rank_up_f32_f32: F32, low_rank_down_f16_f32, low_rank_up_f16_f32: F16);

        $crate::arch::generic::instantiate!(@plain $simd, $features;
            quantize_f32_i8_32(rows: &[f32], columns: usize, panel: &mut [u32])
                = quantize::short_blocks::<$simd, { 2 * $sixteen }>;
            quantize_f32_i8_256(rows: &[f32], columns: usize, panel: &mut [u32])
                = quantize::long_blocks::<$simd, $sixteen>;
            rms_norm_f32_f32(input: &[f32], weight: &[f32], epsilon: f32, output: &mut [f32])
                = norm::rms_norm::<$simd, $sixteen>;
            softmax_f32_f32(values: &mut [f32]) = norm::softmax::<$simd, $sixteen>;
            silu_mul_f32_f32(gate: &mut [f32], up: &[f32]) = elementwise::silu_mul::<$simd>;
            gelu_mul_f32_f32(gate: &mut [f32], up: &[f32]) = elementwise::gelu_mul::<$simd>;
            add_f32_f32(accumulator: &mut [f32], addend: &[f32]) = elementwise::add::<$simd>;
            mul_f32_f32(values: &mut [f32], factors: &[f32]) = elementwise::mul::<$simd>;
            mul_add_f32_f32(accumulator: &mut [f32], a: &[f32], b: &[f32]) = elementwise::mul_add::<$simd>;
            exp_f32_f32(values: &mut [f32]) = elementwise::exp::<$simd>;
            narrow_f32_f16(values: &[f32], output: &mut [u16]) = elementwise::narrow::<$simd>;
            rope_interleaved_f32_f32(rotations: &[[f32; 2]], values: &mut [f32]) = elementwise::rope_interleaved::<$simd>;
            rope_halves_f32_f32(rotations: &[[f32; 2]], values: &mut [f32]) = elementwise::rope_halves::<$simd>;
        );
        $crate::arch::generic::instantiate!(@attention $simd, $features, $queries, $vectors;
            scores_f16_f32, values_f16_f32: F16; scores_q8_f32, values_q8_f32: Q8; scores_q4_f32, values_q4_f32: Q4);

        static TABLE: $crate::arch::KernelTable = $crate::arch::kernel_table!();
    };
    (@block $simd:ident, $features:literal, $decode:literal, $prefill:literal; $($name:ident: $format:ident),*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name(
                tiles: &[u8], blocks: usize, panel: &[u32], width: usize,
                output: &mut [$crate::arch::TileOutput],
            ) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::block::product::<$simd, $crate::arch::generic::block::$format, $decode, $prefill>(
                    simd, tiles, blocks, panel, width, output,
                )
            }
        )*
    };
    (@superblock $simd:ident, $features:literal; $($name:ident: $format:ident),*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name(
                tiles: &[u8], blocks: usize, panel: &[u32], width: usize,
                output: &mut [$crate::arch::TileOutput],
            ) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::superblock::product::<$simd, $crate::arch::generic::superblock::$format>(
                    simd, tiles, blocks, panel, width, output,
                )
            }
        )*
    };
    (@float $simd:ident, $features:literal; $($name:ident: $format:ident),*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name(tiles: &[u8], columns: usize, rows: &[f32], output: &mut [$crate::arch::TileOutput]) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::float::product::<$simd, $crate::arch::generic::float::$format>(
                    simd, tiles, columns, rows, output,
                )
            }
        )*
    };
    (@attention $simd:ident, $features:literal, $queries:literal, $vectors:literal;
        $($scores:ident, $values:ident: $format:ident);*) => {
        $(
            #[target_feature(enable = $features)]
            fn $scores(
                queries: &[f32], head_dim: usize, keys: &[u8], scale: f32, scores: &mut [f32], stride: usize,
            ) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::attention::scores::<
                    $simd, $crate::arch::generic::attention::$format, $queries, $vectors
                >(simd, queries, head_dim, keys, scale, scores, stride)
            }

            #[target_feature(enable = $features)]
            fn $values(
                weights: &[f32], stride: usize, counts: &[usize], values: &[u8], head_dim: usize,
                dimensions: std::ops::Range<usize>, output: &mut [f32],
            ) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::attention::values::<
                    $simd, $crate::arch::generic::attention::$format, $queries, $vectors
                >(simd, weights, stride, counts, values, head_dim, dimensions, output)
            }
        )*
    };
    (@low_rank $simd:ident, $features:literal, $sixteen:literal; $($down:ident, $up:ident: $format:ident),*) => {
        $(
            #[target_feature(enable = $features)]
            fn $down(factors: &[u8], input: &[f32], output: &mut [f32]) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::low_rank::down::<$simd, $crate::arch::generic::float::$format, $sixteen>(
                    simd, factors, input, output,
                )
            }
            #[target_feature(enable = $features)]
            fn $up(tiles: &[u8], inner: &[f32], scale: f32, output: &mut [f32]) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::low_rank::up::<$simd, $crate::arch::generic::float::$format>(
                    simd, tiles, inner, scale, output,
                )
            }
        )*
    };
    (@plain $simd:ident, $features:literal;
        $($name:ident($($argument:ident: $type:ty),*) = $module:ident::$function:ident::<$($generic:tt),*>;)*) => {
        $(
            #[target_feature(enable = $features)]
            fn $name($($argument: $type),*) {
                // SAFETY: this function's features are those that the token stands for.
                let simd = unsafe { $simd::new() };
                $crate::arch::generic::$module::$function::<$($generic),*>(simd, $($argument),*)
            }
        )*
    };
}
pub(crate) use instantiate;

/// Writes methods of [`Simd`] whose bodies are intrinsics of the token's instruction set.
macro_rules! operations {
    ($($(#[$meta:meta])* fn $name:ident $(<const $N:ident: i32>)? ($($argument:ident: $type:ty),*) $(-> $result:ty)?
        $body:block)*) => {
        $(
            $(#[$meta])*
            #[inline(always)]
            fn $name$(<const $N: i32>)?(self, $($argument: $type),*) $(-> $result)? {
                // SAFETY: the token proves the instruction set, which is all that the intrinsics ask for.
                #[allow(unused_unsafe, reason = "some operations only pass their argument on")]
                unsafe { $body }
            }
        )*
    };
}
pub(crate) use operations;
