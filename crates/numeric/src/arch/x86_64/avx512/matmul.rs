//! Matrix products: one or two tiles by up to six columns in registers.
//!
//! # Units and bounds
//! dpbusd multiplies unsigned weights by signed activations and adds without saturation: at most 32 * 255 * 127 + 128 *
//! 32 * 127 < 2^21 in magnitude for Q8_0, 60,960 for Q4_1.

use std::arch::x86_64::*;

use super::canonical;
use crate::arch::x86_64::blocks_of;
use crate::arch::{QUERY_BLOCK, TileOutput};
use crate::quantized::{PANEL_WIDTH, QUANT_WORDS};
use crate::weights::{
    Q4_1_TILE_BLOCK_BYTES, Q8_0_TILE_QUANT_BYTES, Q8_0_TILE_SCALE_BYTES, q8_0_scale_bytes,
};

/// Bytes ahead of the reading position that a decode step asks for.
const PREFETCH_BYTES: usize = 1024;

/// Calls `kernel::<tiles, columns>` for the shape at hand.
macro_rules! by_shape {
    ($kernel:ident, $tile_bytes:expr, $tiles:ident, $blocks:ident, $panel:ident, $width:ident, $output:ident) => {
        match ($tiles.len() / $tile_bytes, $width) {
            (1, 1) => $kernel::<1, 1>($tiles, $blocks, $panel, $output),
            (1, 2) => $kernel::<1, 2>($tiles, $blocks, $panel, $output),
            (1, 3) => $kernel::<1, 3>($tiles, $blocks, $panel, $output),
            (1, 4) => $kernel::<1, 4>($tiles, $blocks, $panel, $output),
            (1, 5) => $kernel::<1, 5>($tiles, $blocks, $panel, $output),
            (1, PANEL_WIDTH) => $kernel::<1, PANEL_WIDTH>($tiles, $blocks, $panel, $output),
            (2, 1) => $kernel::<2, 1>($tiles, $blocks, $panel, $output),
            (2, 2) => $kernel::<2, 2>($tiles, $blocks, $panel, $output),
            (2, 3) => $kernel::<2, 3>($tiles, $blocks, $panel, $output),
            (2, 4) => $kernel::<2, 4>($tiles, $blocks, $panel, $output),
            (2, 5) => $kernel::<2, 5>($tiles, $blocks, $panel, $output),
            (2, PANEL_WIDTH) => $kernel::<2, PANEL_WIDTH>($tiles, $blocks, $panel, $output),
            (tiles, width) => unreachable!("no kernel for {tiles} tiles and {width} columns"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512dq")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512dq")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512dq")]
fn q8_0<const T: usize, const C: usize>(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    output: &mut [TileOutput],
) {
    let scale_bytes = q8_0_scale_bytes(blocks);
    let tile_bytes = scale_bytes + blocks * Q8_0_TILE_QUANT_BYTES;
    assert_eq!(tiles.len(), T * tile_bytes, "bytes of tiles");
    let panel = blocks_of::<C>(panel, blocks);
    let mut sums = [[_mm512_setzero_ps(); T]; C];
    for (block, activations) in panel.iter().enumerate() {
        let mut dots = [[_mm512_setzero_si512(); T]; C];
        for c in 0..C {
            // Stored quants carry 128 too much: start from -128 * sum.
            dots[c] = [word(activations.corrections[c]); T];
        }
        for group in 0..QUANT_WORDS {
            let mut quants = [_mm512_setzero_si512(); T];
            for t in 0..T {
                let offset =
                    t * tile_bytes + scale_bytes + block * Q8_0_TILE_QUANT_BYTES + group * 64;
                quants[t] = load_line::<C>(tiles, offset);
            }
            for c in 0..C {
                let x = word(activations.quants[c][group]);
                for t in 0..T {
                    dots[c][t] = _mm512_dpbusd_epi32(dots[c][t], quants[t], x);
                }
            }
        }
        for t in 0..T {
            let scale = load_f16(tiles, t * tile_bytes + block * Q8_0_TILE_SCALE_BYTES);
            for c in 0..C {
                let step = _mm512_mul_ps(scale, float(activations.scales[c]));
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[c][t]), step);
                sums[c][t] = _mm512_add_ps(sums[c][t], product);
            }
        }
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512dq")]
fn q4_1<const T: usize, const C: usize>(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    output: &mut [TileOutput],
) {
    const GROUPS: usize = QUANT_WORDS / 2;
    let tile_bytes = blocks * Q4_1_TILE_BLOCK_BYTES;
    assert_eq!(tiles.len(), T * tile_bytes, "bytes of tiles");
    let panel = blocks_of::<C>(panel, blocks);
    let nibble = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_ps(); T]; C];
    for (block, activations) in panel.iter().enumerate() {
        let mut dots = [[_mm512_setzero_si512(); T]; C];
        for group in 0..GROUPS {
            let mut low = [_mm512_setzero_si512(); T];
            let mut high = [_mm512_setzero_si512(); T];
            for t in 0..T {
                let offset = t * tile_bytes + block * Q4_1_TILE_BLOCK_BYTES + 64 + group * 64;
                let pairs = load_line::<C>(tiles, offset);
                low[t] = _mm512_and_si512(pairs, nibble);
                high[t] = _mm512_and_si512(_mm512_srli_epi16::<4>(pairs), nibble);
            }
            for c in 0..C {
                let (x, y) = (
                    word(activations.quants[c][group]),
                    word(activations.quants[c][GROUPS + group]),
                );
                for t in 0..T {
                    dots[c][t] = _mm512_dpbusd_epi32(dots[c][t], low[t], x);
                    dots[c][t] = _mm512_dpbusd_epi32(dots[c][t], high[t], y);
                }
            }
        }
        for t in 0..T {
            let offset = t * tile_bytes + block * Q4_1_TILE_BLOCK_BYTES;
            let (scale, minimum) = (load_f16(tiles, offset), load_f16(tiles, offset + 32));
            for c in 0..C {
                let step = _mm512_mul_ps(scale, float(activations.scales[c]));
                let product = _mm512_mul_ps(_mm512_cvtepi32_ps(dots[c][t]), step);
                sums[c][t] = _mm512_add_ps(sums[c][t], product);
                let minimum_term = _mm512_mul_ps(minimum, float(activations.minimum_terms[c]));
                sums[c][t] = _mm512_add_ps(sums[c][t], minimum_term);
            }
        }
    }
    store_sums(&sums, output);
}

#[target_feature(enable = "avx512f")]
pub(super) fn matmul_f32_f32(tile: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]) {
    match rows.len() / columns {
        1 => f32_rows::<1>(tile, columns, rows, output),
        2 => f32_rows::<2>(tile, columns, rows, output),
        3 => f32_rows::<3>(tile, columns, rows, output),
        4 => f32_rows::<4>(tile, columns, rows, output),
        5 => f32_rows::<5>(tile, columns, rows, output),
        count => {
            assert_eq!(count, QUERY_BLOCK, "rows in a block");
            f32_rows::<QUERY_BLOCK>(tile, columns, rows, output);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn f32_rows<const C: usize>(tile: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]) {
    assert!(
        tile.len() == columns * 64 && rows.len() == C * columns,
        "shapes of tile and rows"
    );
    let mut sums = [[_mm512_setzero_ps(); 1]; C];
    for k in 0..columns {
        let weights = _mm512_castsi512_ps(load_line::<C>(tile, k * 64));
        for c in 0..C {
            let product = _mm512_mul_ps(weights, _mm512_set1_ps(rows[c * columns + k]));
            sums[c][0] = _mm512_add_ps(sums[c][0], product);
        }
    }
    store_sums(&sums, output);
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn word(bits: u32) -> __m512i {
    _mm512_set1_epi32(bits as i32)
}

/// The f32 with these bits in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn float(bits: u32) -> __m512 {
    _mm512_set1_ps(f32::from_bits(bits))
}

/// The 64 bytes at `offset`; a decode step (one column), which is bound by memory, also asks for some further on.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_line<const C: usize>(tiles: &[u8], offset: usize) -> __m512i {
    debug_assert!(offset + 64 <= tiles.len());
    let start = tiles.as_ptr().wrapping_add(offset);
    if C == 1 {
        _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(PREFETCH_BYTES).cast());
    }
    // SAFETY: the callers' loops stay within the number of bytes that they assert.
    unsafe { _mm512_loadu_si512(start.cast()) }
}

/// The 16 f16 at `offset`, widened.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_f16(tiles: &[u8], offset: usize) -> __m512 {
    debug_assert!(offset + 32 <= tiles.len());
    // SAFETY: the callers' loops stay within the number of bytes that they assert.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(tiles.as_ptr().add(offset).cast()) })
}

/// Writes the sums, tile by tile, with canonical NaNs.
#[inline]
#[target_feature(enable = "avx512f")]
fn store_sums<const T: usize, const C: usize>(sums: &[[__m512; T]; C], output: &mut [TileOutput]) {
    for t in 0..T {
        for c in 0..C {
            super::store(&mut output[t * C + c], canonical(sums[c][t]));
        }
    }
}
