//! The `qwen2` architecture (Qwen 2 and 2.5): as `llama`, but queries, keys and values have biases, and heads are rotated
//! by halves.
use super::decoder::{AttentionStyle, Decoder, Gate};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "qwen2";

pub(super) const TINY: Tiny = Tiny {
    architecture: NAME,
    head_dim: 16,
    biases: true,
    head_norms: false,
    norms_behind: false,
    window: None,
    experts: None,
    attends: &[true; 2],
    output_norm: "output_norm",
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let rope = decoder.rope()?;
    for layer in 0..decoder.sizes().layers {
        let style = AttentionStyle {
            biases: true,
            ..AttentionStyle::plain(Pairs::Halves)
        };
        decoder.attention(layer, style)?;
        decoder.feed_forward(layer, Gate::Silu)?;
    }
    decoder.finish("output_norm", vec![rope])
}
