//! Matrix products, written for reading: every weight by its definition, every chain step by step.

use crate::arch::TileOutput;
use crate::convert::canonical;
use crate::quantized::{LONG_QUANT_WORDS, LONG_WORDS, SHORT_BLOCK, SHORT_QUANT_WORDS, SHORT_WORDS};
use crate::weights::{Block, TILE_ROWS, WeightFormat};

/// One column of one block of a panel.
struct Activations {
    quants: Vec<i16>,
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
            .map(|byte| i16::from(byte as i8))
            .collect();
        Self {
            quants,
            scale: f32::from_bits(panel[width * quant_words + column]),
        }
    }
}

/// One row of one block of a tile: unpacked once for all columns, in memory that is used again.
#[derive(Default)]
struct Weights {
    quants: Vec<i16>,
    sub_block_len: usize,
    sub_scales: Vec<i32>,
    /// Empty in formats without integer minima.
    sub_minima: Vec<i32>,
    scale: f32,
    minimum: f32,
    has_minimum: bool,
}

impl Weights {
    fn read(&mut self, format: WeightFormat, block: &Block<'_>) {
        self.sub_block_len = Block::sub_block_len(format);
        let sub_blocks = 0..format.block_len() / self.sub_block_len;
        self.quants.clear();
        block.append_quants(&mut self.quants);
        self.sub_scales.clear();
        self.sub_scales
            .extend(sub_blocks.clone().map(|j| block.sub_scale(j)));
        self.sub_minima.clear();
        self.sub_minima
            .extend(sub_blocks.filter_map(|j| block.sub_minimum(j)));
        self.scale = block.scale();
        self.has_minimum = Block::has_minimum(format);
        if self.has_minimum || !self.sub_minima.is_empty() {
            self.minimum = block.minimum();
        }
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
    let activations: Vec<Activations> = (0..blocks)
        .flat_map(|index| (0..width).map(move |column| (index, column)))
        .map(|(index, column)| Activations::read(panel, width, layout.block_len, index, column))
        .collect();
    let mut weights = Weights::default();
    for (tile, outputs) in tiles
        .chunks_exact(tile_bytes)
        .zip(output.chunks_exact_mut(width))
    {
        outputs.fill([0.0; TILE_ROWS]);
        for (index, columns) in activations.chunks_exact(width).enumerate() {
            for lane in 0..TILE_ROWS {
                weights.read(format, &Block::new(format, tile, blocks, index, lane));
                for (sums, x) in outputs.iter_mut().zip(columns) {
                    chain_step(&weights, x, &mut sums[lane]);
                }
            }
        }
        for sums in outputs {
            *sums = sums.map(canonical);
        }
    }
}

/// One block's step of the chain.
fn chain_step(weights: &Weights, x: &Activations, sum: &mut f32) {
    let dots = weights
        .quants
        .chunks_exact(weights.sub_block_len)
        .zip(x.quants.chunks_exact(weights.sub_block_len))
        .map(|(weights, quants)| dot(weights, quants));
    let dot: i32 = dots
        .zip(&weights.sub_scales)
        .map(|(dot, scale)| scale * dot)
        .sum();
    *sum += dot as f32 * (weights.scale * x.scale);
    if weights.has_minimum {
        *sum += weights.minimum * (x.scale * total(&x.quants) as f32);
    } else if !weights.sub_minima.is_empty() {
        let minima: i32 = x
            .quants
            .chunks_exact(weights.sub_block_len)
            .zip(&weights.sub_minima)
            .map(|(quants, minimum)| minimum * total(quants))
            .sum();
        *sum += -minima as f32 * (weights.minimum * x.scale);
    }
}

fn dot(weights: &[i16], quants: &[i16]) -> i32 {
    let pairs = weights.iter().zip(quants);
    pairs.map(|(w, x)| i32::from(*w) * i32::from(*x)).sum()
}

fn total(quants: &[i16]) -> i32 {
    quants.iter().copied().map(i32::from).sum()
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
