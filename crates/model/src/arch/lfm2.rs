//! The `lfm2` architecture (Liquid AI's LFM2): most layers have a gated short convolution in place of attention; the
//! others attend as `qwen3` does.
use super::origin::{self, Defaults, Description, Origin};
use super::{
    decoder::{AttentionStyle, Decoder, Gate},
    names::Names,
};
use crate::{
    checkpoint::{CheckpointError, Config},
    fixture::Tiny,
    gguf::{Gguf, Value},
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;
use serde_json::json;

pub(super) const NAME: &str = "lfm2";

pub(super) const TINY: Tiny = Tiny {
    head_norms: true,
    attends: &[false, false, true, false],
    output_norm: OUTPUT_NORM,
    ..Tiny::plain(NAME)
};

pub(super) const NAMES: Names = Names {
    layer: &[
        ("operator_norm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.out_proj", "attn_output"),
        ("self_attn.q_layernorm", "attn_q_norm"),
        ("self_attn.k_layernorm", "attn_k_norm"),
        ("conv.in_proj", "shortconv.in_proj"),
        ("conv.conv", "shortconv.conv"),
        ("conv.out_proj", "shortconv.out_proj"),
        ("ffn_norm", "ffn_norm"),
        ("feed_forward.w1", "ffn_gate"),
        ("feed_forward.w3", "ffn_up"),
        ("feed_forward.w2", "ffn_down"),
        // Of layers with experts.
        ("feed_forward.gate", "ffn_gate_inp"),
        ("feed_forward.expert_bias", "exp_probs_b.bias"),
        ("feed_forward.experts.{}.w1", "ffn_gate_exps"),
        ("feed_forward.experts.{}.w3", "ffn_up_exps"),
        ("feed_forward.experts.{}.w2", "ffn_down_exps"),
    ],
    outside: &[
        ("embed_tokens", "token_embd"),
        ("embedding_norm", OUTPUT_NORM),
        ("lm_head", "output"),
    ],
    ..Names::PLAIN
};

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &[NAME],
    describe: |config| {
        let mut description = describe(config, NAME)?;
        let wide = config.optional_size("block_ff_dim")?;
        let mut width = match wide {
            Some(width) => width,
            None => config.size("intermediate_size", None)?,
        };
        // The width is two thirds of what is said, and a multiple of something.
        if config.flag("block_auto_adjust_ff_dim", true)? {
            let multiple = config.size("block_multiple_of", Some(256))?.max(1);
            let times = config.number("block_ffn_dim_multiplier", Some(1.0))?;
            width = (2 * width / 3) as f64 as usize;
            width = (times * width as f64) as usize;
            width = width.min(1 << 24).next_multiple_of(multiple);
        }
        description.set_size("feed_forward_length", width.min(1 << 25));
        Ok(description)
    },
};

/// What it has in common with the sparse one.
pub(super) fn describe(
    config: &Config<'_>,
    name: &'static str,
) -> Result<Description, CheckpointError> {
    let defaults = Defaults {
        rope_base: 1e6,
        epsilon: ("norm_eps", Some(1e-5)),
        tied: config.flag("tie_embedding", true)?,
        width: match config.optional_size("block_ff_dim")? {
            Some(_) => "block_ff_dim",
            None => Defaults::PLAIN.width,
        },
        ..Defaults::PLAIN
    };
    let mut description = origin::common(config, name, &defaults)?;
    let layers = description.layers;
    let attends = match origin::layer_types(config, layers)? {
        Some(types) => types.iter().map(|name| *name == "full_attention").collect(),
        None => attending(config, layers)?,
    };
    let heads = config.size("num_key_value_heads", None)? as u32;
    let heads = attends
        .iter()
        .map(|attends: &bool| Value::U32(heads * u32::from(*attends)));
    description.set("attention.head_count_kv", Value::Array(heads.collect()));
    description.set_size("shortconv.l_cache", config.size("conv_L_cache", Some(3))?);
    config.only("conv_bias", &json!(false))?;
    let of = config.inner("rope_parameters")?;
    description.rope(config, of, defaults.rope_base)?;
    Ok(description)
}

/// Which layers attend, by a list of their numbers.
fn attending(config: &Config<'_>, layers: usize) -> Result<Vec<bool>, CheckpointError> {
    const KEY: &str = "full_attn_idxs";
    let Some(numbers) = config.list(KEY)? else {
        return Ok(vec![true; layers]);
    };
    let mut attends = vec![false; layers];
    for number in numbers {
        let index = number
            .as_u64()
            .and_then(|index| usize::try_from(index).ok());
        match index.and_then(|index| attends.get_mut(index)) {
            Some(layer) => *layer = true,
            None => return Err(config.invalid(KEY, &format!("numbers below {layers}"), number)),
        }
    }
    Ok(attends)
}

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    decoder.refuse_window()?;
    let rope = decoder.rope()?;
    for (layer, mixing) in mixings(&decoder)?.into_iter().enumerate() {
        mix(&mut decoder, layer, mixing)?;
        decoder.feed_forward(layer, Gate::Silu)?;
    }
    decoder.finish(OUTPUT_NORM, vec![rope])
}

/// The norm before the output is stored under this name.
pub(super) const OUTPUT_NORM: &str = "token_embd_norm";

/// How a layer mixes positions.
#[derive(Clone, Copy)]
pub(super) enum Mixing {
    Attention,
    /// Taps.
    Convolution(usize),
}

pub(super) fn mix(
    decoder: &mut Decoder<'_>,
    layer: usize,
    mixing: Mixing,
) -> Result<(), GraphError> {
    let style = AttentionStyle {
        head_norms: true,
        ..AttentionStyle::plain(Pairs::Halves)
    };
    match mixing {
        Mixing::Attention => decoder.attention(layer, style),
        Mixing::Convolution(taps) => decoder.convolution(layer, taps),
    }
}

/// How each layer mixes positions: those attend that have key and value heads.
pub(super) fn mixings(decoder: &Decoder<'_>) -> Result<Vec<Mixing>, GraphError> {
    let key = decoder.key("attention.head_count_kv");
    let layers = decoder.sizes().layers;
    let taps = decoder.builder.size(&decoder.key("shortconv.l_cache"))?;
    let counts = match decoder.builder.file().metadata().get(&key) {
        Some(Value::Array(counts)) => counts.as_slice(),
        _ => &[],
    };
    if counts.len() != layers {
        return Err(GraphError::OutOfRange {
            key,
            value: format!("{} numbers", counts.len()),
            allowed: format!("one for each of {layers} layers"),
        });
    }
    let mixing = |count: &Value| match count.as_u64() {
        Some(0) => Mixing::Convolution(taps),
        _ => Mixing::Attention,
    };
    Ok(counts.iter().map(mixing).collect())
}
