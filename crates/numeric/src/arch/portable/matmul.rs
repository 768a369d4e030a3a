//! Matrix products, written for reading: every weight by its definition, every chain step by step.

use crate::arch::TileOutput;
use crate::convert::canonical;
use crate::quantized::{LONG_QUANT_WORDS, LONG_WORDS, SHORT_BLOCK, SHORT_QUANT_WORDS, SHORT_WORDS};
use crate::weights::{Block, TILE_ROWS, WeightFormat};

/// One column of one block of a panel.
struct Activations {
    quants: Vec<i32>,
    scale: f32,
}

impl Activations {
    fn read(panel: &[u32], width: usize, block_len: usize, block: usize, column: usize) -> Self {
        let (quant_words, words) = match block_len {
            SHORT_BLOCK => (SHORT_QUANT_WORDS, SHORT_WORDS),
            _ => (LONG_QUANT_WORDS, LONG_WORDS),
        };
        let panel = &panel[block * width * words..][..width * words];
        let quants = panel[column * quant_words..][..quant_words]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| i32::from(byte as i8))
            .collect();
        Self {
            quants,
            scale: f32::from_bits(panel[width * quant_words + column]),
        }
    }

    fn sum(&self) -> i32 {
        self.quants.iter().sum()
    }
}

/// The block chain of every quantised format.
///
/// Bounds: |idot| is at most 32 * 255 * 127 < 2^20 in blocks of 32 (INT8), and 256 * 128 * 32 * 127 < 2^27 in
/// superblocks (Q6_K); the sum with the minima at most 256 * 63 * 127 < 2^21.
pub(crate) fn matmul_quantized(
    format: WeightFormat,
    tiles: &[u8],
    blocks: usize,
    panel: &[u32],
    width: usize,
    output: &mut [TileOutput],
) {
    let layout = format.layout();
    let tile_bytes = layout
        .tile_bytes(blocks)
        .expect("a packed matrix fits the address space");
    for (tile, outputs) in tiles
        .chunks_exact(tile_bytes)
        .zip(output.chunks_exact_mut(width))
    {
        for (column, output) in outputs.iter_mut().enumerate() {
            let mut sums = [0.0f32; TILE_ROWS];
            for index in 0..blocks {
                let x = Activations::read(panel, width, layout.block_len, index, column);
                for (lane, sum) in sums.iter_mut().enumerate() {
                    let weights = Block::new(format, tile, blocks, index, lane);
                    chain_step(format, &weights, &x, sum);
                }
            }
            *output = sums.map(canonical);
        }
    }
}

/// One block's step of the chain.
fn chain_step(format: WeightFormat, weights: &Block<'_>, x: &Activations, sum: &mut f32) {
    let sub_block_len = Block::sub_block_len(format);
    let mut dot = 0i32;
    let mut minima = 0i32;
    for (j, quants) in x.quants.chunks_exact(sub_block_len).enumerate() {
        let products = quants
            .iter()
            .enumerate()
            .map(|(k, x)| weights.quant(j * sub_block_len + k) * x);
        dot += weights.sub_scale(j) * products.sum::<i32>();
        minima -= weights.sub_minimum(j).unwrap_or(0) * quants.iter().sum::<i32>();
    }
    *sum += dot as f32 * (weights.scale() * x.scale);
    if Block::has_minimum(format) {
        *sum += weights.minimum() * (x.scale * x.sum() as f32);
    } else if weights.sub_minimum(0).is_some() {
        *sum += minima as f32 * (weights.minimum() * x.scale);
    }
}

/// F32, F16 and BF16: `sequential` over k.
pub(crate) fn matmul_float(
    format: WeightFormat,
    tiles: &[u8],
    columns: usize,
    rows: &[f32],
    output: &mut [TileOutput],
) {
    let tile_bytes = format
        .layout()
        .tile_bytes(columns)
        .expect("a packed matrix fits the address space");
    let width = rows.len() / columns;
    for (tile, outputs) in tiles
        .chunks_exact(tile_bytes)
        .zip(output.chunks_exact_mut(width))
    {
        for (row, output) in rows.chunks_exact(columns).zip(outputs) {
            let mut sums = [0.0f32; TILE_ROWS];
            for (k, x) in row.iter().enumerate() {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum += Block::new(format, tile, columns, k, lane).float() * x;
                }
            }
            *output = sums.map(canonical);
        }
    }
}
