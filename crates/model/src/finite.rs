//! Refuses weights that are no numbers.
//!
//! # Complexity
//! Reads what blocks are scaled by, and every value that is stored as a float: 2 to 4 of 18 to 34 bytes of most formats.
use crate::{
    gguf::{Gguf, TensorType},
    graph::Tensor,
    model::ModelError,
};

/// The exponents of all ones, of infinities and what is no number.
const F32: u32 = 0x7f80_0000;
const BF16: u16 = 0x7f80;
const F16: u16 = 0x7c00;

/// # Errors
/// When a value of a tensor, or what a block of its values is scaled by, is infinite or no number.
pub(crate) fn check(gguf: &Gguf<'_>, tensors: &[Tensor]) -> Result<(), ModelError> {
    for tensor in tensors {
        let stored = gguf.tensor(&tensor.name)?.tensor_type;
        let bytes = gguf.tensor_bytes(&tensor.name)?;
        if let Some(index) = first(stored, bytes) {
            return Err(ModelError::NotFinite {
                tensor: tensor.name.clone(),
                index,
            });
        }
    }
    Ok(())
}

/// The first value or block that is no number.
fn first(stored: TensorType, bytes: &[u8]) -> Option<usize> {
    match stored.name() {
        "F32" => {
            let (words, _) = bytes.as_chunks::<4>();
            let mut words = words.iter();
            words.position(|word| u32::from_le_bytes(*word) & F32 == F32)
        }
        "F16" => halves(bytes).position(|half| half & F16 == F16),
        "BF16" => halves(bytes).position(|half| half & BF16 == BF16),
        name => {
            let places = scales(name);
            let block_bytes = stored.bytes(stored.block_len())? as usize;
            let mut blocks = bytes.chunks_exact(block_bytes);
            blocks.position(|block| {
                let scale = |place: &usize| u16::from_le_bytes([block[*place], block[place + 1]]);
                places.iter().any(|place| scale(place) & F16 == F16)
            })
        }
    }
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    let (halves, _) = bytes.as_chunks::<2>();
    halves.iter().map(|half| u16::from_le_bytes(*half))
}

/// Where in a block the numbers of 16 bits are that its values are scaled by and offset by.
fn scales(name: &str) -> &'static [usize] {
    match name {
        "Q4_0" | "Q5_0" | "Q8_0" | "IQ4_NL" | "IQ4_XS" => &[0],
        "Q4_1" | "Q5_1" | "Q4_K" | "Q5_K" => &[0, 2],
        "Q2_K" => &[80, 82],
        "Q3_K" => &[108],
        "Q6_K" => &[208],
        // The graph accepts no others.
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Model, fixture, graph::weight_format};
    use lockstep_numeric::WeightFormat;

    #[test]
    fn what_is_no_number_is_found_in_every_format() {
        let stored = WeightFormat::ALL.map(|format| (format, TensorType::named(format.name())));
        let mut count = 0;
        for (format, stored) in stored {
            // Some formats are not for files.
            let Some(stored) = stored else { continue };
            count += 1;
            assert_eq!(weight_format(stored), Some(format));
            let block = stored.bytes(stored.block_len()).unwrap() as usize;
            let bytes = vec![0x11; 3 * block];
            assert_eq!(first(stored, &bytes), None, "{stored}");
            let (width, places) = match stored.name() {
                "F32" => (4, vec![0]),
                "F16" | "BF16" => (2, vec![0]),
                name => (2, scales(name).to_vec()),
            };
            assert!(!places.is_empty(), "{stored}");
            for place in places {
                let mut bytes = bytes.clone();
                bytes[2 * block + place..][..width].fill(0xff);
                assert_eq!(first(stored, &bytes), Some(2), "{stored}");
            }
        }
        assert_eq!(count, 15);
    }

    #[test]
    fn models_with_weights_that_are_no_numbers_are_refused() {
        let file = fixture::tiny_llama(1).build();
        let gguf = Gguf::parse(&file).unwrap();
        for (tensor, place, bytes, index) in [
            ("blk.1.attn_v.weight", 34, [0, 0x7e].as_slice(), 1),
            ("blk.0.attn_q.weight", 2, &[0, 0xfc], 0),
            ("blk.0.attn_norm.weight", 8, &[0, 0, 0x80, 0x7f], 2),
        ] {
            let mut changed = file.clone();
            let start = gguf.tensors()[tensor].range.start + place;
            changed[start..][..bytes.len()].copy_from_slice(bytes);
            assert_eq!(
                Model::from_bytes(&changed).unwrap_err().to_string(),
                format!(
                    "tensor has a value or a scale that is no number, number {index}: {tensor}"
                )
            );
        }
    }
}
