//! The `qwen2` architecture (Qwen 2 and 2.5): as `llama`, but queries, keys and values have biases, and heads are rotated
//! by halves.
use super::decoder::{AttentionStyle, Decoder};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "qwen2";

pub(super) const TINY: Tiny = Tiny {
    biases: true,
    ..Tiny::plain(NAME)
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let rope = decoder.rope()?;
    decoder.layers(AttentionStyle {
        biases: true,
        ..AttentionStyle::plain(Pairs::Halves)
    })?;
    decoder.finish("output_norm", vec![rope])
}
