//! The `qwen3` architecture (Qwen 3): as `qwen2`, with a norm for each head's query and key instead of biases.
use super::decoder::{AttentionStyle, Decoder, Gate};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "qwen3";

pub(super) const TINY: Tiny = Tiny {
    architecture: NAME,
    head_dim: 32,
    biases: false,
    head_norms: true,
    norms_behind: false,
    window: None,
    experts: None,
    attends: &[true; 2],
    output_norm: "output_norm",
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    decoder.refuse_window()?;
    let rope = decoder.rope()?;
    for layer in 0..decoder.sizes().layers {
        let style = AttentionStyle {
            head_norms: true,
            ..AttentionStyle::plain(Pairs::Halves)
        };
        decoder.attention(layer, style)?;
        decoder.feed_forward(layer, Gate::Silu)?;
    }
    decoder.finish("output_norm", vec![rope])
}
