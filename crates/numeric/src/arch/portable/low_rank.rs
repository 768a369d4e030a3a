//! Products of low rank, written for reading.

use super::fold_lanes;
use crate::convert::canonical;
use crate::weights::TILE_ROWS;

/// Rows of A, each filled up with zeros to whole sixteens, times a row of the input. `read` gives an element of bytes.
pub(crate) fn down(
    read: fn(&[u8], usize) -> f32,
    factors: &[u8],
    input: &[f32],
    output: &mut [f32],
) {
    let stride = input.len().next_multiple_of(16);
    for (r, output) in output.iter_mut().enumerate() {
        let mut lanes = [0.0; 16];
        for (k, x) in input.iter().enumerate() {
            lanes[k % 16] += read(factors, r * stride + k) * x;
        }
        *output = canonical(fold_lanes(lanes));
    }
}

/// Adds scale * (B · inner) to outputs; B lies in tiles of 16 rows.
pub(crate) fn up(
    read: fn(&[u8], usize) -> f32,
    tiles: &[u8],
    inner: &[f32],
    scale: f32,
    output: &mut [f32],
) {
    for (row, output) in output.iter_mut().enumerate() {
        let (tile, lane) = (row / TILE_ROWS, row % TILE_ROWS);
        let mut sum = 0.0;
        for (r, t) in inner.iter().enumerate() {
            sum += read(tiles, (tile * inner.len() + r) * TILE_ROWS + lane) * t;
        }
        *output = canonical(*output + scale * sum);
    }
}
