//! Products with weights in blocks of 32, by the block chain.
//!
//! # Units and bounds
//! A nibble sum is at most 8 * 4 * 15 * 127 = 60,960 in magnitude, a byte sum 32 * 255 * 127 < 2^20.

use super::{Simd, splat_bits};
use crate::arch::TileOutput;
use crate::quantized::{SHORT_QUANT_WORDS, SHORT_WORDS};
use crate::weights::{TILE_ROWS, WeightFormat};

/// Lines of nibbles in a block.
const NIBBLE_LINES: usize = 4;

/// A format: how its weights come out of the lines, and how their dot starts and ends.
pub(crate) trait BlockFormat {
    const FORMAT: WeightFormat;
    /// Whether the chain adds the f16 minimum.
    const MINIMUM: bool = false;
    /// Where the sums of products live.
    type Sum<S: Simd>: Copy;

    /// Before the first product; `correction` is -8 times the sum of the block's activations.
    fn start<S: Simd>(simd: S, correction: S::I32) -> Self::Sum<S>;
    /// The weights of group `group` and of group `group + 4`, four per lane.
    /// # Safety
    /// `lines` points to a lane's part of a whole block.
    unsafe fn weights<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2];
    fn dot<S: Simd>(simd: S, sum: Self::Sum<S>, weights: S::I32, x: S::I32) -> Self::Sum<S>;
    /// The exact dot of the block. `zero` is the row's zero-point, of formats that have one.
    fn finish<S: Simd>(simd: S, sum: Self::Sum<S>, correction: S::I32, zero: S::I32) -> S::I32;
}

/// The low nibbles of line `line`, and its high ones.
#[inline(always)]
unsafe fn nibbles<S: Simd>(simd: S, lines: *const u8, line: usize) -> [S::I32; 2] {
    let mask = simd.splat_i32(0x0f0f_0f0f);
    // SAFETY: the caller's lines hold a whole block.
    let pairs = unsafe { simd.load_i32(lines.add(line * 64)) };
    [
        simd.and(pairs, mask),
        simd.and(simd.shift_right::<4>(pairs), mask),
    ]
}

/// As [`nibbles`], with the fifth bits from the block's first line.
#[inline(always)]
unsafe fn five_bits<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2] {
    // SAFETY: the caller's lines hold a whole block.
    let ([low, high], bits) = unsafe { (nibbles(simd, lines, group + 1), simd.load_i32(lines)) };
    let mask = simd.splat_i32(0x1010_1010);
    // Bit g of a byte belongs to group g.
    let (first, second) = match group {
        0 => (simd.shift_left::<4>(bits), bits),
        1 => (simd.shift_left::<3>(bits), simd.shift_right::<1>(bits)),
        2 => (simd.shift_left::<2>(bits), simd.shift_right::<2>(bits)),
        _ => (simd.shift_left::<1>(bits), simd.shift_right::<3>(bits)),
    };
    [
        simd.or(low, simd.and(first, mask)),
        simd.or(high, simd.and(second, mask)),
    ]
}

macro_rules! nibble_format {
    ($name:ident, $format:ident, minimum: $minimum:literal) => {
        pub(crate) struct $name;
        impl BlockFormat for $name {
            const FORMAT: WeightFormat = WeightFormat::$format;
            const MINIMUM: bool = $minimum;
            type Sum<S: Simd> = S::NibbleSum;

            #[inline(always)]
            fn start<S: Simd>(simd: S, correction: S::I32) -> S::NibbleSum {
                let correction = if $minimum {
                    simd.splat_i32(0)
                } else {
                    correction
                };
                simd.nibble_start(correction)
            }
            #[inline(always)]
            unsafe fn weights<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2] {
                // SAFETY: as the caller's.
                unsafe { nibbles(simd, lines, group) }
            }
            #[inline(always)]
            fn dot<S: Simd>(
                simd: S,
                sum: S::NibbleSum,
                weights: S::I32,
                x: S::I32,
            ) -> S::NibbleSum {
                simd.nibble_dot(sum, weights, x)
            }
            #[inline(always)]
            fn finish<S: Simd>(
                simd: S,
                sum: S::NibbleSum,
                correction: S::I32,
                _: S::I32,
            ) -> S::I32 {
                let correction = if $minimum {
                    simd.splat_i32(0)
                } else {
                    correction
                };
                simd.nibble_finish(sum, correction)
            }
        }
    };
}
nibble_format!(Q4_0, Q4_0, minimum: false);
nibble_format!(Q4_1, Q4_1, minimum: true);

macro_rules! five_bit_format {
    ($name:ident, $format:ident, minimum: $minimum:literal) => {
        pub(crate) struct $name;
        impl $name {
            /// -16 times the sum of the activations, or nothing.
            #[inline(always)]
            fn offset<S: Simd>(simd: S, correction: S::I32) -> S::I32 {
                if $minimum {
                    simd.splat_i32(0)
                } else {
                    simd.shift_left::<1>(correction)
                }
            }
        }
        impl BlockFormat for $name {
            const FORMAT: WeightFormat = WeightFormat::$format;
            const MINIMUM: bool = $minimum;
            type Sum<S: Simd> = S::ByteSum;

            #[inline(always)]
            fn start<S: Simd>(simd: S, correction: S::I32) -> S::ByteSum {
                simd.byte_start(Self::offset(simd, correction))
            }
            #[inline(always)]
            unsafe fn weights<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2] {
                // SAFETY: as the caller's.
                unsafe { five_bits(simd, lines, group) }
            }
            #[inline(always)]
            fn dot<S: Simd>(simd: S, sum: S::ByteSum, weights: S::I32, x: S::I32) -> S::ByteSum {
                simd.byte_dot(sum, weights, x)
            }
            #[inline(always)]
            fn finish<S: Simd>(simd: S, sum: S::ByteSum, correction: S::I32, _: S::I32) -> S::I32 {
                simd.byte_finish(sum, Self::offset(simd, correction))
            }
        }
    };
}
five_bit_format!(Q5_0, Q5_0, minimum: false);
five_bit_format!(Q5_1, Q5_1, minimum: true);

macro_rules! byte_format {
    ($name:ident, $format:ident, zero_point: $zero_point:literal) => {
        pub(crate) struct $name;
        impl BlockFormat for $name {
            const FORMAT: WeightFormat = WeightFormat::$format;
            type Sum<S: Simd> = S::ByteSum;

            #[inline(always)]
            fn start<S: Simd>(simd: S, correction: S::I32) -> S::ByteSum {
                simd.flipped_start(simd.shift_left::<4>(correction))
            }
            #[inline(always)]
            unsafe fn weights<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2] {
                // SAFETY: the caller's lines hold a whole block.
                unsafe {
                    [
                        simd.load_i32(lines.add(group * 64)),
                        simd.load_i32(lines.add((group + NIBBLE_LINES) * 64)),
                    ]
                }
            }
            #[inline(always)]
            fn dot<S: Simd>(simd: S, sum: S::ByteSum, weights: S::I32, x: S::I32) -> S::ByteSum {
                simd.flipped_dot(sum, weights, x)
            }
            #[inline(always)]
            fn finish<S: Simd>(
                simd: S,
                sum: S::ByteSum,
                correction: S::I32,
                zero: S::I32,
            ) -> S::I32 {
                let dot = simd.flipped_finish(sum);
                if $zero_point {
                    // zero * (-8 * sum), of at most 2^7 * 2^15 in magnitude, divided exactly by 8.
                    let offset = simd.shift_right_signed::<3>(simd.mul_i32(zero, correction));
                    simd.add_i32(dot, offset)
                } else {
                    dot
                }
            }
        }
    };
}
byte_format!(Q8_0, Q8_0, zero_point: false);
byte_format!(Int8, Int8, zero_point: true);

/// Nibbles that stand for the integers of a table.
pub(crate) struct Iq4Nl;
impl BlockFormat for Iq4Nl {
    const FORMAT: WeightFormat = WeightFormat::IQ4_NL;
    type Sum<S: Simd> = S::ByteSum;

    #[inline(always)]
    fn start<S: Simd>(simd: S, correction: S::I32) -> S::ByteSum {
        simd.flipped_start(simd.shift_left::<4>(correction))
    }
    #[inline(always)]
    unsafe fn weights<S: Simd>(simd: S, lines: *const u8, group: usize) -> [S::I32; 2] {
        // SAFETY: as the caller's.
        let [low, high] = unsafe { nibbles(simd, lines, group) };
        [simd.codes(low), simd.codes(high)]
    }
    #[inline(always)]
    fn dot<S: Simd>(simd: S, sum: S::ByteSum, weights: S::I32, x: S::I32) -> S::ByteSum {
        simd.flipped_dot(sum, weights, x)
    }
    #[inline(always)]
    fn finish<S: Simd>(simd: S, sum: S::ByteSum, _: S::I32, _: S::I32) -> S::I32 {
        simd.flipped_finish(sum)
    }
}

/// The tiles of a product; vector u of rows is lanes `u * LANES % 16..` of tile `u * LANES / 16`.
#[derive(Clone, Copy)]
struct Tiles {
    start: *const u8,
    tile_bytes: usize,
    head_bytes: usize,
    row_bytes: usize,
    blocks: usize,
}

/// A panel; see [`crate::quantized`].
#[derive(Clone, Copy)]
struct Panel {
    start: *const u32,
    width: usize,
}

/// Asks for cache lines, for a product with one column, which is bound by memory.
#[inline(always)]
fn prefetch<S: Simd>(simd: S, start: *const u8, lines: usize) {
    for line in 0..lines {
        simd.prefetch(start.wrapping_add(line * 64));
    }
}

/// Products of some tiles with a panel: `output[tile * width + column]`, NaNs canonical.
#[inline(always)]
pub(crate) fn product<S: Simd, W: BlockFormat, const DECODE: usize, const PREFILL: usize>(
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
        blocks * width * SHORT_WORDS,
        "words of the panel"
    );
    assert_eq!(output.len(), count * width, "tiles of output");
    let tiles = Tiles {
        start: tiles.as_ptr(),
        tile_bytes,
        head_bytes,
        row_bytes: layout.row_words * 64,
        blocks,
    };
    let panel = Panel {
        start: panel.as_ptr(),
        width,
    };
    let vectors = count * TILE_ROWS / S::LANES;
    let output = output.as_mut_ptr().cast::<f32>();
    // SAFETY: the lengths asserted above are those that `columns` asks for.
    unsafe {
        if width == 1 {
            let whole = vectors / DECODE * DECODE;
            for first in (0..whole).step_by(DECODE) {
                columns::<S, W, DECODE, 1>(simd, tiles, first, panel, 0, output);
            }
            for first in whole..vectors {
                columns::<S, W, 1, 1>(simd, tiles, first, panel, 0, output);
            }
            return;
        }
        let whole = vectors / PREFILL * PREFILL;
        for first in (0..whole).step_by(PREFILL) {
            all_columns::<S, W, PREFILL>(simd, tiles, first, panel, output);
        }
        for first in whole..vectors {
            all_columns::<S, W, 1>(simd, tiles, first, panel, output);
        }
    }
}

/// # Safety
/// As [`columns`].
#[inline(always)]
unsafe fn all_columns<S: Simd, W: BlockFormat, const V: usize>(
    simd: S,
    tiles: Tiles,
    first: usize,
    panel: Panel,
    output: *mut f32,
) {
    let mut column = 0;
    while column < panel.width {
        // SAFETY: as the caller's; the columns lie within the panel.
        unsafe {
            match panel.width - column {
                1 => columns::<S, W, V, 1>(simd, tiles, first, panel, column, output),
                2 => columns::<S, W, V, 2>(simd, tiles, first, panel, column, output),
                4 => columns::<S, W, V, 4>(simd, tiles, first, panel, column, output),
                3 | 5 => {
                    columns::<S, W, V, 3>(simd, tiles, first, panel, column, output);
                    column += 3;
                    continue;
                }
                _ => columns::<S, W, V, 6>(simd, tiles, first, panel, column, output),
            }
        }
        column += 6;
    }
}

/// `V` vectors of rows from vector `first` on, times `C` columns from `column` on.
///
/// # Safety
/// The vectors lie in the tiles, the columns in the panel, and `output` has 16 * width f32 per tile.
#[inline(always)]
unsafe fn columns<S: Simd, W: BlockFormat, const V: usize, const C: usize>(
    simd: S,
    tiles: Tiles,
    first: usize,
    panel: Panel,
    column: usize,
    output: *mut f32,
) {
    let layout = W::FORMAT.layout();
    let halves = layout.halves.len();
    let width = panel.width;
    let mut heads = [std::ptr::null::<u8>(); V];
    let mut lines = [std::ptr::null::<u8>(); V];
    let mut zeros = [simd.splat_i32(0); V];
    let mut row_scales = [simd.splat_f32(0.0); V];
    // SAFETY: all within the tile of the vector.
    unsafe {
        for v in 0..V {
            let row = (first + v) * S::LANES;
            let lane = row % TILE_ROWS;
            let tile = tiles.start.add(row / TILE_ROWS * tiles.tile_bytes);
            heads[v] = tile.add(tiles.row_bytes + lane * 2);
            lines[v] = tile.add(tiles.head_bytes + lane * 4);
            if layout.row_words == 2 {
                row_scales[v] = simd.load_f32(tile.add(lane * 4).cast());
                zeros[v] = simd.load_i32(tile.add(64 + lane * 4));
            }
        }
    }
    // Where the vectors taken next are at this block.
    let ahead = (V * S::LANES / TILE_ROWS).max(1) * tiles.tile_bytes;
    let mut sums = [[simd.splat_f32(0.0); V]; C];
    // SAFETY: within the panel.
    let mut quants = unsafe { panel.start.add(column * SHORT_QUANT_WORDS) };
    // SAFETY: within the panel.
    let mut scales = unsafe { panel.start.add(width * SHORT_QUANT_WORDS + column) };
    for block in 0..tiles.blocks {
        // SAFETY: block `block` of the tiles and of the panel.
        unsafe {
            let mut dots = [[W::start(simd, simd.splat_i32(0)); V]; C];
            for c in 0..C {
                let correction = simd.splat_i32(*scales.add(width + c) as i32);
                dots[c] = [W::start(simd, correction); V];
            }
            for group in 0..NIBBLE_LINES {
                let mut weights = [[simd.splat_i32(0); 2]; V];
                for v in 0..V {
                    weights[v] = W::weights(simd, lines[v], group);
                }
                for c in 0..C {
                    let x = quants.add(c * SHORT_QUANT_WORDS + group);
                    let low = simd.splat_i32(*x as i32);
                    let high = simd.splat_i32(*x.add(NIBBLE_LINES) as i32);
                    for v in 0..V {
                        dots[c][v] = W::dot(simd, dots[c][v], weights[v][0], low);
                        dots[c][v] = W::dot(simd, dots[c][v], weights[v][1], high);
                    }
                }
            }
            for v in 0..V {
                if C == 1 {
                    prefetch(simd, lines[v].wrapping_add(ahead), layout.words);
                    prefetch(
                        simd,
                        heads[v].wrapping_add(ahead),
                        usize::from(halves == 2 || block % 2 == 0),
                    );
                }
                let scale = if halves == 0 {
                    row_scales[v]
                } else {
                    simd.load_f16(heads[v])
                };
                let minimum = if W::MINIMUM {
                    simd.load_f16(heads[v].add(32))
                } else {
                    scale
                };
                for c in 0..C {
                    let correction = simd.splat_i32(*scales.add(width + c) as i32);
                    let dot = W::finish(simd, dots[c][v], correction, zeros[v]);
                    let step = simd.mul(scale, splat_bits(simd, *scales.add(c)));
                    sums[c][v] = simd.add(sums[c][v], simd.mul(simd.to_f32(dot), step));
                    if W::MINIMUM {
                        let term = splat_bits(simd, *scales.add(2 * width + c));
                        sums[c][v] = simd.add(sums[c][v], simd.mul(minimum, term));
                    }
                }
                heads[v] = heads[v].add(halves * 32);
                lines[v] = lines[v].add(layout.words * 64);
            }
            quants = quants.add(width * SHORT_WORDS);
            scales = scales.add(width * SHORT_WORDS);
        }
    }
    for v in 0..V {
        let row = (first + v) * S::LANES;
        for c in 0..C {
            let place = (row / TILE_ROWS * width + column + c) * TILE_ROWS + row % TILE_ROWS;
            // SAFETY: `LANES` outputs of a tile and column that exist.
            unsafe { simd.store_f32(output.add(place), simd.canonical(sums[c][v])) };
        }
    }
}
