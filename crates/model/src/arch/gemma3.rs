//! The `gemma3` architecture (Gemma 3, text): five of six layers read a window of positions and are rotated by another base;
//! norms stand before and behind attention and feed-forward network, whose gate is a GELU; the embedding is scaled.
use super::{
    decoder::{AttentionStyle, Decoder, Gate, unsupported},
    names::Names,
};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError, Rope},
};
use lockstep_numeric::Pairs;
use std::num::NonZeroUsize;

pub(super) const NAME: &str = "gemma3";

pub(super) const TINY: Tiny = Tiny {
    head_dim: 32,
    head_norms: true,
    norms_behind: true,
    window: Some(12),
    attends: &[true; 7],
    ..Tiny::plain(NAME)
};

pub(super) const NAMES: Names = Names {
    layer: &[
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ],
    norms_less_one: true,
    ..Names::PLAIN
};

/// Every so many layers one reads all positions, unless the file has another number.
const PATTERN: usize = 6;
const PATTERN_KEY: &str = "gemma3.attention.sliding_window_pattern";
/// Base of the rotations of the others, unless the file has another.
const LOCAL_BASE: f32 = 10_000.0;
/// The largest one, which has so many layers, scales its queries by another number than the length of its heads.
const LAYERS_OF_OTHER_SCALE: usize = 62;

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let sizes = decoder.sizes();
    if sizes.layers == LAYERS_OF_OTHER_SCALE {
        return unsupported("queries scaled by another number than the length of heads");
    }
    let window = decoder.builder.size("gemma3.attention.sliding_window")?;
    let pattern = match file.metadata().contains_key(PATTERN_KEY) {
        true => decoder.builder.size(PATTERN_KEY)?,
        false => PATTERN,
    };
    let local = match file.metadata().contains_key("gemma3.rope.freq_base_swa") {
        true => decoder.builder.number("gemma3.rope.freq_base_swa", 1.0)?,
        false => LOCAL_BASE,
    };
    let local = Rope {
        base: local,
        stretch: 1.0,
        factors: None,
    };
    let ropes = vec![decoder.rope()?, local];
    decoder.scale_embedding((sizes.embedding as f32).sqrt());
    decoder.norms_behind = true;
    for layer in 0..sizes.layers {
        let is_local = (layer + 1) % pattern != 0;
        let style = AttentionStyle {
            head_norms: true,
            window: NonZeroUsize::new(window).filter(|_| is_local),
            rope: usize::from(is_local),
            ..AttentionStyle::plain(Pairs::Halves)
        };
        decoder.attention(layer, style)?;
        decoder.feed_forward(layer, Gate::Gelu)?;
    }
    decoder.finish("output_norm", ropes)
}
