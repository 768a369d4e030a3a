//! Matrix products.

use crate::arch::TileOutput;
use crate::convert::canonical;
use crate::quantized::{COLUMN_WORDS, QUANT_WORDS};
use crate::weights::{
    BLOCK_LEN, Q4_1_TILE_BLOCK_BYTES, Q8_0_TILE_QUANT_BYTES, Q8_0_TILE_SCALE_BYTES, TILE_ROWS,
    f16_at, f32_at, q4_1_quant, q8_0_quant, q8_0_scale_bytes,
};

/// One column of one block of a panel.
struct ActivationBlock {
    quants: [i32; BLOCK_LEN],
    scale: f32,
    minimum_term: f32,
}

impl ActivationBlock {
    fn read(panel: &[u32], width: usize, block: usize, column: usize) -> Self {
        let words = &panel[block * width * COLUMN_WORDS..][..width * COLUMN_WORDS];
        let quants = std::array::from_fn(|k| {
            let bytes = words[column * QUANT_WORDS + k / 4].to_le_bytes();
            i32::from(bytes[k % 4] as i8)
        });
        Self {
            quants,
            scale: f32::from_bits(words[width * QUANT_WORDS + column]),
            minimum_term: f32::from_bits(words[width * (QUANT_WORDS + 2) + column]),
        }
    }
}

/// Q8_0: acc = acc + f32(idot) * (d * d_a) per block; |idot| <= 32 * 128 * 127 = 520,192.
pub(crate) fn matmul_q8_0_f32(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let tile_bytes = q8_0_scale_bytes(blocks) + blocks * Q8_0_TILE_QUANT_BYTES;
    for (tile, outputs) in tiles
        .chunks_exact(tile_bytes)
        .zip(output.chunks_exact_mut(width))
    {
        let (scales, quants) = tile.split_at(q8_0_scale_bytes(blocks));
        for (column, output) in outputs.iter_mut().enumerate() {
            let mut accumulators = [0.0f32; TILE_ROWS];
            for block in 0..blocks {
                let activation = ActivationBlock::read(panel, width, block, column);
                let quants = &quants[block * Q8_0_TILE_QUANT_BYTES..][..Q8_0_TILE_QUANT_BYTES];
                for (lane, accumulator) in accumulators.iter_mut().enumerate() {
                    let dot: i32 = (0..BLOCK_LEN)
                        .map(|k| i32::from(q8_0_quant(quants, lane, k)) * activation.quants[k])
                        .sum();
                    let scale = f16_at(scales, block * Q8_0_TILE_SCALE_BYTES + lane * 2);
                    *accumulator += dot as f32 * (scale * activation.scale);
                }
            }
            *output = accumulators.map(canonical);
        }
    }
}

/// Q4_1: as Q8_0, then acc = acc + m * (d_a * f32(sum)) per block; |idot| <= 32 * 15 * 127 = 60,960.
pub(crate) fn matmul_q4_1_f32(
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let tile_bytes = blocks * Q4_1_TILE_BLOCK_BYTES;
    for (tile, outputs) in tiles
        .chunks_exact(tile_bytes)
        .zip(output.chunks_exact_mut(width))
    {
        for (column, output) in outputs.iter_mut().enumerate() {
            let mut accumulators = [0.0f32; TILE_ROWS];
            for (block, data) in tile.chunks_exact(Q4_1_TILE_BLOCK_BYTES).enumerate() {
                let activation = ActivationBlock::read(panel, width, block, column);
                for (lane, accumulator) in accumulators.iter_mut().enumerate() {
                    let dot: i32 = (0..BLOCK_LEN)
                        .map(|k| i32::from(q4_1_quant(&data[64..], lane, k)) * activation.quants[k])
                        .sum();
                    let (scale, minimum) = (f16_at(data, lane * 2), f16_at(data, 32 + lane * 2));
                    *accumulator += dot as f32 * (scale * activation.scale);
                    *accumulator += minimum * activation.minimum_term;
                }
            }
            *output = accumulators.map(canonical);
        }
    }
}

/// F32: `sequential` over k.
pub(crate) fn matmul_f32_f32(tile: &[u8], columns: usize, rows: &[f32], output: &mut [TileOutput]) {
    for (row, output) in rows.chunks_exact(columns).zip(output) {
        let mut accumulators = [0.0f32; TILE_ROWS];
        for (k, x) in row.iter().enumerate() {
            for (lane, accumulator) in accumulators.iter_mut().enumerate() {
                *accumulator += f32_at(tile, (k * TILE_ROWS + lane) * 4) * x;
            }
        }
        *output = accumulators.map(canonical);
    }
}
