//! From f32 to stored rows: the inverse of the table of formats.
//!
//! # Design
//! A block is fitted alone. Scales (and minima) are those of several candidates that leave the least weighted sum of
//! squared errors, each candidate improved by least squares; the error counted is that of the values that a reader
//! gets, so of the scales as they are stored. A weight belongs to a column: the mean square of what the column is
//! multiplied with makes the sum the expected squared error of a product's output.
//!
//! # Determinism
//! The bytes are a function of format, values and importance. f32 and f64 operations + - * / are rounded one by one in
//! the order written here; sums over a block are in 8 lanes, element k in lane k mod 8, folded by 4, 2, 1. Of equal
//! candidates the first is taken, and a scale or minimum of 0 is +0. Rows are shared out over threads, and none knows of another.
//!
//! # Units and bounds
//! Importance is taken relative to its mean, from 2^-13 to 2^13, so that no column is forgotten. Formats with f16
//! scales take values up to the largest f16, 65504.
mod blocks;
mod fit;
mod superblocks;
#[cfg(test)]
mod tests;

use super::WeightFormat;
use crate::convert::{f32_to_bf16, f32_to_f16};
use crate::pool::{Disjoint, Pool};
use thiserror::Error;

/// Largest magnitude of an f16.
const F16_MAX: f32 = 65504.0;
/// Bounds of a column's weight.
const WEIGHT_MAX: f64 = 8192.0;

/// Why values cannot be encoded.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// Rows do not consist of whole blocks, or there are no columns.
    #[error("columns are not a multiple of the block length {block_len} of {format}: {columns}")]
    PartialBlock {
        /// The format.
        format: WeightFormat,
        /// Its block length.
        block_len: usize,
        /// The columns given.
        columns: usize,
    },
    /// The values are no whole rows.
    #[error("values are no whole rows of {columns}: {values}")]
    PartialRow {
        /// Columns.
        columns: usize,
        /// Values given.
        values: usize,
    },
    /// A value is NaN or infinite.
    #[error("value of row {row}, column {column} is not finite: {value}")]
    NotFinite {
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A value is too large for the format's scales.
    #[error("value of row {row}, column {column} is too large for {format}: {value}")]
    TooLarge {
        /// The format.
        format: WeightFormat,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
        /// The value.
        value: f32,
    },
    /// There is not one importance per column.
    #[error("importance is not one number for each of {columns} columns: {length}")]
    ImportanceLength {
        /// Columns.
        columns: usize,
        /// Numbers given.
        length: usize,
    },
    /// An importance is negative, NaN or infinite.
    #[error("importance of column {column} is not a finite number from 0 on: {value}")]
    Importance {
        /// The column.
        column: usize,
        /// Its importance.
        value: f32,
    },
}

/// Appends `values`, rows of `columns`, to `out` as rows of `format`. Columns with a larger `importance` come out
/// nearer; all are alike without.
///
/// # Errors
/// Values that are not whole rows of whole blocks, not finite or too large; a bad importance. Then `out` has not changed.
pub fn encode_rows(
    pool: &Pool,
    format: WeightFormat,
    values: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let row_bytes = format
        .row_bytes(columns)
        .filter(|bytes| *bytes > 0 && columns > 0)
        .ok_or(EncodeError::PartialBlock {
            format,
            block_len: format.block_len(),
            columns,
        })?;
    if !values.len().is_multiple_of(columns) {
        return Err(EncodeError::PartialRow {
            columns,
            values: values.len(),
        });
    }
    check(format, values, columns)?;
    let weights = weights(importance, columns)?;
    let rows = values.len() / columns;
    let start = out.len();
    out.resize(start + rows * row_bytes, 0);
    let target = Disjoint::new(&mut out[start..]);
    pool.run(rows, &|range| {
        // SAFETY: the pool's ranges are disjoint, and so are the rows' bytes.
        let bytes = unsafe { target.part(range.start * row_bytes..range.end * row_bytes) };
        let rows = values[range.start * columns..range.end * columns].chunks_exact(columns);
        for (row, bytes) in rows.zip(bytes.chunks_exact_mut(row_bytes)) {
            encode_row(format, row, &weights, bytes);
        }
    });
    Ok(())
}

fn check(format: WeightFormat, values: &[f32], columns: usize) -> Result<(), EncodeError> {
    let place = |index: usize| (index / columns, index % columns);
    if let Some(index) = values.iter().position(|value| !value.is_finite()) {
        let ((row, column), value) = (place(index), values[index]);
        return Err(EncodeError::NotFinite { row, column, value });
    }
    let largest = match format {
        // Differences of values have to be finite, too.
        WeightFormat::F32 | WeightFormat::Int8 => f32::MAX / 2.0,
        WeightFormat::Bf16 => f32::from_bits(0x7f7f_0000),
        _ => F16_MAX,
    };
    let too_large = |value: &f32| format != WeightFormat::F32 && value.abs() > largest;
    if let Some(index) = values.iter().position(too_large) {
        let ((row, column), value) = (place(index), values[index]);
        return Err(EncodeError::TooLarge {
            format,
            row,
            column,
            value,
        });
    }
    Ok(())
}

/// A weight per column.
fn weights(importance: Option<&[f32]>, columns: usize) -> Result<Vec<f32>, EncodeError> {
    let Some(importance) = importance else {
        return Ok(vec![1.0; columns]);
    };
    if importance.len() != columns {
        return Err(EncodeError::ImportanceLength {
            columns,
            length: importance.len(),
        });
    }
    let bad = |value: &f32| !(value.is_finite() && *value >= 0.0);
    if let Some(column) = importance.iter().position(bad) {
        let value = importance[column];
        return Err(EncodeError::Importance { column, value });
    }
    let sum: f64 = importance.iter().map(|value| f64::from(*value)).sum();
    if sum == 0.0 {
        return Ok(vec![1.0; columns]);
    }
    let mean = sum / columns as f64;
    let weight = |value: &f32| (f64::from(*value) / mean).clamp(1.0 / WEIGHT_MAX, WEIGHT_MAX);
    Ok(importance
        .iter()
        .map(|value| weight(value) as f32)
        .collect())
}

fn encode_row(format: WeightFormat, row: &[f32], weights: &[f32], bytes: &mut [u8]) {
    let layout = format.layout();
    match format {
        WeightFormat::F32 => {
            for (value, bytes) in row.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *bytes = value.to_le_bytes();
            }
        }
        WeightFormat::F16 | WeightFormat::Bf16 => {
            let narrow = match format {
                WeightFormat::F16 => f32_to_f16,
                _ => f32_to_bf16,
            };
            for (value, bytes) in row.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *bytes = narrow(*value).to_le_bytes();
            }
        }
        WeightFormat::Int8 => blocks::int8(row, bytes),
        _ if layout.block_len == 32 => {
            let values = row.as_chunks::<32>().0;
            let weights = weights.as_chunks::<32>().0;
            let bytes = bytes.chunks_exact_mut(layout.block_bytes);
            for ((values, weights), bytes) in values.iter().zip(weights).zip(bytes) {
                blocks::encode(format, values, weights, bytes);
            }
        }
        _ => {
            let values = row.as_chunks::<256>().0;
            let weights = weights.as_chunks::<256>().0;
            let bytes = bytes.chunks_exact_mut(layout.block_bytes);
            for ((values, weights), bytes) in values.iter().zip(weights).zip(bytes) {
                superblocks::encode(format, values, weights, bytes);
            }
        }
    }
}
