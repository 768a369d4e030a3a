//! Activations quantised in blocks of 32 or 256, in the panels the kernels read.
//!
//! # Design
//! The rows of a batch are grouped into panels of up to [`PANEL_WIDTH`] columns of the product, as few as will do and
//! all as wide but the last, which holds what is left. Per block a panel of width C holds, word by word:
//!
//! | blocks of 32 | blocks of 256 |
//! |---|---|
//! | C times 8 words of quants | C times 64 words of quants |
//! | C scales (f32) | C scales (f32) |
//! | C corrections -8 * sum | C times 16 negated sums of 16 quants |
//! | C minimum terms scale * f32(sum) | |
//!
//! A word of quants holds four signed bytes, the lowest k in the lowest byte.
//!
//! # Units and bounds
//! |sum| <= 32 * 127, so the correction is exact in i32 and f32(sum) is exact.

use std::fmt;

use crate::weights::ActivationFormat;

/// Columns of a panel at most: what fills the vector registers of the prefill kernels.
pub(crate) const PANEL_WIDTH: usize = 6;
/// Elements of the short blocks.
pub(crate) const SHORT_BLOCK: usize = 32;
/// Elements of the long blocks.
pub(crate) const LONG_BLOCK: usize = 256;
/// Quants that share a stored sum in a long block.
pub(crate) const SUM_LEN: usize = 16;
/// Words of quants per short block and column.
pub(crate) const SHORT_QUANT_WORDS: usize = SHORT_BLOCK / 4;
/// Words per short block and column.
pub(crate) const SHORT_WORDS: usize = SHORT_QUANT_WORDS + 3;
/// Words of quants per long block and column.
pub(crate) const LONG_QUANT_WORDS: usize = LONG_BLOCK / 4;
/// Sums per long block and column.
pub(crate) const LONG_SUMS: usize = LONG_BLOCK / SUM_LEN;
/// Words per long block and column.
pub(crate) const LONG_WORDS: usize = LONG_QUANT_WORDS + 1 + LONG_SUMS;

/// A batch of quantised activation rows; reusable.
#[derive(Clone)]
pub struct QuantizedRows {
    words: Vec<u32>,
    format: ActivationFormat,
    batch: usize,
    columns: usize,
    /// Columns of every panel but the last.
    width: usize,
}

impl Default for QuantizedRows {
    fn default() -> Self {
        Self {
            words: Vec::new(),
            format: ActivationFormat::Blocks32,
            batch: 0,
            columns: 0,
            width: 1,
        }
    }
}

impl QuantizedRows {
    /// Number of rows.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Elements per row.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How they are quantised.
    #[must_use]
    pub fn format(&self) -> ActivationFormat {
        self.format
    }

    /// Takes a new shape; the contents are arbitrary until written.
    pub(crate) fn reshape(&mut self, format: ActivationFormat, batch: usize, columns: usize) {
        self.format = format;
        self.batch = batch;
        self.columns = columns;
        let panels = batch.div_ceil(PANEL_WIDTH).max(1);
        self.width = batch.div_ceil(panels).max(1);
        self.words
            .resize(batch * self.blocks() * self.column_words(), 0);
    }

    /// Blocks per row.
    pub(crate) fn blocks(&self) -> usize {
        self.columns / self.format.block_len()
    }

    /// Words per block and column.
    fn column_words(&self) -> usize {
        match self.format {
            ActivationFormat::Blocks256 => LONG_WORDS,
            _ => SHORT_WORDS,
        }
    }

    /// Number of panels.
    pub(crate) fn panel_count(&self) -> usize {
        self.batch.div_ceil(self.width)
    }

    /// Columns of panel `index`.
    pub(crate) fn panel_width(&self, index: usize) -> usize {
        (self.batch - index * self.width).min(self.width)
    }

    /// The row that is the first column of panel `index`.
    pub(crate) fn first_row(&self, index: usize) -> usize {
        index * self.width
    }

    /// Words of a full panel.
    pub(crate) fn panel_words(&self) -> usize {
        self.blocks() * self.column_words() * self.width
    }

    /// The words of panel `index`.
    pub(crate) fn panel(&self, index: usize) -> &[u32] {
        let length = self.panel_width(index) * self.blocks() * self.column_words();
        &self.words[index * self.panel_words()..][..length]
    }

    /// Every word, for the kernel that writes them.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// Appends row `row` to `values`: per block its quants, exactly, and then its scale. For diagnosis.
    ///
    /// # Panics
    /// There is no such row.
    pub fn read_row(&self, row: usize, values: &mut Vec<f32>) {
        for block in 0..self.blocks() {
            let (scale, quants) = self.block(row, block);
            values.extend(quants.into_iter().map(f32::from));
            values.push(scale);
        }
    }

    /// The scale and the quants of a block of a row, independent of the layout.
    ///
    /// # Panics
    /// There is no such row or block.
    #[must_use]
    pub fn block(&self, row: usize, block: usize) -> (f32, Vec<i8>) {
        assert!(
            row < self.batch && block < self.blocks(),
            "no such block: row {row}, block {block}"
        );
        let (panel, column) = (row / self.width, row % self.width);
        let width = self.panel_width(panel);
        let stride = width * self.column_words();
        let words = &self.panel(panel)[block * stride..][..stride];
        let per_column = self.format.block_len() / 4;
        let quants = words[column * per_column..][..per_column]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .map(|byte| byte as i8)
            .collect();
        (f32::from_bits(words[width * per_column + column]), quants)
    }
}

impl fmt::Debug for QuantizedRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "QuantizedRows({}x{} in {}s)",
            self.batch,
            self.columns,
            self.format.block_len()
        )
    }
}
