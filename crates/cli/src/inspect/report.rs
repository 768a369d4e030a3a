//! What is found in a file.

use crate::error::chain;
use lockstep_model::{
    arch,
    file::Mapped,
    gguf::{Gguf, Value},
    template::Template,
    tokenizer::Tokenizer,
};
use lockstep_numeric::KvFormat;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) files: Vec<PathBuf>,
    pub(super) bytes: u64,
    pub(super) name: Option<String>,
    pub(super) architecture: Option<String>,
    pub(super) parameters: u64,
    pub(super) tensor_count: usize,
    /// Those that take most first.
    pub(super) formats: Vec<Format>,
    pub(super) tokenizer: String,
    pub(super) chat_template: bool,
    pub(super) context_length: Option<usize>,
    /// Unknown for what cannot be run.
    pub(super) memory: Option<Memory>,
    pub(super) runs: bool,
    /// Why it cannot be run.
    pub(super) reason: Option<String>,
    pub(super) metadata: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tensors: Option<Vec<Tensor>>,
}

/// How much is in a format.
#[derive(Debug, Serialize)]
pub(super) struct Format {
    pub(super) name: &'static str,
    pub(super) tensors: usize,
    pub(super) bytes: u64,
}

/// What it takes to run.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) weights: u64,
    pub(super) cache_per_1000_tokens: u64,
}

/// A tensor's entry.
#[derive(Debug, Serialize)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) format: &'static str,
    /// The contiguous one first.
    pub(super) dimensions: Vec<u64>,
    pub(super) bytes: u64,
}

impl Report {
    pub(super) fn of(gguf: &Gguf<'_>, mapped: &Mapped, tensors: bool) -> Self {
        let text = |key: &str| gguf.metadata().get(key).and_then(Value::as_str);
        let graph = arch::graph(gguf);
        let tokenizer = Tokenizer::from_metadata(gguf);
        let template = text("tokenizer.chat_template");
        let template_error = template.and_then(|source| Template::new(source.to_owned()).err());
        let reason = match (&graph, &tokenizer, template_error) {
            (Err(error), _, _) => Some(chain(error.clone())),
            (_, Err(error), _) => Some(error.to_string()),
            (_, _, Some(error)) => Some(chain(error)),
            (Ok(graph), Ok(tokenizer), None) if tokenizer.vocabulary() != graph.vocabulary => {
                Some(format!(
                    "tokenizer has {} tokens, but the model's embedding has {}",
                    tokenizer.vocabulary(),
                    graph.vocabulary
                ))
            }
            _ => None,
        };
        let architecture = text("general.architecture").map(str::to_owned);
        let named_context = architecture.as_ref().and_then(|architecture| {
            let key = format!("{architecture}.context_length");
            usize::try_from(gguf.unsigned(&key).ok()?).ok()
        });
        let elements = |dimensions: &[u64]| {
            dimensions
                .iter()
                .fold(1u64, |product, size| product.saturating_mul(*size))
        };
        Self {
            files: mapped.paths().map(Path::to_owned).collect(),
            bytes: mapped.bytes(),
            name: text("general.name").map(str::to_owned),
            architecture,
            parameters: gguf
                .tensors()
                .values()
                .map(|tensor| elements(&tensor.dimensions))
                .fold(0, u64::saturating_add),
            tensor_count: gguf.tensors().len(),
            formats: formats(gguf),
            tokenizer: tokenizer_of(gguf),
            chat_template: template.is_some(),
            context_length: match &graph {
                Ok(graph) => Some(graph.context_length),
                Err(_) => named_context,
            },
            memory: graph.as_ref().ok().map(|graph| Memory {
                weights: graph
                    .tensors
                    .iter()
                    .filter_map(|tensor| gguf.tensor(&tensor.name).ok())
                    .map(|tensor| tensor.range.len() as u64)
                    .sum(),
                // Positions lie in tiles: a thousand of those, divided, is what a thousand positions take.
                cache_per_1000_tokens: graph.cache_bytes(KvFormat::F16, 64_000) / 64,
            }),
            runs: reason.is_none(),
            reason,
            metadata: gguf
                .metadata()
                .iter()
                .map(|(key, value)| (key.clone(), json(value)))
                .collect(),
            tensors: tensors.then(|| list(gguf)),
        }
    }
}

fn formats(gguf: &Gguf<'_>) -> Vec<Format> {
    let mut formats: BTreeMap<&'static str, Format> = BTreeMap::new();
    for tensor in gguf.tensors().values() {
        let name = tensor.tensor_type.name();
        let format = formats.entry(name).or_insert(Format {
            name,
            tensors: 0,
            bytes: 0,
        });
        format.tensors += 1;
        format.bytes += tensor.range.len() as u64;
    }
    let mut formats: Vec<_> = formats.into_values().collect();
    formats.sort_by_key(|format| std::cmp::Reverse(format.bytes));
    formats
}

fn list(gguf: &Gguf<'_>) -> Vec<Tensor> {
    gguf.tensors()
        .iter()
        .map(|(name, tensor)| Tensor {
            name: name.clone(),
            format: tensor.tensor_type.name(),
            dimensions: tensor.dimensions.clone(),
            bytes: tensor.range.len() as u64,
        })
        .collect()
}

/// The tokenizer's kind and size.
fn tokenizer_of(gguf: &Gguf<'_>) -> String {
    let text = |key: &str| gguf.metadata().get(key).and_then(Value::as_str);
    let Some(model) = text("tokenizer.ggml.model") else {
        return "none".to_owned();
    };
    let kind = match text("tokenizer.ggml.pre") {
        Some(pre) => format!("{model} ({pre})"),
        None => model.to_owned(),
    };
    let tokens = gguf.array("tokenizer.ggml.tokens").map_or(0, <[_]>::len);
    format!("{}, {tokens} tokens", kind.escape_debug())
}

/// A value; of an array of more than a few, how many.
fn json(value: &Value) -> serde_json::Value {
    const SHOWN_MAX: usize = 8;
    match value {
        Value::U8(number) => (*number).into(),
        Value::I8(number) => (*number).into(),
        Value::U16(number) => (*number).into(),
        Value::I16(number) => (*number).into(),
        Value::U32(number) => (*number).into(),
        Value::I32(number) => (*number).into(),
        Value::F32(number) => (*number).into(),
        Value::Bool(truth) => (*truth).into(),
        Value::String(text) => text.as_str().into(),
        Value::Array(values) if values.len() > SHOWN_MAX => {
            format!("{} values", values.len()).into()
        }
        Value::Array(values) => values.iter().map(json).collect::<Vec<_>>().into(),
        Value::U64(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        Value::F64(number) => (*number).into(),
    }
}
