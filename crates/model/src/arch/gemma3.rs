//! The `gemma3` architecture (Gemma 3, text): five of six layers read a window of positions and are rotated by another base;
//! norms stand before and behind attention and feed-forward network, whose gate is a GELU; the embedding is scaled.
use super::origin::{self, Defaults, Description, Origin};
use super::{
    decoder::{AttentionStyle, Decoder, Gate, unsupported},
    names::Names,
};
use crate::{
    checkpoint::{CheckpointError, Config, unsupported as unsupported_setting},
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError, Rope},
};
use lockstep_numeric::Pairs;
use serde_json::json;
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

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &["gemma3_text", "gemma3"],
    describe: |config| {
        // Those that see have the settings of the text's part in an object, and tensors besides.
        let Some(text) = config.inner("text_config")? else {
            return describe(config);
        };
        let mut description = describe(&text)?;
        description.besides = &[
            "vision_tower.",
            "multi_modal_projector.",
            "model.vision_tower.",
            "model.multi_modal_projector.",
        ];
        Ok(description)
    },
};

/// Settings that are not there have the values that the first of these models had.
fn describe(config: &Config<'_>) -> Result<Description, CheckpointError> {
    let defaults = Defaults {
        vocabulary: Some(262_208),
        heads: Some(8),
        kv_heads: Some(4),
        context: Some(131_072),
        head_dim: Some(256),
        rope_base: 1e6,
        epsilon: ("rms_norm_eps", Some(1e-6)),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        tied: true,
        ..Defaults::PLAIN
    };
    let mut description = origin::common(config, NAME, &defaults)?;
    let scalar = config.number("query_pre_attn_scalar", Some(256.0))?;
    if scalar != description.head_dim as f64 {
        return Err(unsupported_setting(format!(
            "queries scaled by another number than the length of heads: query_pre_attn_scalar = {scalar}"
        )));
    }
    for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
        config.only(cap, &json!(null))?;
    }
    config.only("use_bidirectional_attention", &json!(false))?;
    description.set_size(
        "attention.sliding_window",
        config.size("sliding_window", Some(4096))?,
    );
    let pattern = match origin::layer_types(config, description.layers)? {
        None => config.size("sliding_window_pattern", Some(PATTERN))?,
        Some(types) => pattern(&types)?,
    };
    if pattern != PATTERN {
        description.set_size("attention.sliding_window_pattern", pattern);
    }
    let both = config.inner("rope_parameters")?;
    let of = |part: &str| {
        both.map(|both| both.inner(part))
            .transpose()
            .map(Option::flatten)
    };
    let (global, local) = (of("full_attention")?, of("sliding_attention")?);
    description.rope(config, global, defaults.rope_base)?;
    let mut local_base = config.number("rope_local_base_freq", Some(f64::from(LOCAL_BASE)))?;
    if let Some(local) = local {
        local_base = local.number("rope_theta", Some(local_base))?;
        local.only("rope_type", &json!("default"))?;
    }
    if local_base != f64::from(LOCAL_BASE) {
        description.set_number("rope.freq_base_swa", local_base);
    }
    Ok(description)
}

/// Every how many layers one reads all positions.
fn pattern(types: &[&str]) -> Result<usize, CheckpointError> {
    let reads_all = |name: &&str| *name == "full_attention";
    let pattern = 1 + types.iter().position(reads_all).unwrap_or(types.len());
    let fits = types
        .iter()
        .enumerate()
        .all(|(layer, name)| match (layer + 1) % pattern {
            0 => *name == "full_attention",
            _ => *name == "sliding_attention",
        });
    match fits {
        true => Ok(pattern),
        false => Err(unsupported_setting(
            "windows of attention in no regular order: layer_types".to_owned(),
        )),
    }
}

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
