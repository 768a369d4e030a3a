//! Adapters as PEFT writes them: a configuration in JSON and the factors as safetensors.
//!
//! A scale of alpha / sqrt(rank) (rank-stabilised LoRA) becomes an alpha of alpha * sqrt(rank), rounded once.
use super::{AdapterError, Factor, Parts};
use crate::{
    arch::names::{self, Place, Stored},
    element::Element,
    model::Model,
};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is read of a configuration; anything else in it says how it was trained.
#[derive(Deserialize)]
struct Config {
    peft_type: String,
    r: u64,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(default)]
    init_lora_weights: Value,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Settings that change what is computed, and are computed nowhere here; absent, or one of these values, they do nothing.
const UNUSED: &[&str] = &[
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

/// Ways of beginning that change the base as well.
const CHANGE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

pub(super) fn read(config: &[u8], tensors: &[u8], model: &Model) -> Result<Parts, AdapterError> {
    let config: Config =
        serde_json::from_slice(config).map_err(|error| AdapterError::Configuration {
            reason: error.to_string(),
        })?;
    check(&config)?;
    let tensors = SafeTensors::deserialize(tensors).map_err(|error| AdapterError::Tensors {
        reason: error.to_string(),
    })?;
    let mut factors = BTreeMap::new();
    // Sorted, so that the first thing found wrong is the same each time.
    let by_name: BTreeMap<_, _> = tensors.iter().collect();
    for (name, view) in by_name {
        let (part, place) = place(name, model)?;
        let (factor, rank) = factor(name, &view, part)?;
        if rank as u64 != config.r {
            return Err(AdapterError::WrongShape {
                tensor: name.to_owned(),
                wanted: format!("rank {}", config.r),
                found: format!("rank {rank}"),
            });
        }
        let factor = match place.stored {
            Stored::Interleaved if part == 1 => interleaved(name, factor, model)?,
            _ => factor,
        };
        let pair: &mut [Option<Factor>; 2] = factors.entry(place.tensor).or_default();
        if pair[part].replace(factor).is_some() {
            let reason = format!("two of them are the same one: {name}");
            return Err(AdapterError::Tensors { reason });
        }
    }
    let alpha = config.lora_alpha as f32;
    let alpha = match config.use_rslora {
        true => alpha * (config.r as f32).sqrt(),
        false => alpha,
    };
    // 0 would stand for a scale of 1.
    if alpha == 0.0 || !alpha.is_finite() {
        let alpha = config.lora_alpha;
        return Err(AdapterError::Alpha { alpha });
    }
    Ok(Parts {
        alpha,
        base: None,
        factors,
    })
}

fn check(config: &Config) -> Result<(), AdapterError> {
    let unsupported = |feature: String| Err(AdapterError::Unsupported { feature });
    if config.peft_type != "LORA" {
        return Err(AdapterError::Kind {
            key: "peft_type",
            wanted: "LORA",
            found: config.peft_type.clone(),
        });
    }
    for key in UNUSED {
        let is_used = match config.others.get(*key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Array(values)) => !values.is_empty(),
            Some(Value::Object(values)) => !values.is_empty(),
            Some(_) => true,
        };
        if is_used {
            return unsupported((*key).to_owned());
        }
    }
    if let Some(bias) = config.bias.as_deref().filter(|bias| *bias != "none") {
        return unsupported(format!("bias = {bias}"));
    }
    if let Some(way) = config.init_lora_weights.as_str() {
        let way = way.to_ascii_lowercase();
        if CHANGE_BASE.iter().any(|known| way.starts_with(known)) {
            return unsupported(format!("init_lora_weights = {way}"));
        }
    }
    Ok(())
}

/// Whether a tensor is A or B, and of what.
fn place(name: &str, model: &Model) -> Result<(usize, Place), AdapterError> {
    let tensor = || name.to_owned();
    let module = name.strip_prefix("base_model.model.").unwrap_or(name);
    let part = |part: usize, suffix: &str| Some((part, module.strip_suffix(suffix)?));
    let found = part(0, ".lora_A.weight")
        .or_else(|| part(1, ".lora_B.weight"))
        .or_else(|| part(0, ".lora_A.default.weight"))
        .or_else(|| part(1, ".lora_B.default.weight"));
    if name.contains(".lora_embedding_") {
        return Err(AdapterError::Target {
            what: "the embedding",
            tensor: tensor(),
        });
    }
    let (part, module) = found.ok_or_else(|| AdapterError::UnknownPart { tensor: tensor() })?;
    let place = names::place(model.architecture(), &format!("{module}.weight"))
        .ok_or_else(|| AdapterError::UnknownTarget { tensor: tensor() })?;
    match place.expert {
        Some(_) => Err(AdapterError::Target {
            what: "experts",
            tensor: tensor(),
        }),
        None => Ok((part, place)),
    }
}

/// Reads a factor, and what its rank is.
fn factor(
    name: &str,
    view: &safetensors::tensor::TensorView<'_>,
    part: usize,
) -> Result<(Factor, usize), AdapterError> {
    let tensor = || name.to_owned();
    let &[rows, columns] = view.shape() else {
        return Err(AdapterError::WrongShape {
            tensor: tensor(),
            wanted: "2 dimensions".to_owned(),
            found: format!("{}", view.shape().len()),
        });
    };
    let Some(element) = Element::of(view.dtype()) else {
        return Err(AdapterError::UnsupportedType {
            tensor: tensor(),
            found: format!("{:?}", view.dtype()),
        });
    };
    let factor = Factor {
        rows,
        columns,
        values: element.values(view.data()),
    };
    Ok((factor, [rows, columns][part]))
}

/// B with the rows of each head in the order in which the base has them.
fn interleaved(name: &str, factor: Factor, model: &Model) -> Result<Factor, AdapterError> {
    let head_dim = model.graph().attention.head_dim;
    if !factor.rows.is_multiple_of(head_dim) {
        return Err(AdapterError::WrongShape {
            tensor: name.to_owned(),
            wanted: format!("whole heads of {head_dim} rows"),
            found: format!("{} rows", factor.rows),
        });
    }
    let columns = factor.columns;
    let rows = (0..factor.rows).map(|row| names::interleaved(row, head_dim));
    let rows = rows.flat_map(|row| &factor.values[row * columns..(row + 1) * columns]);
    Ok(Factor {
        values: rows.copied().collect(),
        ..factor
    })
}
