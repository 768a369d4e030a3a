//! Blocks of 32, and rows of INT8.
use super::fit::{self, Affine, Codes, Integers, Levels};
use crate::convert::f32_to_f16;
use crate::weights::WeightFormat;

type Block = [f32; 32];

/// Writes a block of any of the formats of 32.
pub(super) fn encode(format: WeightFormat, x: &Block, w: &Block, bytes: &mut [u8]) {
    match format {
        WeightFormat::Q8_0 => {
            let levels = symmetric::<Integers<-127, 127>>(x, w, bytes);
            for (byte, level) in bytes[2..].iter_mut().zip(levels) {
                // Stored from -127 on.
                *byte = level.wrapping_sub(127);
            }
        }
        WeightFormat::Q4_0 => {
            let levels = symmetric::<Integers<-8, 7>>(x, w, bytes);
            nibbles(&levels, &mut bytes[2..]);
        }
        WeightFormat::Q5_0 => {
            let levels = symmetric::<Integers<-16, 15>>(x, w, bytes);
            five_bits(&levels, &mut bytes[2..]);
        }
        WeightFormat::IQ4_NL => {
            let levels = symmetric::<Codes>(x, w, bytes);
            nibbles(&levels, &mut bytes[2..]);
        }
        WeightFormat::Q4_1 => {
            let levels = affine::<15>(x, w, bytes);
            nibbles(&levels, &mut bytes[4..]);
        }
        WeightFormat::Q5_1 => {
            let levels = affine::<31>(x, w, bytes);
            five_bits(&levels, &mut bytes[4..]);
        }
        _ => unreachable!("not a format of blocks of 32: {format}"),
    }
}

/// Writes the scale and returns the integers as stored.
fn symmetric<L: Levels>(x: &Block, w: &Block, bytes: &mut [u8]) -> [u8; 32] {
    let scale = fit::settle::<L, 32>(x, w, fit::scale::<L, 32>(x, w));
    put_half(bytes, scale);
    let inverse = fit::inverse(scale);
    x.map(|value| L::stored(L::nearest(value * inverse)))
}

/// Writes scale and minimum and returns the integers.
fn affine<const MAX: i32>(x: &Block, w: &Block, bytes: &mut [u8]) -> [u8; 32] {
    let fitted = Affine::fit::<MAX, 32>(x, w, false).settle::<MAX, 32>(x, w);
    put_half(bytes, fitted.scale);
    put_half(&mut bytes[2..], fitted.minimum);
    let inverse = fit::inverse(fitted.scale);
    x.map(|value| fitted.level::<MAX>(inverse, value) as u8)
}

/// Which zero is the least or the greatest of two is the processor's choice, so that only +0 is stored.
pub(super) fn put_half(bytes: &mut [u8], value: f32) {
    bytes[..2].copy_from_slice(&f32_to_f16(value + 0.0).to_le_bytes());
}

/// The first 16 in the low halves of bytes, the others in the high ones.
pub(super) fn nibbles(levels: &[u8; 32], bytes: &mut [u8]) {
    let (low, high) = levels.split_at(16);
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = low & 15 | high << 4;
    }
}

/// The fifth bits, and then the others.
fn five_bits(levels: &[u8; 32], bytes: &mut [u8]) {
    let high = (0..32).fold(0u32, |bits, k| bits | u32::from(levels[k] >> 4) << k);
    bytes[..4].copy_from_slice(&high.to_le_bytes());
    nibbles(levels, &mut bytes[4..]);
}

/// A row of INT8: scale (extent / 255) and zero-point of the range from the least to the greatest, 0 included.
pub(super) fn int8(row: &[f32], bytes: &mut [u8]) {
    let low = row.iter().copied().fold(0.0, f32::min);
    let high = row.iter().copied().fold(0.0, f32::max);
    let scale = (high - low) / 255.0 + 0.0;
    let inverse = fit::inverse(scale);
    let zero_point = fit::round_within(-128.0 - low * inverse, -128, 127);
    bytes[..4].copy_from_slice(&scale.to_le_bytes());
    bytes[4..8].copy_from_slice(&zero_point.to_le_bytes());
    for (byte, value) in bytes[8..].iter_mut().zip(row) {
        let level = fit::round_within(value * inverse, -255, 255) + zero_point;
        *byte = (level.clamp(-128, 127) as i8).cast_unsigned();
    }
}
