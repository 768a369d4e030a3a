//! Products with matrices where they are, packed on the way.
//!
//! # Design
//! Each thread packs a few tiles into memory of its own, multiplies them, and goes on to the next; a batch that is
//! quantised is taken in parts. So the memory needed is bounded whatever the shape, and the bits are those of a product
//! with a packed matrix.

use std::ops::Range;

use crate::aligned::AlignedBytes;
use crate::kernels::Kernels;
use crate::product::{self, TILE_GROUP, Target};
use crate::quantized::QuantizedRows;
use crate::weights::{ActivationFormat, StoredRows, TILE_ROWS, Tiles, WeightFormat, pack_columns};

/// Bytes of packed tiles that stay in a core's second-level cache while the input passes by.
const STRIP_BYTES: usize = 256 << 10;
/// Elements of a batch that are quantised together.
const PART_ELEMENTS: usize = 16 << 20;

impl Kernels {
    /// output[b * rows + r] = row r of `weights` times row b of `input`: `sequential` with F32, F16 and BF16, else by the
    /// block chain of the format with each row quantised as the format asks. +0 when there are no columns.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn matmul_stored(
        &self,
        weights: &StoredRows<'_>,
        input: &[f32],
        batch: usize,
        output: &mut [f32],
    ) {
        let (rows, columns) = (weights.rows(), weights.columns());
        assert_eq!(
            Some(input.len()),
            batch.checked_mul(columns),
            "input length"
        );
        assert_eq!(Some(output.len()), batch.checked_mul(rows), "output length");
        if output.is_empty() || columns == 0 {
            return output.fill(0.0);
        }
        let pack = |tile, out: &mut [u8]| weights.pack(tile, out);
        let activations = weights.format().activations();
        let part_rows = match activations {
            ActivationFormat::F32 => batch,
            _ => (PART_ELEMENTS / columns).clamp(1, batch),
        };
        let mut quantized = QuantizedRows::default();
        for (input, output) in input
            .chunks(part_rows * columns)
            .zip(output.chunks_mut(part_rows * rows))
        {
            let batch = input.len() / columns;
            let strips = Strips {
                tile_bytes: weights.tile_bytes(),
                tile_count: rows.div_ceil(TILE_ROWS),
                tile_work: (batch * columns).saturating_mul(TILE_ROWS),
            };
            let target = Target::new(output, rows);
            if activations == ActivationFormat::F32 {
                let kernel = self.float_product(weights.format());
                strips.run(self, &pack, &|packed, tiles| {
                    product::float(kernel, packed, tiles, columns, input, &target);
                });
            } else {
                self.quantize(activations, input, batch, columns, &mut quantized);
                let kernel = self.quantized_product(weights.format());
                strips.run(self, &pack, &|packed, tiles| {
                    product::quantized(kernel, packed, tiles, &quantized, &target);
                });
            }
        }
    }

    /// `output` (m x n) = `a` (m x k) times `b` (k x n), all stored row by row, `sequential` over k. +0 when k is 0.
    ///
    /// # Panics
    /// Lengths disagree, or k exceeds [`StoredRows::COLUMNS_MAX`].
    pub fn matmul_f32(
        &self,
        a: &[f32],
        b: &[f32],
        (m, k, n): (usize, usize, usize),
        output: &mut [f32],
    ) {
        assert_eq!(Some(a.len()), m.checked_mul(k), "length of a");
        assert_eq!(Some(b.len()), k.checked_mul(n), "length of b");
        assert_eq!(Some(output.len()), m.checked_mul(n), "output length");
        assert!(k <= StoredRows::COLUMNS_MAX, "k: {k}");
        if output.is_empty() || k == 0 {
            return output.fill(0.0);
        }
        let kernel = self.float_product(WeightFormat::F32);
        let strips = Strips {
            tile_bytes: k * TILE_ROWS * size_of::<f32>(),
            tile_count: n.div_ceil(TILE_ROWS),
            tile_work: (m * k).saturating_mul(TILE_ROWS),
        };
        let target = Target::new(output, n);
        let pack = |tile, out: &mut [u8]| {
            let first = tile * TILE_ROWS;
            pack_columns(b, n, first..(first + TILE_ROWS).min(n), out);
        };
        strips.run(self, &pack, &|packed, tiles| {
            product::float(kernel, packed, tiles, k, a, &target);
        });
    }
}

/// A matrix to be packed a few tiles at a time.
struct Strips {
    tile_bytes: usize,
    tile_count: usize,
    /// Multiply-adds per tile.
    tile_work: usize,
}

impl Strips {
    fn run(
        &self,
        kernels: &Kernels,
        pack: &(dyn Fn(usize, &mut [u8]) + Sync),
        work: &(dyn Fn(Tiles<'_>, Range<usize>) + Sync),
    ) {
        // No more than leave something to every thread.
        let share = self.tile_count.div_ceil(kernels.pool().threads());
        let together = (STRIP_BYTES / self.tile_bytes)
            .clamp(1, TILE_GROUP)
            .min(share);
        let strip_work = self.tile_work.saturating_mul(together);
        kernels.run_rows(self.tile_count.div_ceil(together), strip_work, &|strips| {
            let mut storage = AlignedBytes::zeroed(together * self.tile_bytes);
            for strip in strips {
                let tiles = strip * together..((strip + 1) * together).min(self.tile_count);
                let places = storage.as_mut_slice().chunks_exact_mut(self.tile_bytes);
                for (tile, place) in tiles.clone().zip(places) {
                    pack(tile, place);
                }
                let packed = Tiles::new(storage.as_slice(), self.tile_bytes, tiles.start);
                work(packed, tiles);
            }
        });
    }
}
