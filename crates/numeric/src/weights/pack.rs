//! From stored blocks to the words of a packed block.
//!
//! # Design
//! Quants keep their stored order of bits where it suits vectors. Three things are rearranged: signed bytes are stored
//! with their top bit flipped, so that they are unsigned; the high bits of Q5_0 and Q5_1 are spread so that bit g of
//! byte b belongs to element 4g + b; the six-bit scales of Q3_K, Q4_K and Q5_K become bytes.

use super::WeightFormat;

/// Writes the packed words of one stored block.
pub(crate) fn pack_block(format: WeightFormat, block: &[u8], words: &mut [u32]) {
    match format {
        WeightFormat::F32 => copy(block, words),
        WeightFormat::F16 | WeightFormat::Bf16 => {}
        WeightFormat::Q8_0 => copy_flipped(&block[2..], words),
        WeightFormat::Int8 => copy_flipped(block, words),
        WeightFormat::Q4_0 => copy(&block[2..], words),
        WeightFormat::Q4_1 => copy(&block[4..], words),
        WeightFormat::Q5_0 => pack_five_bits(&block[2..], words),
        WeightFormat::Q5_1 => pack_five_bits(&block[4..], words),
        WeightFormat::Q2_K => copy(&block[..80], words),
        WeightFormat::Q3_K => {
            copy(&block[..96], &mut words[..24]);
            let scales: [u8; 16] =
                std::array::from_fn(|j| q3_k_scale(&block[96..108], j).cast_unsigned());
            copy(&scales, &mut words[24..]);
        }
        WeightFormat::Q4_K | WeightFormat::Q5_K => {
            let scales: [u8; 16] = std::array::from_fn(|j| {
                let (scale, minimum) = q4_k_scale(&block[4..16], j % 8);
                if j < 8 { scale } else { minimum }
            });
            copy(&scales, &mut words[..4]);
            copy(&block[16..], &mut words[4..]);
        }
        WeightFormat::Q6_K => copy(&block[..208], words),
    }
}

fn copy(bytes: &[u8], words: &mut [u32]) {
    debug_assert_eq!(bytes.len(), words.len() * 4);
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
}

fn copy_flipped(bytes: &[u8], words: &mut [u32]) {
    copy(bytes, words);
    for word in words {
        *word ^= 0x8080_8080;
    }
}

/// The four bytes of high bits, spread, and then the nibbles.
fn pack_five_bits(bytes: &[u8], words: &mut [u32]) {
    copy(bytes, words);
    let high = words[0];
    words[0] = (0..32).fold(0, |spread, k| {
        spread | (high >> k & 1) << (8 * (k % 4) + k / 4)
    });
}

/// Scale j of 16, from -32 to 31: four low bits, and two high bits further on.
fn q3_k_scale(bytes: &[u8], j: usize) -> i8 {
    let low = bytes[j % 8] >> (4 * (j / 8)) & 15;
    let high = bytes[8 + j % 4] >> (2 * (j / 4)) & 3;
    (low | high << 4) as i8 - 32
}

/// Scale and minimum j of 8, six bits each.
fn q4_k_scale(bytes: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[j + 4] & 63)
    } else {
        (
            bytes[j + 4] & 15 | bytes[j - 4] >> 6 << 4,
            bytes[j + 4] >> 4 | bytes[j] >> 6 << 4,
        )
    }
}
