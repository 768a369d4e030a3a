//! What kernels cost: a function of their shapes alone.
//!
//! # Units and bounds
//! Rates are sixteenths of an instruction. An instruction stands for half a nanosecond of one core: a price is the work
//! of a kernel on one core, and counts as much of the time as of the cycles, on however many cores it runs.
//!
//! # Invariants
//! These numbers belong to the version of the protocol: changing one needs a new version. Record 0005 derives them.
use crate::engine::Instructions;
use lockstep_numeric::{ActivationFormat, WeightFormat};

/// Price of every call, beside what its elements cost.
pub const KERNEL: Instructions = 2_000;
/// A multiply-add with weights that are floats.
pub const MULTIPLY_ADD_FLOAT: u64 = 4;
/// A multiply-add with quantised weights.
pub const MULTIPLY_ADD_QUANTIZED: u64 = 2;
/// An element of the weights, packed.
pub const PACK: u64 = 16;
/// An element of the input, quantised.
pub const QUANTIZE: u64 = 16;
/// An element of a product.
pub const STORE: u64 = 16;
/// An element of a sum.
pub const ADD: u64 = 8;
/// A normalised element.
pub const RMS_NORM: u64 = 16;
/// An exponential.
pub const EXP: u64 = 256;
/// An element of a softmax.
pub const SOFTMAX: u64 = 320;
/// A gated element.
pub const SILU_MUL: u64 = 320;

/// A row of a kernel that works row by row.
pub const ROW: u64 = 960;

/// Elements of a row are summed in so many lanes.
const LANES: u64 = 16;
/// Rows of weights are counted in whole tiles.
const TILE_ROWS: u64 = 16;
/// Quantised weights are packed once for so many elements of the input.
const PART_ELEMENTS: u64 = 16 << 20;

/// Price of a call for so many elements at a rate.
#[must_use]
pub fn elements(count: u64, rate: u64) -> Instructions {
    call(u128::from(count) * u128::from(rate))
}

/// Price of a kernel that works row by row: every row is filled up to whole lanes, and costs [`ROW`] beside;
/// rows of nothing cost nothing.
#[must_use]
pub fn rows(count: u32, columns: u32, rate: u64) -> Instructions {
    if columns == 0 {
        return KERNEL;
    }
    let columns = u64::from(columns).next_multiple_of(LANES);
    call(u128::from(count) * u128::from(columns * rate + ROW))
}

/// Price of the product of `batch` rows of input and `rows` rows of weights, `columns` elements each.
#[must_use]
pub fn product(format: WeightFormat, (batch, rows, columns): (u32, u32, u32)) -> Instructions {
    let wide = |count: u64| u128::from(count);
    let input = u64::from(batch) * u64::from(columns);
    let weights = wide(u64::from(rows).next_multiple_of(TILE_ROWS)) * wide(columns.into());
    let outputs = wide(u64::from(batch) * u64::from(rows));
    let float = format.activations() == ActivationFormat::F32;
    let (multiply_add, quantize, parts) = if float {
        (MULTIPLY_ADD_FLOAT, 0, 1)
    } else {
        let parts = input.div_ceil(PART_ELEMENTS).max(1);
        (MULTIPLY_ADD_QUANTIZED, QUANTIZE, parts)
    };
    // Shapes that are in memory stay far below where this would saturate.
    let packed = weights.saturating_mul(wide(parts * PACK));
    let multiplied = weights.saturating_mul(wide(u64::from(batch) * multiply_add));
    let sixteenths = [
        packed,
        multiplied,
        wide(input).saturating_mul(wide(quantize)),
        outputs.saturating_mul(wide(STORE)),
    ];
    call(sixteenths.into_iter().fold(0, u128::saturating_add))
}

/// A call and sixteenths of an instruction.
fn call(sixteenths: u128) -> Instructions {
    let instructions = u64::try_from(sixteenths.div_ceil(16)).unwrap_or(u64::MAX);
    KERNEL.saturating_add(instructions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_frozen() {
        assert_eq!(KERNEL, 2_000);
        let rates = [
            (MULTIPLY_ADD_FLOAT, 4),
            (MULTIPLY_ADD_QUANTIZED, 2),
            (PACK, 16),
            (QUANTIZE, 16),
            (STORE, 16),
            (ADD, 8),
            (RMS_NORM, 16),
            (EXP, 256),
            (SOFTMAX, 320),
            (SILU_MUL, 320),
            (ROW, 960),
        ];
        for (rate, frozen) in rates {
            assert_eq!(rate, frozen);
        }
        assert_eq!(elements(0, EXP), 2_000);
        assert_eq!(elements(3, ADD), 2_002);
        assert_eq!(rows(0, 9, SOFTMAX), 2_000);
        assert_eq!(rows(3, 1, RMS_NORM), 2_000 + 3 * (16 + 60));
        assert_eq!(rows(2, 17, SOFTMAX), 2_000 + 2 * (32 * 20 + 60));
        let shapes = [
            ((1, 1, 1), 2_021, None),
            ((1, 16, 32), 2_656, Some(2_624)),
            ((2, 17, 256), 14_322, Some(12_786)),
            ((0, 17, 256), 10_192, Some(10_192)),
            ((5, 0, 256), 2_000, Some(3_280)),
            ((5, 3, 0), 2_015, Some(2_015)),
        ];
        for (shape, float, quantized) in shapes {
            for format in WeightFormat::ALL {
                let price = match format.activations() {
                    ActivationFormat::F32 => Some(float),
                    _ => quantized,
                };
                if let Some(price) = price {
                    assert_eq!(product(format, shape), price, "{format} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn weights_are_packed_once_for_every_16_mi_elements_of_input() {
        let price = |batch| product(WeightFormat::Q8_0, (batch, 16, 1 << 20));
        // A row more costs its multiply-adds, its conversion and its outputs; the 17th another packing.
        let row = (16 << 20) / 8 + (1 << 20) + 16;
        assert_eq!(price(16) - price(15), row);
        assert_eq!(price(17) - price(16), row + (16 << 20));
    }

    #[test]
    fn the_largest_arguments_saturate() {
        let most = (u32::MAX, u32::MAX, u32::MAX);
        assert_eq!(product(WeightFormat::F32, most), u64::MAX);
        assert_eq!(product(WeightFormat::Q8_0, most), u64::MAX);
        assert!(elements(u64::MAX, SOFTMAX) >= u64::MAX / 16);
    }
}
