//! Short convolutions over positions, gated on both sides, as LFM2 has them in place of attention.

use crate::kernels::Kernels;
use crate::pool::Disjoint;

/// The weights of a depthwise convolution: so many taps for each channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Convolution {
    channels: usize,
    /// Tap by tap, the oldest position's first, each for all channels.
    taps: Vec<f32>,
}

impl Convolution {
    /// From a row of taps for each channel, the oldest position's first.
    ///
    /// # Panics
    /// `weight` is not so many whole rows of at least one tap.
    #[must_use]
    pub fn new(weight: &[f32], channels: usize) -> Self {
        assert!(
            channels > 0 && !weight.is_empty() && weight.len().is_multiple_of(channels),
            "weights are not whole rows of {channels} channels"
        );
        let count = weight.len() / channels;
        let row = |tap: usize| weight.iter().skip(tap).step_by(count);
        Self {
            channels,
            taps: (0..count).flat_map(row).copied().collect(),
        }
    }

    /// Number of channels.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Taps of each channel.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.taps.len() / self.channels
    }

    /// How many values of earlier positions it reads.
    #[must_use]
    pub fn history_len(&self) -> usize {
        self.taps.len() - self.channels
    }

    /// Bytes of the weights.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.taps.as_slice())
    }
}

impl Kernels {
    /// For consecutive positions of one text. A row of `input` is b, c and x, of a value per channel each. u = b * x;
    /// v = the sum over the taps k of u at the position k - (taps - 1) from this one, times tap k, `sequential` from the
    /// oldest on; output = v * c.
    ///
    /// `history` has u of the taps - 1 positions before the first, oldest first: zeros before a text's beginning. `next`
    /// gets the same of those before the position after the last.
    ///
    /// # Panics
    /// Lengths disagree.
    pub fn gated_convolution(
        &self,
        convolution: &Convolution,
        input: &[f32],
        history: &[f32],
        next: &mut [f32],
        output: &mut [f32],
    ) {
        let channels = convolution.channels;
        let rows = output.len() / channels;
        assert_eq!(input.len(), 3 * output.len(), "three inputs for an output");
        assert_eq!(output.len(), rows * channels, "whole rows of channels");
        assert_eq!(history.len(), convolution.history_len(), "history");
        assert_eq!(next.len(), history.len(), "next history");
        let part = |row: usize, part: usize| &input[(3 * row + part) * channels..][..channels];

        let mut gated = Vec::with_capacity(history.len() + output.len());
        gated.extend_from_slice(history);
        for row in 0..rows {
            gated.extend_from_slice(part(row, 0));
            let start = gated.len() - channels;
            self.mul(&mut gated[start..], part(row, 2));
        }
        let table = self.table();
        let output = Disjoint::new(output);
        self.run_rows(rows, convolution.taps.len(), &|rows| {
            for row in rows {
                // SAFETY: rows do not overlap, and each is visited once.
                let output = unsafe { output.part(row * channels..(row + 1) * channels) };
                output.fill(0.0);
                let read = &gated[row * channels..];
                let read = read.chunks_exact(channels);
                for (values, tap) in read.zip(convolution.taps.chunks_exact(channels)) {
                    // SAFETY: the table belongs to an instruction set that this processor has.
                    unsafe { (table.mul_add_f32_f32)(output, values, tap) };
                }
                // SAFETY: the table belongs to an instruction set that this processor has.
                unsafe { (table.mul_f32_f32)(output, part(row, 1)) };
            }
        });
        next.copy_from_slice(&gated[gated.len() - next.len()..]);
    }
}
