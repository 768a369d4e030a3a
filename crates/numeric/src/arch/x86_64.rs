//! Kernels for x86-64.
//!
//! # Determinism
//! The intrinsics used are plain IEEE operations in the default environment, each rounded once; none fuses or
//! approximates. Conversions between f16 and f32 are exact or rounded half to even whatever the environment.

// Blocks of registers are indexed by constants, so that the loops over them unroll.
#![allow(clippy::needless_range_loop)]

pub(crate) mod avx2;
pub(crate) mod avx512;

use crate::quantized::{COLUMN_WORDS, QUANT_WORDS};

/// One block of a panel of C columns.
#[repr(C)]
struct PanelBlock<const C: usize> {
    /// Four quants per word.
    quants: [[u32; QUANT_WORDS]; C],
    /// Bits of the f32 scales.
    scales: [u32; C],
    /// -128 * sum as i32.
    corrections: [u32; C],
    /// Bits of the f32 scale * f32(sum).
    minimum_terms: [u32; C],
}

/// A panel of C columns as blocks.
#[inline]
fn blocks_of<const C: usize>(panel: &[u32], blocks: usize) -> &[PanelBlock<C>] {
    assert_eq!(panel.len(), blocks * C * COLUMN_WORDS, "words of the panel");
    // SAFETY: a PanelBlock is C * COLUMN_WORDS words without padding, and the panel has `blocks` times as many.
    unsafe { std::slice::from_raw_parts(panel.as_ptr().cast(), blocks) }
}
