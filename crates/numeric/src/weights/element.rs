//! A packed block of one row, element by element: what the portable kernels read.

use super::{CODES, WeightFormat};
use crate::arch::portable::float_at;
use crate::convert::{bf16_to_f32, canonical, f16_to_f32};

/// One block of one row.
pub(crate) struct Block<'a> {
    format: WeightFormat,
    tile: &'a [u8],
    /// Offset of the row's part of the block's first f16.
    halves: usize,
    /// Offset of the row's part of the block's first word.
    words: usize,
    lane: usize,
}

impl<'a> Block<'a> {
    /// Block `block` of row `lane` of a tile with `blocks` blocks per row.
    pub(crate) fn new(
        format: WeightFormat,
        tile: &'a [u8],
        blocks: usize,
        block: usize,
        lane: usize,
    ) -> Self {
        let layout = format.layout();
        let head = layout
            .head_bytes(blocks)
            .expect("a packed matrix fits the address space");
        Self {
            format,
            tile,
            halves: layout.row_words * 64 + block * layout.halves.len() * 32 + lane * 2,
            words: head + block * layout.words * 64 + lane * 4,
            lane,
        }
    }

    fn word(&self, index: usize) -> u32 {
        word_at(self.tile, self.words + index * 64)
    }

    #[inline(always)]
    fn byte(&self, index: usize) -> u8 {
        self.tile[self.words + index / 4 * 64 + index % 4]
    }

    fn half(&self, index: usize) -> u16 {
        let offset = self.halves + index * 32;
        u16::from_le_bytes([self.tile[offset], self.tile[offset + 1]])
    }

    /// The value of a block of one element.
    pub(crate) fn float(&self) -> f32 {
        match self.format {
            WeightFormat::F16 => f16_to_f32(self.half(0)),
            WeightFormat::Bf16 => bf16_to_f32(self.half(0)),
            _ => f32::from_bits(self.word(0)),
        }
    }

    /// The block's scale; INT8: the row's.
    pub(crate) fn scale(&self) -> f32 {
        match self.format {
            WeightFormat::Int8 => float_at(self.tile, self.lane * 4),
            _ => f16_to_f32(self.half(0)),
        }
    }

    /// The block's minimum, or the scale of its minima.
    pub(crate) fn minimum(&self) -> f32 {
        f16_to_f32(self.half(1))
    }

    /// Appends the integers of all elements.
    pub(crate) fn append_quants(&self, quants: &mut Vec<i16>) {
        /// One loop per format, in which the format is a constant.
        macro_rules! append {
            ($($format:ident)*) => {
                match self.format {
                    $(WeightFormat::$format => {
                        let block = Self { format: WeightFormat::$format, ..*self };
                        let elements = 0..WeightFormat::$format.block_len();
                        quants.extend(elements.map(|k| block.quant(k) as i16));
                    })*
                }
            };
        }
        append!(
            F32 F16 Bf16 Q8_0 Int8 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS
        )
    }

    /// The integer of element `k`, its offset or zero-point subtracted.
    #[inline(always)]
    pub(crate) fn quant(&self, k: usize) -> i32 {
        // Bits `shift..` of byte `index`, of width `bits`.
        let bits = |index: usize, shift: usize, bits: u32| {
            i32::from(self.byte(index) >> shift) & ((1 << bits) - 1)
        };
        // The half of a superblock, the two-bit place in it and the byte of that place.
        let (half, place, byte) = (k / 128, k / 32 % 4, k % 32);
        match self.format {
            WeightFormat::F32 | WeightFormat::F16 | WeightFormat::Bf16 => {
                unreachable!("not an integer format")
            }
            WeightFormat::Q8_0 => i32::from((self.byte(k) ^ 0x80) as i8),
            WeightFormat::Int8 => i32::from((self.byte(k) ^ 0x80) as i8) - self.zero_point(),
            WeightFormat::Q4_0 => bits(k % 16, k / 16 * 4, 4) - 8,
            WeightFormat::Q4_1 => bits(k % 16, k / 16 * 4, 4),
            WeightFormat::IQ4_NL => code(bits(k % 16, k / 16 * 4, 4)),
            WeightFormat::IQ4_XS => code(bits(8 + k / 32 * 16 + k % 16, k / 16 % 2 * 4, 4)),
            WeightFormat::Q5_0 => self.five_bits(k) - 16,
            WeightFormat::Q5_1 => self.five_bits(k),
            WeightFormat::Q2_K => bits(16 + 32 * half + byte, 2 * place, 2),
            WeightFormat::Q3_K => {
                let high = bits(byte, 4 * half + place, 1);
                (bits(32 + 32 * half + byte, 2 * place, 2) | high << 2) - 4
            }
            WeightFormat::Q4_K => bits(16 + k / 64 * 32 + byte, k / 32 % 2 * 4, 4),
            WeightFormat::Q5_K => {
                let high = bits(16 + byte, k / 32, 1);
                bits(48 + k / 64 * 32 + byte, k / 32 % 2 * 4, 4) | high << 4
            }
            WeightFormat::Q6_K => {
                let low = bits(64 * half + k % 64, place / 2 * 4, 4);
                (low | bits(128 + 32 * half + byte, 2 * place, 2) << 4) - 32
            }
        }
    }

    #[inline(always)]
    fn five_bits(&self, k: usize) -> i32 {
        let nibble = i32::from(self.byte(4 + k % 16) >> (k / 16 * 4) & 15);
        nibble | i32::from(self.byte(k % 4) >> (k / 4) & 1) << 4
    }

    fn zero_point(&self) -> i32 {
        word_at(self.tile, 64 + self.lane * 4).cast_signed()
    }

    /// Elements that share an integer scale.
    pub(crate) fn sub_block_len(format: WeightFormat) -> usize {
        match format {
            WeightFormat::Q2_K | WeightFormat::Q3_K | WeightFormat::Q6_K => 16,
            _ => 32,
        }
    }

    /// The integer scale of sub-block `j`.
    pub(crate) fn sub_scale(&self, j: usize) -> i32 {
        match self.format {
            WeightFormat::Q2_K => i32::from(self.byte(j) & 15),
            WeightFormat::Q3_K => i32::from(self.byte(96 + j) as i8),
            WeightFormat::Q4_K | WeightFormat::Q5_K => i32::from(self.byte(j)),
            WeightFormat::Q6_K => i32::from(self.byte(192 + j) as i8),
            WeightFormat::IQ4_XS => i32::from(self.byte(j) as i8),
            _ => 1,
        }
    }

    /// The integer minimum of sub-block `j`, of the formats that have one.
    pub(crate) fn sub_minimum(&self, j: usize) -> Option<i32> {
        match self.format {
            WeightFormat::Q2_K => Some(i32::from(self.byte(j) >> 4)),
            WeightFormat::Q4_K | WeightFormat::Q5_K => Some(i32::from(self.byte(8 + j))),
            _ => None,
        }
    }

    /// Whether the chain adds the block's f16 minimum.
    pub(crate) fn has_minimum(format: WeightFormat) -> bool {
        matches!(format, WeightFormat::Q4_1 | WeightFormat::Q5_1)
    }

    /// The value of element `k`, every operation rounded.
    pub(crate) fn value(&self, k: usize) -> f32 {
        if self.format.block_len() == 1 {
            return self.float();
        }
        let j = k / Self::sub_block_len(self.format);
        let quant = self.quant(k) as f32;
        match self.format {
            format if Self::has_minimum(format) => self.scale() * quant + self.minimum(),
            WeightFormat::Q2_K
            | WeightFormat::Q3_K
            | WeightFormat::Q4_K
            | WeightFormat::Q5_K
            | WeightFormat::Q6_K
            | WeightFormat::IQ4_XS => {
                let value = (self.scale() * self.sub_scale(j) as f32) * quant;
                match self.sub_minimum(j) {
                    Some(minimum) => value - self.minimum() * minimum as f32,
                    None => value,
                }
            }
            _ => self.scale() * quant,
        }
    }
}

/// What a nibble stands for.
#[inline(always)]
fn code(nibble: i32) -> i32 {
    i32::from(CODES[nibble as usize & 15])
}

fn word_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}

/// Row `lane` of a tile as f32, NaNs canonical.
pub(super) fn read_row(format: WeightFormat, tile: &[u8], lane: usize, out: &mut [f32]) {
    let block_len = format.block_len();
    let blocks = out.len() / block_len;
    for (index, values) in out.chunks_exact_mut(block_len).enumerate() {
        let block = Block::new(format, tile, blocks, index, lane);
        for (k, value) in values.iter_mut().enumerate() {
            *value = canonical(block.value(k));
        }
    }
}
