//! The types of numbers that are read from safetensors files.
use crate::gguf::TensorType;
use lockstep_numeric::convert::{bf16_to_f32, f16_to_f32};
use safetensors::Dtype;

/// A type of numbers, each of which is an f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    /// The type as the file says it, if it is read.
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    /// The type of such numbers in a GGUF file.
    pub(crate) fn tensor_type(self) -> TensorType {
        match self {
            Self::F32 => TensorType::F32,
            Self::F16 => TensorType::F16,
            Self::Bf16 => TensorType::BF16,
        }
    }

    /// The numbers that these bytes are.
    pub(crate) fn values(self, bytes: &[u8]) -> Vec<f32> {
        let halves = |value: fn(u16) -> f32| {
            let (halves, _) = bytes.as_chunks::<2>();
            let values = halves.iter().map(|half| value(u16::from_le_bytes(*half)));
            values.collect()
        };
        match self {
            Self::F16 => halves(f16_to_f32),
            Self::Bf16 => halves(bf16_to_f32),
            Self::F32 => {
                let (words, _) = bytes.as_chunks::<4>();
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
        }
    }
}
