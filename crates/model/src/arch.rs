//! Architectures: one file each, and the list of them.
mod llama;

use crate::{
    gguf::Gguf,
    graph::{Graph, GraphError},
};

type Build = fn(&Gguf<'_>) -> Result<Graph, GraphError>;

/// By `general.architecture`.
const KNOWN: &[(&str, Build)] = &[("llama", llama::graph)];

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
