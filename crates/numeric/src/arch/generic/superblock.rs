//! Products with weights in superblocks of 256, by the block chain with integer scales inside.
//!
//! # Units and bounds
//! The exact dot of a superblock is at most 256 * 128 * 32 * 127 < 2^27 in magnitude (Q6_K), that with the minima
//! 256 * 63 * 127 < 2^21.

use super::{Simd, splat_bits};
use crate::arch::TileOutput;
use crate::quantized::{LONG_QUANT_WORDS, LONG_SUMS, LONG_WORDS};
use crate::weights::{TILE_ROWS, WeightFormat};

/// A format: where its quants, integer scales and minima are.
///
/// Group g, from 0 to 63, is elements 4g to 4g + 3.
pub(crate) trait SuperblockFormat {
    const FORMAT: WeightFormat;
    /// Groups that share a scale: 4 or 8.
    const SUB_GROUPS: usize;
    /// Binary logarithm of what is subtracted from each quant, if anything is.
    const OFFSET_SHIFT: Option<u32> = None;
    /// Whether there are minima.
    const MINIMA: bool = false;
    /// Whether quants are signed bytes whose top bit is flipped.
    const FLIPPED: bool = false;

    /// The quants of a group before the subtraction.
    /// # Safety
    /// `lines` points to a lane's part of a whole superblock.
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32;
    /// Integer scale `j`.
    /// # Safety
    /// As [`Self::quants`].
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32;
    /// Integer minimum `j`.
    /// # Safety
    /// As [`Self::quants`].
    unsafe fn minimum<S: Simd>(simd: S, _: *const u8, _: usize) -> S::I32 {
        simd.splat_i32(0)
    }
}

#[inline(always)]
unsafe fn line<S: Simd>(simd: S, lines: *const u8, index: usize) -> S::I32 {
    // SAFETY: the caller's lines hold a whole superblock.
    unsafe { simd.load_i32(lines.add(index * 64)) }
}

/// `bits` moved right by 0 to 7, within bytes once the caller has masked them.
#[inline(always)]
fn shifted<S: Simd>(simd: S, bits: S::I32, shift: usize) -> S::I32 {
    match shift {
        0 => bits,
        1 => simd.shift_right::<1>(bits),
        2 => simd.shift_right::<2>(bits),
        3 => simd.shift_right::<3>(bits),
        4 => simd.shift_right::<4>(bits),
        5 => simd.shift_right::<5>(bits),
        6 => simd.shift_right::<6>(bits),
        _ => simd.shift_right::<7>(bits),
    }
}

/// `width` bits of each byte, from bit `shift` on.
#[inline(always)]
fn bits<S: Simd>(simd: S, bytes: S::I32, shift: usize, width: u32) -> S::I32 {
    let mask = ((1 << width) - 1) * 0x0101_0101;
    simd.and(shifted(simd, bytes, shift), simd.splat_i32(mask))
}

/// Byte `j` of the words from line `first` on, zero-extended.
#[inline(always)]
unsafe fn unsigned_byte<S: Simd>(simd: S, lines: *const u8, first: usize, j: usize) -> S::I32 {
    // SAFETY: as the caller's.
    let word = unsafe { line(simd, lines, first + j / 4) };
    match j % 4 {
        0 => simd.and(word, simd.splat_i32(0xff)),
        1 => simd.and(simd.shift_right::<8>(word), simd.splat_i32(0xff)),
        2 => simd.and(simd.shift_right::<16>(word), simd.splat_i32(0xff)),
        _ => simd.shift_right::<24>(word),
    }
}

/// Byte `j` of the words from line `first` on, sign-extended.
#[inline(always)]
unsafe fn signed_byte<S: Simd>(simd: S, lines: *const u8, first: usize, j: usize) -> S::I32 {
    // SAFETY: as the caller's.
    let word = unsafe { line(simd, lines, first + j / 4) };
    let top = match j % 4 {
        0 => simd.shift_left::<24>(word),
        1 => simd.shift_left::<16>(word),
        2 => simd.shift_left::<8>(word),
        _ => word,
    };
    simd.shift_right_signed::<24>(top)
}

pub(crate) struct Q2K;
impl SuperblockFormat for Q2K {
    const FORMAT: WeightFormat = WeightFormat::Q2_K;
    const SUB_GROUPS: usize = 4;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        // SAFETY: as the caller's.
        let bytes = unsafe { line(simd, lines, 4 + group / 32 * 8 + group % 8) };
        bits(simd, bytes, 2 * (group / 8 % 4), 2)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        simd.and(
            unsafe { unsigned_byte(simd, lines, 0, j) },
            simd.splat_i32(15),
        )
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        simd.shift_right::<4>(unsafe { unsigned_byte(simd, lines, 0, j) })
    }
}

pub(crate) struct Q3K;
impl SuperblockFormat for Q3K {
    const FORMAT: WeightFormat = WeightFormat::Q3_K;
    const SUB_GROUPS: usize = 4;
    const OFFSET_SHIFT: Option<u32> = Some(2);

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        // SAFETY: as the caller's.
        let (low, high) = unsafe {
            (
                line(simd, lines, 8 + group / 32 * 8 + group % 8),
                line(simd, lines, group % 8),
            )
        };
        let low = bits(simd, low, 2 * (group / 8 % 4), 2);
        simd.or(low, simd.shift_left::<2>(bits(simd, high, group / 8, 1)))
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { signed_byte(simd, lines, 24, j) }
    }
}

pub(crate) struct Q4K;
impl SuperblockFormat for Q4K {
    const FORMAT: WeightFormat = WeightFormat::Q4_K;
    const SUB_GROUPS: usize = 8;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        // SAFETY: as the caller's.
        let bytes = unsafe { line(simd, lines, 4 + group / 16 * 8 + group % 8) };
        bits(simd, bytes, 4 * (group / 8 % 2), 4)
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { unsigned_byte(simd, lines, 0, j) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { unsigned_byte(simd, lines, 2, j) }
    }
}

pub(crate) struct Q5K;
impl SuperblockFormat for Q5K {
    const FORMAT: WeightFormat = WeightFormat::Q5_K;
    const SUB_GROUPS: usize = 8;
    const MINIMA: bool = true;

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        // SAFETY: as the caller's.
        let (low, high) = unsafe {
            (
                line(simd, lines, 12 + group / 16 * 8 + group % 8),
                line(simd, lines, 4 + group % 8),
            )
        };
        let low = bits(simd, low, 4 * (group / 8 % 2), 4);
        simd.or(low, simd.shift_left::<4>(bits(simd, high, group / 8, 1)))
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { unsigned_byte(simd, lines, 0, j) }
    }
    #[inline(always)]
    unsafe fn minimum<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { unsigned_byte(simd, lines, 2, j) }
    }
}

pub(crate) struct Q6K;
impl SuperblockFormat for Q6K {
    const FORMAT: WeightFormat = WeightFormat::Q6_K;
    const SUB_GROUPS: usize = 4;
    const OFFSET_SHIFT: Option<u32> = Some(5);

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        let (half, place) = (group / 32, group / 8 % 4);
        // SAFETY: as the caller's.
        let (low, high) = unsafe {
            (
                line(simd, lines, 16 * half + group % 16),
                line(simd, lines, 32 + 8 * half + group % 8),
            )
        };
        let low = bits(simd, low, place / 2 * 4, 4);
        simd.or(low, simd.shift_left::<4>(bits(simd, high, 2 * place, 2)))
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { signed_byte(simd, lines, 48, j) }
    }
}

pub(crate) struct Iq4Xs;
impl SuperblockFormat for Iq4Xs {
    const FORMAT: WeightFormat = WeightFormat::IQ4_XS;
    const SUB_GROUPS: usize = 8;
    const OFFSET_SHIFT: Option<u32> = Some(7);
    const FLIPPED: bool = true;

    #[inline(always)]
    unsafe fn quants<S: Simd>(simd: S, lines: *const u8, group: usize) -> S::I32 {
        // SAFETY: as the caller's.
        let bytes = unsafe { line(simd, lines, 2 + group / 8 * 4 + group % 4) };
        simd.codes(bits(simd, bytes, 4 * (group / 4 % 2), 4))
    }
    #[inline(always)]
    unsafe fn scale<S: Simd>(simd: S, lines: *const u8, j: usize) -> S::I32 {
        // SAFETY: as the caller's.
        unsafe { signed_byte(simd, lines, 0, j) }
    }
}

/// Products of some tiles with a panel of long blocks: `output[tile * width + column]`, NaNs canonical.
#[inline(always)]
pub(crate) fn product<S: Simd, W: SuperblockFormat>(
    simd: S,
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let layout = W::FORMAT.layout();
    let sizes = layout.tile_bytes(blocks).zip(layout.head_bytes(blocks));
    let (tile_bytes, head_bytes) = sizes.expect("a packed matrix fits the address space");
    let count = tiles.len() / tile_bytes;
    assert_eq!(tiles.len(), count * tile_bytes, "bytes of tiles");
    assert_eq!(
        panel.len(),
        blocks * width * LONG_WORDS,
        "words of the panel"
    );
    assert_eq!(output.len(), count * width, "tiles of output");
    let output = output.as_mut_ptr().cast::<f32>();
    for vector in 0..count * TILE_ROWS / S::LANES {
        let (tile, lane) = (vector * S::LANES / TILE_ROWS, vector * S::LANES % TILE_ROWS);
        // SAFETY: within tile `tile`, whose length is asserted above.
        let (head, lines) = unsafe {
            let start = tiles.as_ptr().add(tile * tile_bytes);
            (start.add(lane * 2), start.add(head_bytes + lane * 4))
        };
        let mut column = 0;
        while column < width {
            // SAFETY: lengths of tiles, panel and output are asserted above; the columns lie within the panel.
            unsafe {
                let place = output.add((tile * width + column) * TILE_ROWS + lane);
                let panel = panel.as_ptr();
                if width - column >= 3 {
                    columns::<S, W, 3>(simd, head, lines, blocks, panel, width, column, place);
                    column += 3;
                } else {
                    columns::<S, W, 1>(simd, head, lines, blocks, panel, width, column, place);
                    column += 1;
                }
            }
        }
    }
}

/// One vector of rows times `C` columns.
///
/// # Safety
/// `head` and `lines` point to a lane's part of a tile, the panel has `blocks` blocks of `width` columns, and 16 * C
/// outputs follow `output`.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
unsafe fn columns<S: Simd, W: SuperblockFormat, const C: usize>(
    simd: S,
    mut head: *const u8,
    mut lines: *const u8,
    blocks: usize,
    panel: *const u32,
    width: usize,
    column: usize,
    output: *mut f32,
) {
    let layout = W::FORMAT.layout();
    let zero = simd.splat_i32(0);
    let mut sums = [simd.splat_f32(0.0); C];
    for block in 0..blocks {
        // SAFETY: block `block` of tile and panel.
        unsafe {
            let x = panel.add(block * width * LONG_WORDS);
            let quants = x.add(column * LONG_QUANT_WORDS);
            let scales = x.add(width * LONG_QUANT_WORDS + column);
            let negated = x.add(width * (LONG_QUANT_WORDS + 1) + column * LONG_SUMS);
            let mut dots = [zero; C];
            let mut minima = [zero; C];
            for j in 0..LONG_QUANT_WORDS / W::SUB_GROUPS {
                let mut negated_sums = [0; C];
                let mut offsets = [zero; C];
                for c in 0..C {
                    let sums = negated.add(c * LONG_SUMS + j * W::SUB_GROUPS / 4);
                    for part in 0..W::SUB_GROUPS / 4 {
                        negated_sums[c] += *sums.add(part) as i32;
                    }
                    if let Some(shift) = W::OFFSET_SHIFT {
                        offsets[c] = simd.splat_i32(negated_sums[c] << shift);
                    }
                }
                let mut parts = [simd.byte_start(zero); C];
                for c in 0..C {
                    parts[c] = match W::FLIPPED {
                        true => simd.flipped_start(offsets[c]),
                        false => simd.byte_start(offsets[c]),
                    };
                }
                for group in j * W::SUB_GROUPS..(j + 1) * W::SUB_GROUPS {
                    let weights = W::quants(simd, lines, group);
                    for c in 0..C {
                        let x = simd.splat_i32(*quants.add(c * LONG_QUANT_WORDS + group) as i32);
                        parts[c] = match W::FLIPPED {
                            true => simd.flipped_dot(parts[c], weights, x),
                            false => simd.byte_dot(parts[c], weights, x),
                        };
                    }
                }
                let scale = W::scale(simd, lines, j);
                for c in 0..C {
                    let part = match W::FLIPPED {
                        true => simd.flipped_finish(parts[c]),
                        false => simd.byte_finish(parts[c], offsets[c]),
                    };
                    dots[c] = simd.add_i32(dots[c], simd.mul_i32(scale, part));
                }
                if W::MINIMA {
                    let minimum = W::minimum(simd, lines, j);
                    for c in 0..C {
                        let sum = simd.splat_i32(negated_sums[c]);
                        minima[c] = simd.add_i32(minima[c], simd.mul_i32(minimum, sum));
                    }
                }
            }
            let scale = simd.load_f16(head);
            for c in 0..C {
                let x_scale = splat_bits(simd, *scales.add(c));
                let step = simd.mul(scale, x_scale);
                sums[c] = simd.add(sums[c], simd.mul(simd.to_f32(dots[c]), step));
                if W::MINIMA {
                    // The negation of an exact integer is exact: adding this is subtracting the minima's term.
                    let step = simd.mul(simd.load_f16(head.add(32)), x_scale);
                    sums[c] = simd.add(sums[c], simd.mul(simd.to_f32(minima[c]), step));
                }
            }
            head = head.add(layout.halves.len() * 32);
            lines = lines.add(layout.words * 64);
        }
    }
    for c in 0..C {
        // SAFETY: `LANES` outputs of column `c`.
        unsafe { simd.store_f32(output.add(c * TILE_ROWS), simd.canonical(sums[c])) };
    }
}
