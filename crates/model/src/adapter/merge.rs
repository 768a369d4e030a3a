//! Writes a base with an adapter added to its weights.
use super::{Adapter, AdapterError, values};
use crate::{
    digest::Digest,
    gguf::{Gguf, GgufError, NewTensor, TensorInfo, TensorType, Value, Writer},
};
use lockstep_numeric::{
    LowRank,
    convert::{f32_to_bf16, f32_to_f16},
};
use std::io;

/// Why a base and an adapter cannot be merged.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MergeError {
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    #[error("merged weights cannot be written as {found} (possible: F32, F16, BF16)")]
    Format { found: TensorType },
    #[error("merged weights are not finite as {tensor_type}: {tensor}")]
    NotFinite {
        tensor: String,
        tensor_type: TensorType,
    },
    #[error("cannot write the merged model")]
    Write(#[from] io::Error),
}

/// Writes the base, of whose file or files `parts` are the bytes, with each changed matrix W replaced by
/// W + (scale * u), u = B A, `sequential` over the rank in f32, every operation rounded.
///
/// Changed matrices are of type `format`, if given; otherwise of the base's type if it is F32, F16 or BF16, else F16.
/// The metadata are the base's, with the digests of both under `lockstep.merged.base` and `lockstep.merged.adapter`; a base
/// of several files becomes one.
///
/// # Errors
/// When the parts are not the adapter's base, `format` is none of those three, a value has no place in its type, or
/// writing fails.
pub fn merge(
    parts: &[&[u8]],
    adapter: &Adapter,
    format: Option<TensorType>,
    out: &mut impl io::Write,
) -> Result<(), MergeError> {
    let given = Digest::of_parts(parts);
    if given != adapter.base() {
        let named = adapter.base();
        return Err(AdapterError::OtherBase { named, given }.into());
    }
    if let Some(found) = format.filter(|format| !is_float(*format)) {
        return Err(MergeError::Format { found });
    }
    let base = Gguf::parse_parts(parts)?;
    let text = |digest: Digest| Value::String(digest.to_string());
    let mut metadata: Vec<(String, Value)> = base
        .metadata()
        .iter()
        .filter(|(key, _)| !key.starts_with("split."))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (key, digest) in [("base", adapter.base()), ("adapter", adapter.digest())] {
        let key = format!("lockstep.merged.{key}");
        metadata.retain(|(known, _)| *known != key);
        metadata.push((key, text(digest)));
    }
    let changed = |name: &str| {
        let id = adapter.names.get(name);
        id.and_then(|id| adapter.factors(*id))
    };
    let names: Vec<&String> = base.tensors().keys().collect();
    let tensors: Vec<NewTensor> = base
        .tensors()
        .iter()
        .map(|(name, info)| NewTensor {
            name: name.clone(),
            dimensions: info.dimensions.clone(),
            tensor_type: match (changed(name), format) {
                (None, _) => info.tensor_type,
                (Some(_), Some(format)) => format,
                (Some(_), None) if is_float(info.tensor_type) => info.tensor_type,
                (Some(_), None) => TensorType::F16,
            },
        })
        .collect();
    Writer::new(&metadata, &tensors).write(out, |index, bytes| {
        let (name, info) = (names[index], base.tensor(names[index])?);
        let stored = base.tensor_bytes(name)?;
        match changed(name) {
            None => bytes.extend_from_slice(stored),
            Some(factors) => {
                let tensor_type = tensors[index].tensor_type;
                let whole = put(&added(name, info, stored, factors)?, tensor_type, bytes);
                if !whole {
                    let tensor = name.clone();
                    return Err(MergeError::NotFinite {
                        tensor,
                        tensor_type,
                    });
                }
            }
        }
        Ok(())
    })
}

fn is_float(tensor_type: TensorType) -> bool {
    [TensorType::F32, TensorType::F16, TensorType::BF16].contains(&tensor_type)
}

/// A matrix with the product of the factors added.
fn added(
    name: &str,
    info: &TensorInfo,
    stored: &[u8],
    factors: &LowRank,
) -> Result<Vec<f32>, AdapterError> {
    let shape = (info.rows, info.columns);
    let mut weights = values(name, info.tensor_type, shape, stored)?;
    let (a, b, rank) = (factors.a(), factors.b(), factors.rank());
    let mut sums = vec![0.0f32; info.columns];
    let rows = weights.chunks_exact_mut(info.columns);
    for (weights, b) in rows.zip(b.chunks_exact(rank)) {
        sums.fill(0.0);
        for (b, a) in b.iter().zip(a.chunks_exact(info.columns)) {
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum += b * a;
            }
        }
        for (weight, sum) in weights.iter_mut().zip(&sums) {
            *weight += factors.scale() * sum;
        }
    }
    Ok(weights)
}

/// Appends the values as a type of floats; says no when one is not finite in it.
fn put(values: &[f32], tensor_type: TensorType, bytes: &mut Vec<u8>) -> bool {
    const HALF_INFINITY: u16 = 0x7c00;
    const BF16_INFINITY: u16 = 0x7f80;
    let mut whole = true;
    for value in values {
        match tensor_type {
            TensorType::F32 => {
                whole &= value.is_finite();
                bytes.extend(value.to_le_bytes());
            }
            TensorType::F16 => {
                let half = f32_to_f16(*value);
                whole &= half & HALF_INFINITY != HALF_INFINITY;
                bytes.extend(half.to_le_bytes());
            }
            _ => {
                let half = f32_to_bf16(*value);
                whole &= half & BF16_INFINITY != BF16_INFINITY;
                bytes.extend(half.to_le_bytes());
            }
        }
    }
    whole
}
