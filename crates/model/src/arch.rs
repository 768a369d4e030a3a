//! Architectures: one file each, and the list of them.
mod decoder;
mod gemma3;
mod lfm2;
mod lfm2moe;
mod llama;
pub mod names;
pub(crate) mod origin;
mod qwen2;
mod qwen3;

use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};

type Build = fn(&Gguf<'_>) -> Result<Graph, GraphError>;

/// By `general.architecture`.
const KNOWN: &[(&str, Build)] = &[
    (llama::NAME, llama::graph),
    (qwen2::NAME, qwen2::graph),
    (qwen3::NAME, qwen3::graph),
    (gemma3::NAME, gemma3::graph),
    (lfm2::NAME, lfm2::graph),
    (lfm2moe::NAME, lfm2moe::graph),
];

/// Small files of each, for tests; the first is a `llama`.
pub const TINY: &[Tiny] = &[
    llama::TINY,
    qwen2::TINY,
    qwen3::TINY,
    gemma3::TINY,
    lfm2::TINY,
    lfm2moe::TINY,
];

/// Builds the graph of a model file.
///
/// # Errors
/// When the architecture is unknown or the file does not fit it.
pub fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let name = file.text("general.architecture")?;
    match KNOWN.iter().find(|(known, _)| *known == name) {
        Some((_, build)) => build(file),
        None => Err(GraphError::UnsupportedArchitecture {
            name: name.to_owned(),
            known: KNOWN
                .iter()
                .map(|(known, _)| *known)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

#[cfg(test)]
mod tests;
