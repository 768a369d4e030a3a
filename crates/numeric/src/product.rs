//! The products of some tiles: what one thread does of a matrix product.

use std::ops::Range;

use crate::arch::{FLOAT_COLUMNS, FloatMatmulKernel, MatmulKernel, TileOutput};
use crate::pool::Disjoint;
use crate::quantized::{PANEL_WIDTH, QuantizedRows};
use crate::weights::{TILE_ROWS, Tiles};

/// Tiles that a product kernel takes together.
pub(crate) const TILE_GROUP: usize = 4;
/// Bytes of panels that stay in a core's second-level cache while all tiles pass by.
const PANEL_GROUP_BYTES: usize = 256 << 10;

/// Where outputs go: a matrix with a row per row of the input and a column per row of the weights.
pub(crate) struct Target<'a> {
    output: Disjoint<'a, f32>,
    /// Elements of a row of the output.
    width: usize,
}

impl<'a> Target<'a> {
    /// All of `output`, in rows of `width`.
    pub(crate) fn new(output: &'a mut [f32], width: usize) -> Self {
        Self {
            output: Disjoint::new(output),
            width,
        }
    }

    /// The outputs of some tiles in row `row`, without the padding of the last tile.
    ///
    /// # Safety
    /// The calling thread owns the tiles, and holds no other part of the row.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn outputs(&self, tiles: Range<usize>, row: usize) -> &mut [f32] {
        let (first, end) = (tiles.start * TILE_ROWS, tiles.end * TILE_ROWS);
        let start = row * self.width;
        // SAFETY: as the caller's.
        unsafe { self.output.part(start + first..start + end.min(self.width)) }
    }

    /// Copies a tile's outputs to their place in row `row`, leaving out the padding of the last tile.
    #[inline]
    fn store(&self, sums: &TileOutput, tile: usize, row: usize) {
        let first = tile * TILE_ROWS;
        let count = (self.width - first).min(TILE_ROWS);
        let start = row * self.width + first;
        // SAFETY: a tile of a row is written by the one thread that owns the tile.
        let destination = unsafe { self.output.part(start..start + count) };
        if count == TILE_ROWS {
            destination.copy_from_slice(sums);
        } else {
            destination.copy_from_slice(&sums[..count]);
        }
    }
}

/// The products of some tiles with all panels; groups of panels in the outer loop, so that they stay in cache.
///
/// The kernel belongs to an instruction set that this processor has.
pub(crate) fn quantized(
    kernel: MatmulKernel,
    weights: Tiles<'_>,
    tiles: Range<usize>,
    input: &QuantizedRows,
    target: &Target<'_>,
) {
    let mut sums = [[0.0; TILE_ROWS]; TILE_GROUP * PANEL_WIDTH];
    let group = (PANEL_GROUP_BYTES / (input.panel_words() * 4)).max(1);
    for first_panel in (0..input.panel_count()).step_by(group) {
        let panels = first_panel..(first_panel + group).min(input.panel_count());
        for first in tiles.clone().step_by(TILE_GROUP) {
            let count = (tiles.end - first).min(TILE_GROUP);
            let tile_data = weights.bytes(first, count);
            for panel in panels.clone() {
                let width = input.panel_width(panel);
                // SAFETY: the processor has the kernel's instruction set.
                unsafe {
                    kernel(
                        tile_data,
                        input.blocks(),
                        input.panel(panel),
                        width,
                        &mut sums[..count * width],
                    )
                };
                for (index, sums) in sums[..count * width].iter().enumerate() {
                    let row = input.first_row(panel) + index % width;
                    target.store(sums, first + index / width, row);
                }
            }
        }
    }
}

/// The products of some tiles of `columns` columns with all rows of the input.
///
/// The kernel belongs to an instruction set that this processor has.
pub(crate) fn float(
    kernel: FloatMatmulKernel,
    weights: Tiles<'_>,
    tiles: Range<usize>,
    columns: usize,
    input: &[f32],
    target: &Target<'_>,
) {
    let mut sums = [[0.0; TILE_ROWS]; FLOAT_COLUMNS];
    for tile in tiles {
        for (group, input) in input.chunks(FLOAT_COLUMNS * columns).enumerate() {
            let sums = &mut sums[..input.len() / columns];
            // SAFETY: the processor has the kernel's instruction set.
            unsafe { kernel(weights.bytes(tile, 1), columns, input, sums) };
            for (row, sums) in sums.iter().enumerate() {
                target.store(sums, tile, group * FLOAT_COLUMNS + row);
            }
        }
    }
}
