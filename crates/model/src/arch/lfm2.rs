//! The `lfm2` architecture (Liquid AI's LFM2): most layers have a gated short convolution in place of attention; the
//! others attend as `qwen3` does.
use super::decoder::{AttentionStyle, Decoder, Gate};
use crate::{
    fixture::Tiny,
    gguf::{Gguf, Value},
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "lfm2";

pub(super) const TINY: Tiny = Tiny {
    architecture: NAME,
    head_dim: 16,
    biases: false,
    head_norms: true,
    norms_behind: false,
    window: None,
    attends: &[false, false, true, false],
    output_norm: "token_embd_norm",
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let rope = decoder.rope()?;
    let layers = decoder.sizes().layers;
    let attends = attends(file, layers)?;
    let taps = decoder.builder.size("lfm2.shortconv.l_cache")?;
    for (layer, attends) in attends.into_iter().enumerate() {
        if attends {
            let style = AttentionStyle {
                head_norms: true,
                ..AttentionStyle::plain(Pairs::Halves)
            };
            decoder.attention(layer, style)?;
        } else {
            decoder.convolution(layer, taps)?;
        }
        decoder.feed_forward(layer, Gate::Silu)?;
    }
    // The norm before the output is stored under this name.
    decoder.finish("token_embd_norm", vec![rope])
}

/// Which layers attend: those that have key and value heads.
fn attends(file: &Gguf<'_>, layers: usize) -> Result<Vec<bool>, GraphError> {
    const KEY: &str = "lfm2.attention.head_count_kv";
    let counts = match file.metadata().get(KEY) {
        Some(Value::Array(counts)) => counts.as_slice(),
        _ => &[],
    };
    if counts.len() != layers {
        return Err(GraphError::OutOfRange {
            key: KEY.to_owned(),
            value: format!("{} numbers", counts.len()),
            allowed: format!("one for each of {layers} layers"),
        });
    }
    Ok(counts
        .iter()
        .map(|count| count.as_u64() != Some(0))
        .collect())
}
