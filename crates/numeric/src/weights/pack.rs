//! From stored rows to a packed tile.
//!
//! # Design
//! Quants keep their stored order of bits where it suits vectors. Three things are rearranged: signed bytes are stored
//! with their top bit flipped, so that they are unsigned; the high bits of Q5_0 and Q5_1 are spread so that bit g of
//! byte b belongs to element 4g + b; the six-bit scales of Q3_K, Q4_K, Q5_K and IQ4_XS become bytes.

use std::ops::Range;

use super::{TILE_ROWS, WeightFormat};
use crate::aligned::LINE_BYTES;

/// Writes a tile of up to 16 stored rows of `row_bytes`, `blocks` blocks each; the other lanes stay as they are.
pub(super) fn pack_tile(
    format: WeightFormat,
    rows: &[u8],
    row_bytes: usize,
    blocks: usize,
    tile: &mut [u8],
) {
    /// Words of the largest packed block.
    const WORDS_MAX: usize = 52;
    let layout = format.layout();
    let head_bytes = layout
        .head_bytes(blocks)
        .expect("the tile's size was computed");
    let (head, body) = tile.split_at_mut(head_bytes);
    let (row_lines, halves) = head.split_at_mut(layout.row_words * LINE_BYTES);
    match format {
        WeightFormat::F32 => return transpose::<4>(rows, row_bytes, body),
        WeightFormat::F16 | WeightFormat::Bf16 => return transpose::<2>(rows, row_bytes, halves),
        _ => {}
    }
    let stored = || rows.chunks_exact(row_bytes).enumerate();
    for (lane, row) in stored() {
        let words = row[..layout.row_words * 4].as_chunks::<4>().0;
        for (word, line) in words.iter().zip(row_lines.chunks_exact_mut(LINE_BYTES)) {
            line[lane * 4..][..4].copy_from_slice(word);
        }
    }
    let mut words = [0; WORDS_MAX];
    let words = &mut words[..layout.words];
    // Lane by lane within a block, so that its lines stay in cache.
    for index in 0..blocks {
        let body = &mut body[index * layout.words * LINE_BYTES..][..layout.words * LINE_BYTES];
        for (lane, row) in stored() {
            let block = &row[layout.row_words * 4 + index * layout.block_bytes..];
            let block = &block[..layout.block_bytes];
            for (half, offset) in layout.halves.iter().enumerate() {
                let place = (index * layout.halves.len() + half) * 32 + lane * 2;
                halves[place..][..2].copy_from_slice(&block[*offset..][..2]);
            }
            pack_block(format, block, words);
            for (word, line) in words.iter().zip(body.chunks_exact_mut(LINE_BYTES)) {
                line[lane * 4..][..4].copy_from_slice(&word.to_le_bytes());
            }
        }
    }
}

/// Writes up to 16 columns of a matrix of `stride` columns as a tile of F32.
pub(crate) fn pack_columns(values: &[f32], stride: usize, columns: Range<usize>, tile: &mut [u8]) {
    let lines = tile.chunks_exact_mut(LINE_BYTES);
    for (row, line) in values.chunks_exact(stride).zip(lines) {
        let places = line.as_chunks_mut::<4>().0;
        for (place, value) in places.iter_mut().zip(&row[columns.clone()]) {
            *place = value.to_le_bytes();
        }
    }
}

/// Writes up to 16 rows of elements of `BYTES`, so that those of one column lie side by side.
fn transpose<const BYTES: usize>(rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    /// Columns taken together, so that what they fill stays in cache.
    const GROUP: usize = 64;
    let out = out.as_chunks_mut::<BYTES>().0;
    for (group, out) in out.chunks_mut(GROUP * TILE_ROWS).enumerate() {
        for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
            let row = &row.as_chunks::<BYTES>().0[group * GROUP..];
            for (element, line) in row.iter().zip(out.chunks_exact_mut(TILE_ROWS)) {
                line[lane] = *element;
            }
        }
    }
}

/// Writes the packed words of one stored block.
fn pack_block(format: WeightFormat, block: &[u8], words: &mut [u32]) {
    match format {
        WeightFormat::F32 => copy(block, words),
        WeightFormat::F16 | WeightFormat::Bf16 => {}
        WeightFormat::Q8_0 => copy_flipped(&block[2..], words),
        WeightFormat::Int8 => copy_flipped(block, words),
        WeightFormat::Q4_0 | WeightFormat::IQ4_NL => copy(&block[2..], words),
        WeightFormat::Q4_1 => copy(&block[4..], words),
        WeightFormat::Q5_0 => pack_five_bits(&block[2..], words),
        WeightFormat::Q5_1 => pack_five_bits(&block[4..], words),
        WeightFormat::Q2_K => copy(&block[..80], words),
        WeightFormat::Q3_K => {
            copy(&block[..96], &mut words[..24]);
            let scales: [u8; 16] =
                std::array::from_fn(|j| q3_k_scale(&block[96..108], j).cast_unsigned());
            copy(&scales, &mut words[24..]);
        }
        WeightFormat::Q4_K | WeightFormat::Q5_K => {
            let scales: [u8; 16] = std::array::from_fn(|j| {
                let (scale, minimum) = q4_k_scale(&block[4..16], j % 8);
                if j < 8 { scale } else { minimum }
            });
            copy(&scales, &mut words[..4]);
            copy(&block[16..], &mut words[4..]);
        }
        WeightFormat::Q6_K => copy(&block[..208], words),
        WeightFormat::IQ4_XS => {
            let scales: [u8; 8] =
                std::array::from_fn(|j| iq4_xs_scale(&block[2..8], j).cast_unsigned());
            copy(&scales, &mut words[..2]);
            copy(&block[8..], &mut words[2..]);
        }
    }
}

fn copy(bytes: &[u8], words: &mut [u32]) {
    debug_assert_eq!(bytes.len(), words.len() * 4);
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
}

fn copy_flipped(bytes: &[u8], words: &mut [u32]) {
    copy(bytes, words);
    for word in words {
        *word ^= 0x8080_8080;
    }
}

/// The four bytes of high bits, spread, and then the nibbles.
fn pack_five_bits(bytes: &[u8], words: &mut [u32]) {
    copy(bytes, words);
    let high = words[0];
    words[0] = (0..32).fold(0, |spread, k| {
        spread | (high >> k & 1) << (8 * (k % 4) + k / 4)
    });
}

/// Scale j of 16, from -32 to 31: four low bits, and two high bits further on.
fn q3_k_scale(bytes: &[u8], j: usize) -> i8 {
    let low = bytes[j % 8] >> (4 * (j / 8)) & 15;
    let high = bytes[8 + j % 4] >> (2 * (j / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// Scale j of 8, from -32 to 31: two high bits in the first two bytes, four low bits further on.
fn iq4_xs_scale(bytes: &[u8], j: usize) -> i8 {
    let high = bytes[j / 4] >> (2 * (j % 4)) & 3;
    let low = bytes[2 + j / 2] >> (4 * (j % 2)) & 15;
    (low | high << 4) as i8 - 32
}

/// Scale and minimum j of 8, six bits each.
fn q4_k_scale(bytes: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[j + 4] & 63)
    } else {
        (
            bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4,
            bytes[j + 4] >> 4 | bytes[j] >> 6 << 4,
        )
    }
}
