//! Activations quantised in blocks of 32, in the panels the kernels read.
//!
//! # Design
//! The rows of a batch are grouped into panels of [`PANEL_WIDTH`] columns of the product, the last panel holding what
//! is left. Per block a panel of width C has 11 * C words: 8 words of quants per column (4 signed bytes each, the
//! lowest k in the lowest byte), then C scales, C corrections -128 * sum and C minimum terms scale * f32(sum).
//!
//! # Units and bounds
//! |sum| <= 32 * 127, so the correction is exact in i32 and f32(sum) is exact.

use std::fmt;

use crate::weights::BLOCK_LEN;

/// Columns of a full panel: what fills the vector registers of the prefill kernels.
pub(crate) const PANEL_WIDTH: usize = 6;
/// Words of quants per block and column.
pub(crate) const QUANT_WORDS: usize = BLOCK_LEN / 4;
/// Words per block and column.
pub(crate) const COLUMN_WORDS: usize = QUANT_WORDS + 3;

/// A batch of quantised activation rows; reusable.
#[derive(Clone, Default)]
pub struct QuantizedRows {
    words: Vec<u32>,
    batch: usize,
    columns: usize,
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

    /// Blocks per row.
    pub(crate) fn blocks(&self) -> usize {
        self.columns / BLOCK_LEN
    }

    /// Takes a new shape; the contents are arbitrary until written.
    pub(crate) fn reshape(&mut self, batch: usize, columns: usize) {
        self.batch = batch;
        self.columns = columns;
        self.words
            .resize(batch * (columns / BLOCK_LEN) * COLUMN_WORDS, 0);
    }

    /// Number of panels.
    pub(crate) fn panel_count(&self) -> usize {
        self.batch.div_ceil(PANEL_WIDTH)
    }

    /// Columns of panel `index`.
    pub(crate) fn panel_width(&self, index: usize) -> usize {
        (self.batch - index * PANEL_WIDTH).min(PANEL_WIDTH)
    }

    /// Words of a full panel.
    pub(crate) fn panel_words(&self) -> usize {
        self.blocks() * COLUMN_WORDS * PANEL_WIDTH
    }

    /// The words of panel `index`.
    pub(crate) fn panel(&self, index: usize) -> &[u32] {
        let length = self.panel_width(index) * self.blocks() * COLUMN_WORDS;
        &self.words[index * self.panel_words()..][..length]
    }

    /// Every word, for digests.
    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    /// Every word, for the kernel that writes them.
    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }
}

impl fmt::Debug for QuantizedRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "QuantizedRows({}x{})", self.batch, self.columns)
    }
}
