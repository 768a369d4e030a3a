//! Products with weights that are floats, `sequential` over k.

use super::Simd;
use crate::arch::{FLOAT_COLUMNS, TileOutput};
use crate::weights::{TILE_ROWS, WeightFormat};

/// A format of one element per block.
pub(crate) trait FloatFormat {
    const FORMAT: WeightFormat;
    /// Bytes of an element.
    const BYTES: usize;
    /// # Safety
    /// `BYTES * LANES` bytes can be read.
    unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::F32;
}

macro_rules! float_format {
    ($name:ident, $bytes:literal, $load:ident) => {
        pub(crate) struct $name;
        impl FloatFormat for $name {
            const FORMAT: WeightFormat = WeightFormat::$name;
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(simd: S, from: *const u8) -> S::F32 {
                // SAFETY: as the caller's.
                unsafe { simd.$load(from.cast()) }
            }
        }
    };
}
float_format!(F32, 4, load_f32);
float_format!(F16, 2, load_f16);
float_format!(Bf16, 2, load_bf16);

/// Products of some tiles with up to [`FLOAT_COLUMNS`] rows: `output[tile * rows + row]`, NaNs canonical.
#[inline(always)]
pub(crate) fn product<S: Simd, W: FloatFormat>(
    simd: S,
    tiles: &[u8],
    columns: usize,
    rows: &[f32],
    output: &mut [TileOutput],
) {
    let tile_bytes = W::FORMAT
        .layout()
        .tile_bytes(columns)
        .expect("a packed matrix fits the address space");
    let (count, width) = (tiles.len() / tile_bytes, rows.len() / columns);
    assert_eq!(tiles.len(), count * tile_bytes, "bytes of tiles");
    assert_eq!(rows.len(), width * columns, "whole rows");
    assert_eq!(output.len(), count * width, "tiles of output");
    assert!(width <= FLOAT_COLUMNS, "rows in a block: {width}");
    for vector in 0..count * TILE_ROWS / S::LANES {
        let (tile, lane) = (vector * S::LANES / TILE_ROWS, vector * S::LANES % TILE_ROWS);
        let output = &mut output[tile * width..][..width];
        // SAFETY: within tile `tile`, whose length is asserted above.
        let weights = unsafe { tiles.as_ptr().add(tile * tile_bytes + lane * W::BYTES) };
        // SAFETY: lengths are asserted above.
        unsafe {
            match width {
                FLOAT_COLUMNS => {
                    rows_of::<S, W, FLOAT_COLUMNS>(simd, weights, columns, rows, lane, output)
                }
                _ => {
                    for (row, output) in rows.chunks_exact(columns).zip(output.chunks_exact_mut(1))
                    {
                        rows_of::<S, W, 1>(simd, weights, columns, row, lane, output);
                    }
                }
            }
        }
    }
}

/// # Safety
/// `weights` points to a lane's part of a tile of `columns` columns; there are `C` rows and outputs.
#[inline(always)]
unsafe fn rows_of<S: Simd, W: FloatFormat, const C: usize>(
    simd: S,
    weights: *const u8,
    columns: usize,
    rows: &[f32],
    lane: usize,
    output: &mut [TileOutput],
) {
    let mut sums = [simd.splat_f32(0.0); C];
    for k in 0..columns {
        // SAFETY: element k of the tile and of each row.
        unsafe {
            let weight = W::load(simd, weights.add(k * TILE_ROWS * W::BYTES));
            for c in 0..C {
                let x = simd.splat_f32(*rows.as_ptr().add(c * columns + k));
                sums[c] = simd.add(sums[c], simd.mul(weight, x));
            }
        }
    }
    for c in 0..C {
        // SAFETY: `LANES` outputs from `lane` on.
        unsafe { simd.store_f32(output[c].as_mut_ptr().add(lane), simd.canonical(sums[c])) };
    }
}
