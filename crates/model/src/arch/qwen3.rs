//! The `qwen3` architecture (Qwen 3): as `qwen2`, with a norm for each head's query and key instead of biases.
use super::decoder::{AttentionStyle, Decoder};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "qwen3";

pub(super) const TINY: Tiny = Tiny {
    head_dim: 32,
    head_norms: true,
    ..Tiny::plain(NAME)
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let rope = decoder.rope()?;
    decoder.layers(AttentionStyle {
        head_norms: true,
        ..AttentionStyle::plain(Pairs::Halves)
    })?;
    decoder.finish("output_norm", vec![rope])
}
