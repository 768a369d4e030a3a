//! Matrix products: half a tile by up to six columns in registers, or a whole tile by up to three.
//!
//! # Units and bounds
//! maddubs multiplies unsigned by signed bytes and adds pairs with saturation at 32,767, which is never reached because
//! activations are at most 127 in magnitude. Q4_1: a pair is at most 2 * 15 * 127 = 3,810, the sum of the eight groups
//! 30,480. Q8_0: with |q| <= 128 as the unsigned factor and its sign moved to the activation, a pair is at most
//! 2 * 128 * 127 = 32,512; pairs are then added in 32 bits.

use std::arch::x86_64::*;

use super::{canonical, store};
use crate::arch::TileOutput;
use crate::arch::x86_64::blocks_of;
use crate::quantized::{PANEL_WIDTH, QUANT_WORDS};
use crate::weights::{
    Q4_1_TILE_BLOCK_BYTES, Q8_0_TILE_QUANT_BYTES, Q8_0_TILE_SCALE_BYTES, TILE_ROWS,
    q8_0_scale_bytes,
};

/// Bytes ahead of the reading position that a decode step asks for.
const PREFETCH_BYTES: usize = 1024;

/// For each tile, calls `kernel::<halves, columns>` until both halves are done.
macro_rules! by_shape {
    ($kernel:ident, $tile_bytes:expr, $tiles:ident, $blocks:ident, $panel:ident, $width:ident, $output:ident) => {
        for (tile, output) in $tiles
            .chunks_exact($tile_bytes)
            .zip($output.chunks_exact_mut($width))
        {
            match $width {
                1 => $kernel::<2, 1>(tile, 0, $blocks, $panel, output),
                2 => $kernel::<2, 2>(tile, 0, $blocks, $panel, output),
                3 => $kernel::<2, 3>(tile, 0, $blocks, $panel, output),
                4 => (0..2).for_each(|half| $kernel::<1, 4>(tile, half, $blocks, $panel, output)),
                5 => (0..2).for_each(|half| $kernel::<1, 5>(tile, half, $blocks, $panel, output)),
                width => {
                    assert_eq!(width, PANEL_WIDTH, "columns of a panel");
                    (0..2).for_each(|half| {
                        $kernel::<1, PANEL_WIDTH>(tile, half, $blocks, $panel, output)
                    });
                }
            }
        }
    };
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn matmul_q8_0_f32(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let tile_bytes = q8_0_scale_bytes(blocks) + blocks * Q8_0_TILE_QUANT_BYTES;
    by_shape!(q8_0, tile_bytes, tiles, blocks, panel, width, output);
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn matmul_q4_1_f32(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let tile_bytes = blocks * Q4_1_TILE_BLOCK_BYTES;
    by_shape!(q4_1, tile_bytes, tiles, blocks, panel, width, output);
}

#[target_feature(enable = "avx2,f16c")]
fn q8_0<const H: usize, const C: usize>(
    tile: &[u8],
    first_half: usize,
    blocks: usize,
    panel: &[u32],
    output: &mut [TileOutput],
) {
    let scale_bytes = q8_0_scale_bytes(blocks);
    assert_eq!(
        tile.len(),
        scale_bytes + blocks * Q8_0_TILE_QUANT_BYTES,
        "bytes of the tile"
    );
    assert!(first_half + H <= 2, "halves of a tile");
    let (offset_bit, ones) = (_mm256_set1_epi8(-128), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); H]; C];
    for (block, activations) in blocks_of::<C>(panel, blocks).iter().enumerate() {
        let mut dots = [[_mm256_setzero_si256(); H]; C];
        for group in 0..QUANT_WORDS {
            let offset = scale_bytes + block * Q8_0_TILE_QUANT_BYTES + group * 64 + first_half * 32;
            for h in 0..H {
                let quants =
                    _mm256_xor_si256(load_half_line::<C>(tile, offset + h * 32), offset_bit);
                let sizes = _mm256_abs_epi8(quants);
                for c in 0..C {
                    let signed = _mm256_sign_epi8(word(activations.quants[c][group]), quants);
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(sizes, signed), ones);
                    dots[c][h] = _mm256_add_epi32(dots[c][h], pairs);
                }
            }
        }
        for h in 0..H {
            let scale = scales(tile, block * Q8_0_TILE_SCALE_BYTES + (first_half + h) * 16);
            for c in 0..C {
                let step =
                    _mm256_mul_ps(scale, _mm256_set1_ps(f32::from_bits(activations.scales[c])));
                let product = _mm256_mul_ps(_mm256_cvtepi32_ps(dots[c][h]), step);
                sums[c][h] = _mm256_add_ps(sums[c][h], product);
            }
        }
    }
    store_sums(&sums, first_half, output);
}

#[target_feature(enable = "avx2,f16c")]
fn q4_1<const H: usize, const C: usize>(
    tile: &[u8],
    first_half: usize,
    blocks: usize,
    panel: &[u32],
    output: &mut [TileOutput],
) {
    const GROUPS: usize = QUANT_WORDS / 2;
    assert_eq!(
        tile.len(),
        blocks * Q4_1_TILE_BLOCK_BYTES,
        "bytes of the tile"
    );
    assert!(first_half + H <= 2, "halves of a tile");
    let (nibble, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let mut sums = [[_mm256_setzero_ps(); H]; C];
    for (block, activations) in blocks_of::<C>(panel, blocks).iter().enumerate() {
        let start = block * Q4_1_TILE_BLOCK_BYTES;
        // 16-bit lanes.
        let mut pairs = [[_mm256_setzero_si256(); H]; C];
        for group in 0..GROUPS {
            for h in 0..H {
                let quants =
                    load_half_line::<C>(tile, start + 64 + group * 64 + (first_half + h) * 32);
                let low = _mm256_and_si256(quants, nibble);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(quants), nibble);
                for c in 0..C {
                    let (x, y) = (
                        word(activations.quants[c][group]),
                        word(activations.quants[c][GROUPS + group]),
                    );
                    let sum = _mm256_add_epi16(
                        _mm256_maddubs_epi16(low, x),
                        _mm256_maddubs_epi16(high, y),
                    );
                    pairs[c][h] = _mm256_add_epi16(pairs[c][h], sum);
                }
            }
        }
        for h in 0..H {
            let offset = start + (first_half + h) * 16;
            let (scale, minimum) = (scales(tile, offset), scales(tile, offset + 32));
            for c in 0..C {
                let dot = _mm256_madd_epi16(pairs[c][h], ones);
                let step =
                    _mm256_mul_ps(scale, _mm256_set1_ps(f32::from_bits(activations.scales[c])));
                sums[c][h] =
                    _mm256_add_ps(sums[c][h], _mm256_mul_ps(_mm256_cvtepi32_ps(dot), step));
                let minimum_term = _mm256_set1_ps(f32::from_bits(activations.minimum_terms[c]));
                sums[c][h] = _mm256_add_ps(sums[c][h], _mm256_mul_ps(minimum, minimum_term));
            }
        }
    }
    store_sums(&sums, first_half, output);
}

#[target_feature(enable = "avx2")]
pub(super) fn matmul_f32_f32(tile: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]) {
    for (row, output) in rows.chunks_exact(columns).zip(output) {
        let mut sums = [[_mm256_setzero_ps(); 2]; 1];
        for (x, weights) in row.iter().zip(tile.chunks_exact(TILE_ROWS * 4)) {
            for h in 0..2 {
                let weights = _mm256_castsi256_ps(load_half_line::<2>(weights, h * 32));
                sums[0][h] = _mm256_add_ps(sums[0][h], _mm256_mul_ps(weights, _mm256_set1_ps(*x)));
            }
        }
        store_sums(&sums, 0, std::slice::from_mut(output));
    }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn word(quants: u32) -> __m256i {
    _mm256_set1_epi32(quants as i32)
}

/// The 32 bytes at `offset`; a decode step (one column), which is bound by memory, also asks for some further on.
#[inline]
#[target_feature(enable = "avx2")]
fn load_half_line<const C: usize>(tile: &[u8], offset: usize) -> __m256i {
    debug_assert!(offset + 32 <= tile.len());
    let start = tile.as_ptr().wrapping_add(offset);
    if C == 1 && offset.is_multiple_of(64) {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(PREFETCH_BYTES).cast());
    }
    // SAFETY: the callers' loops stay within the number of bytes that they assert.
    unsafe { _mm256_loadu_si256(start.cast()) }
}

/// The 8 f16 at `offset`, widened.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn scales(tile: &[u8], offset: usize) -> __m256 {
    debug_assert!(offset + 16 <= tile.len());
    // SAFETY: the callers' loops stay within the number of bytes that they assert.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(tile.as_ptr().add(offset).cast()) })
}

/// Writes the sums of the given halves with canonical NaNs.
#[inline]
#[target_feature(enable = "avx2")]
fn store_sums<const H: usize, const C: usize>(
    sums: &[[__m256; H]; C],
    first_half: usize,
    output: &mut [TileOutput],
) {
    for c in 0..C {
        for h in 0..H {
            store(
                &mut output[c].as_chunks_mut::<8>().0[first_half + h],
                canonical(sums[c][h]),
            );
        }
    }
}
