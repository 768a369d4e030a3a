//! How keys and values are stored.
//!
//! # Design
//! A head's elements form blocks of 32. A tile has the keys of 16 positions: block by block, first what the elements of
//! each position have in common, then the elements of one dimension of all 16 side by side. A row has the values of
//! one position, block by block. In [`KvFormat::Q4`] a byte has elements j and j + 16 of a block, j in its low half.

use std::fmt;

use super::PAGE_POSITIONS;
use crate::arch::KEY_LANES;
use crate::convert::{f16_to_f32, f32_to_f16};

/// Elements that have a scale in common.
pub(crate) const KV_BLOCK: usize = 32;
/// What an f16 that is no number is stored as.
const NAN: u16 = 0x7e00;

/// How keys and values are stored; what attention computes with is what is written here, in f32.
///
/// # Determinism
/// Each is a function of the block's elements x alone, every operation rounded once. A block with an element that is not
/// finite, or whose scale is not, is NaN throughout.
/// - F16: x, half to even.
/// - Q8: d = f16(amax / 127), i = 1 / d (0 when d is 0), q = x * i half to even, saturated to [-127, 127]; the element
///   is q * d.
/// - Q4: m = f16(least), d = f16((largest - m) / 15), i = 1 / d (0 when d is 0), q = (x - m) * i half to even, saturated
///   to [0, 15]; the element is (q * d) + m.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum KvFormat {
    /// 16 bits an element.
    #[default]
    F16,
    /// 8.5 bits an element.
    Q8,
    /// 5 bits an element.
    Q4,
}

impl KvFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F16, Self::Q8, Self::Q4];

    /// Its name in commands and transcripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The format of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Whether heads of so many elements can be stored.
    #[must_use]
    pub const fn takes(self, head_dim: usize) -> bool {
        matches!(self, Self::F16) || head_dim.is_multiple_of(KV_BLOCK)
    }

    /// Bytes of a layer's keys and values at so many positions, in whole pages.
    #[must_use]
    pub fn layer_bytes(self, kv_heads: usize, head_dim: usize, positions: usize) -> u64 {
        let pages = positions.div_ceil(PAGE_POSITIONS) as u64;
        let page = (2 * PAGE_POSITIONS * kv_heads * self.row_bytes(head_dim)) as u64;
        pages.saturating_mul(page)
    }

    /// Bytes of a position's share of a head.
    pub(crate) const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::F16 => 2 * head_dim,
            Self::Q8 | Self::Q4 => head_dim / KV_BLOCK * self.block_bytes(),
        }
    }

    /// Bytes of a position's share of a block.
    const fn block_bytes(self) -> usize {
        match self {
            Self::F16 => 2 * KV_BLOCK,
            Self::Q8 => 2 + KV_BLOCK,
            Self::Q4 => 2 + 2 + KV_BLOCK / 2,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A block's scale, minimum and integers.
struct Block {
    scale: u16,
    minimum: u16,
    quants: [u8; KV_BLOCK],
}

impl Block {
    /// For [`KvFormat::Q8`], two's complement.
    fn q8(values: &[f32]) -> Self {
        let largest = values
            .iter()
            .fold(0.0f32, |largest, value| largest.max(value.abs()));
        let scale = f32_to_f16(largest / 127.0);
        Self::new(values, 0, scale, |value, inverse| {
            let quant = round((value * inverse).clamp(-127.0, 127.0));
            (quant as i32 as i8).cast_unsigned()
        })
    }

    /// For [`KvFormat::Q4`].
    fn q4(values: &[f32]) -> Self {
        let (least, largest) = values
            .iter()
            .fold((f32::INFINITY, f32::NEG_INFINITY), |range, value| {
                (range.0.min(*value), range.1.max(*value))
            });
        let minimum = f32_to_f16(least + 0.0);
        let start = f16_to_f32(minimum);
        let scale = f32_to_f16((largest + 0.0 - start) / 15.0);
        Self::new(values, minimum, scale, |value, inverse| {
            round(((value - start) * inverse).clamp(0.0, 15.0)) as i32 as u8
        })
    }

    fn new(values: &[f32], minimum: u16, scale: u16, quant: impl Fn(f32, f32) -> u8) -> Self {
        let mut quants = [0; KV_BLOCK];
        let wide = f16_to_f32(scale);
        let finite = wide.is_finite() && f16_to_f32(minimum).is_finite();
        if !finite || values.iter().any(|value| !value.is_finite()) {
            return Self {
                scale: NAN,
                minimum: 0,
                quants,
            };
        }
        let inverse = if wide == 0.0 { 0.0 } else { 1.0 / wide };
        for (place, value) in quants.iter_mut().zip(values) {
            *place = quant(*value, inverse);
        }
        Self {
            scale,
            minimum,
            quants,
        }
    }
}

/// A number of magnitude below 2^22 rounded half to even: the sum has no room for a fraction.
fn round(value: f32) -> f32 {
    const UNIT: f32 = 12_582_912.0;
    (value + UNIT) - UNIT
}

/// The halves of blocks whose elements are nibbles: the bytes are elements j and j + 16.
fn nibbles(quants: &[u8; KV_BLOCK]) -> impl Iterator<Item = u8> {
    let (low, high) = quants.split_at(KV_BLOCK / 2);
    low.iter().zip(high).map(|(low, high)| low | high << 4)
}

/// Writes the values of one position, quantised.
pub(crate) fn put_row(format: KvFormat, values: &[f32], row: &mut [u8]) {
    let blocks = values.chunks(KV_BLOCK);
    for (values, bytes) in blocks.zip(row.chunks_mut(format.block_bytes())) {
        match format {
            KvFormat::F16 => unreachable!("narrowed by a kernel"),
            KvFormat::Q8 => {
                let block = Block::q8(values);
                bytes[..2].copy_from_slice(&block.scale.to_le_bytes());
                bytes[2..].copy_from_slice(&block.quants);
            }
            KvFormat::Q4 => {
                let block = Block::q4(values);
                bytes[..2].copy_from_slice(&block.scale.to_le_bytes());
                bytes[2..4].copy_from_slice(&block.minimum.to_le_bytes());
                for (byte, nibbles) in bytes[4..].iter_mut().zip(nibbles(&block.quants)) {
                    *byte = nibbles;
                }
            }
        }
    }
}

/// Writes elements as they are, each so many places behind the one before it, beginning with place `first`.
pub(crate) fn put_halves(halves: &[u16], bytes: &mut [u8], distance: usize, first: usize) {
    let places = bytes.as_chunks_mut::<2>().0[first..].iter_mut();
    for (place, half) in places.step_by(distance).zip(halves) {
        *place = half.to_le_bytes();
    }
}

/// Writes the keys of one position, the one of that lane, quantised, into a tile.
pub(crate) fn put_key(format: KvFormat, keys: &[f32], lane: usize, tile: &mut [u8]) {
    let block_bytes = KEY_LANES * format.block_bytes();
    for (keys, bytes) in keys.chunks(KV_BLOCK).zip(tile.chunks_mut(block_bytes)) {
        // What the positions have in common lies in rows of 16, as do their elements.
        let mut halves = bytes.as_chunks_mut::<{ 2 * KEY_LANES }>().0.iter_mut();
        let mut put_half = |half: u16| {
            let places = halves.next().expect("a tile has whole blocks");
            places[2 * lane..2 * lane + 2].copy_from_slice(&half.to_le_bytes());
        };
        let block = match format {
            KvFormat::F16 => unreachable!("narrowed by a kernel"),
            KvFormat::Q8 => Block::q8(keys),
            KvFormat::Q4 => Block::q4(keys),
        };
        put_half(block.scale);
        if format == KvFormat::Q8 {
            let places = bytes[2 * KEY_LANES..].chunks_exact_mut(KEY_LANES);
            for (places, quant) in places.zip(block.quants) {
                places[lane] = quant;
            }
        } else {
            put_half(block.minimum);
            let places = bytes[4 * KEY_LANES..].chunks_exact_mut(KEY_LANES);
            for (places, nibbles) in places.zip(nibbles(&block.quants)) {
                places[lane] = nibbles;
            }
        }
    }
}

/// The f16 at `offset`, widened.
#[inline(always)]
fn half(bytes: &[u8], offset: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[offset], bytes[offset + 1]]))
}

/// The element of a block of nibbles, of whose bytes `byte` gives the one of a number.
fn nibble(element: usize, byte: impl Fn(usize) -> u8) -> f32 {
    const HALF: usize = KV_BLOCK / 2;
    f32::from(byte(element % HALF) >> (element / HALF * 4) & 15)
}

/// Element `dimension` of a row of values.
#[inline(always)]
pub(crate) fn value(format: KvFormat, row: &[u8], dimension: usize) -> f32 {
    let bytes = &row[dimension / KV_BLOCK * format.block_bytes()..];
    let element = dimension % KV_BLOCK;
    match format {
        KvFormat::F16 => half(bytes, 2 * element),
        KvFormat::Q8 => f32::from(bytes[2 + element].cast_signed()) * half(bytes, 0),
        KvFormat::Q4 => nibble(element, |byte| bytes[4 + byte]) * half(bytes, 0) + half(bytes, 2),
    }
}

/// Element `dimension` of the keys of a tile's lane.
#[inline(always)]
pub(crate) fn key(format: KvFormat, tile: &[u8], dimension: usize, lane: usize) -> f32 {
    let bytes = &tile[dimension / KV_BLOCK * KEY_LANES * format.block_bytes()..];
    let element = dimension % KV_BLOCK;
    let shared = |index: usize| half(bytes, 2 * (index * KEY_LANES + lane));
    match format {
        KvFormat::F16 => shared(element),
        KvFormat::Q8 => {
            let quant = bytes[(2 + element) * KEY_LANES + lane];
            f32::from(quant.cast_signed()) * shared(0)
        }
        KvFormat::Q4 => {
            let quant = nibble(element, |byte| bytes[(4 + byte) * KEY_LANES + lane]);
            quant * shared(0) + shared(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Generator;

    #[test]
    fn keys_and_values_are_stored_alike_and_close() {
        let mut generator = Generator::new(3);
        for (format, error) in [(KvFormat::Q8, 0.007), (KvFormat::Q4, 0.11)] {
            let head_dim = 64;
            let mut tile = vec![0; KEY_LANES * format.row_bytes(head_dim)];
            let mut row = vec![0; format.row_bytes(head_dim)];
            for lane in 0..KEY_LANES {
                let values: Vec<f32> = (0..head_dim).map(|_| generator.ordinary(1.5)).collect();
                put_key(format, &values, lane, &mut tile);
                put_row(format, &values, &mut row);
                for (dimension, value) in values.iter().enumerate() {
                    let stored = super::value(format, &row, dimension);
                    assert_eq!(stored, key(format, &tile, dimension, lane));
                    assert!((stored - value).abs() <= error, "{format} {value} {stored}");
                }
            }
        }
    }

    #[test]
    fn blocks_that_cannot_be_stored_are_not_numbers() {
        for format in [KvFormat::Q8, KvFormat::Q4] {
            let mut row = vec![0; format.row_bytes(64)];
            let mut values = [1.0f32; 64];
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
                values[40] = bad;
                put_row(format, &values, &mut row);
                assert!(value(format, &row, 31).is_finite(), "{format} {bad}");
                assert!(value(format, &row, 32).is_nan(), "{format} {bad}");
            }
        }
    }

    #[test]
    fn zeros_and_extremes_are_kept() {
        let mut values = [-0.0f32; 32];
        for format in [KvFormat::Q8, KvFormat::Q4] {
            let mut row = vec![0xff; format.row_bytes(32)];
            put_row(format, &values, &mut row);
            assert!((0..32).all(|dimension| value(format, &row, dimension) == 0.0));
        }
        values[3] = 254.0;
        values[7] = -254.0;
        let mut row = vec![0; KvFormat::Q8.row_bytes(32)];
        put_row(KvFormat::Q8, &values, &mut row);
        assert_eq!(value(KvFormat::Q8, &row, 3), 254.0);
        assert_eq!(value(KvFormat::Q8, &row, 7), -254.0);
        values = [-1.0; 32];
        values[5] = 14.0;
        let mut row = vec![0; KvFormat::Q4.row_bytes(32)];
        put_row(KvFormat::Q4, &values, &mut row);
        assert_eq!(value(KvFormat::Q4, &row, 0), -1.0);
        assert_eq!(value(KvFormat::Q4, &row, 5), 14.0);
    }
}
