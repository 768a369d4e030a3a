//! Adapters in GGUF files, as llama.cpp has them: `NAME.lora_a` and `NAME.lora_b` for a tensor `NAME`.
use super::{Adapter, AdapterError, BASE_DIGEST, Factor, Parts, values};
use crate::{
    digest::Digest,
    gguf::{Gguf, NewTensor, TensorType, Value, Writer},
    model::Model,
};
use lockstep_numeric::{LowRank, WeightFormat, convert::f32_to_f16};
use std::{collections::BTreeMap, io};

const TYPE: &str = "general.type";
const ADAPTER_TYPE: &str = "adapter.type";
const ARCHITECTURE: &str = "general.architecture";
const ALPHA: &str = "adapter.lora.alpha";
const PARTS: [&str; 2] = [".lora_a", ".lora_b"];

pub(super) fn read(file: &Gguf<'_>, model: &Model) -> Result<Parts, AdapterError> {
    for (key, wanted) in [(TYPE, "adapter"), (ADAPTER_TYPE, "lora")] {
        let found = file.text(key)?;
        if found != wanted {
            let found = found.to_owned();
            return Err(AdapterError::Kind { key, wanted, found });
        }
    }
    let architecture = file.text(ARCHITECTURE)?;
    if architecture != model.architecture() {
        return Err(AdapterError::Architecture {
            wanted: architecture.to_owned(),
            found: model.architecture().to_owned(),
        });
    }
    let base = match file.metadata().contains_key(BASE_DIGEST) {
        true => {
            let text = file.text(BASE_DIGEST)?;
            let invalid = |_| AdapterError::InvalidBase {
                text: text.to_owned(),
            };
            Some(text.parse::<Digest>().map_err(invalid)?)
        }
        false => None,
    };
    let mut factors = BTreeMap::new();
    for (name, info) in file.tensors() {
        let part = |part: usize| Some((part, name.strip_suffix(PARTS[part])?));
        let Some((part, tensor)) = part(0).or_else(|| part(1)) else {
            let tensor = name.clone();
            return Err(AdapterError::UnknownPart { tensor });
        };
        let shape = (info.rows, info.columns);
        let factor = Factor {
            rows: info.rows,
            columns: info.columns,
            values: values(name, info.tensor_type, shape, file.tensor_bytes(name)?)?,
        };
        let pair: &mut [Option<Factor>; 2] = factors.entry(tensor.to_owned()).or_default();
        pair[part] = Some(factor);
    }
    Ok(Parts {
        alpha: file.float(ALPHA)?,
        base,
        factors,
    })
}

pub(super) fn write(adapter: &Adapter, out: &mut impl io::Write) -> io::Result<()> {
    let text = |text: &str| Value::String(text.to_owned());
    let metadata = [
        (TYPE, text("adapter")),
        (ARCHITECTURE, text(&adapter.architecture)),
        (ADAPTER_TYPE, text("lora")),
        (ALPHA, Value::F32(adapter.alpha)),
        (BASE_DIGEST, text(&adapter.base.to_string())),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
    let (mut tensors, mut factors) = (Vec::new(), Vec::new());
    for (name, pair) in adapter.tensors() {
        let rank = pair.rank();
        let dimensions = [[pair.inputs(), rank], [rank, pair.outputs()]];
        for (part, dimensions) in PARTS.iter().zip(dimensions) {
            tensors.push(NewTensor {
                name: format!("{name}{part}"),
                dimensions: dimensions.map(|size| size as u64).to_vec(),
                tensor_type: match pair.format() {
                    WeightFormat::F16 => TensorType::F16,
                    _ => TensorType::F32,
                },
            });
            factors.push(pair);
        }
    }
    Writer::new(&metadata, &tensors).write(out, |index, bytes| {
        put(factors[index], index % 2, bytes);
        Ok(())
    })
}

/// Appends the bytes of A or B.
fn put(pair: &LowRank, part: usize, bytes: &mut Vec<u8>) {
    let values = match part {
        0 => pair.a(),
        _ => pair.b(),
    };
    match pair.format() {
        WeightFormat::F16 => {
            bytes.extend(values.iter().flat_map(|v| f32_to_f16(*v).to_le_bytes()));
        }
        _ => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}
