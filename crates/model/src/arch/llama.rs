//! The `llama` architecture (Llama, SmolLM2, Mistral, and others that are stored as it): grouped-query attention with
//! interleaved rotary pairs, and a SwiGLU feed-forward network.
use super::decoder::{AttentionStyle, Decoder, Gate};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "llama";

pub(super) const TINY: Tiny = Tiny {
    architecture: NAME,
    head_dim: 16,
    biases: false,
    head_norms: false,
    norms_behind: false,
    window: None,
    experts: None,
    attends: &[true; 2],
    output_norm: "output_norm",
};

/// Llama 3.1 and later stretch the slower rotations: a factor for each pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    decoder.refuse_window()?;
    let mut rope = decoder.rope()?;
    for layer in 0..decoder.sizes().layers {
        decoder.attention(layer, AttentionStyle::plain(Pairs::Interleaved))?;
        decoder.feed_forward(layer, Gate::Silu)?;
    }
    if file.tensors().contains_key(ROPE_FACTORS) {
        let pairs = decoder.sizes().head_dim / 2;
        rope.factors = Some(decoder.builder.vector(ROPE_FACTORS, pairs)?);
    }
    decoder.finish("output_norm", vec![rope])
}
