//! The `qwen3` architecture (Qwen 3): as `qwen2`, with a norm for each head's query and key instead of biases.
use super::decoder::{AttentionStyle, Decoder};
use super::{
    origin::{Defaults, Origin},
    qwen2,
};
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

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &[NAME],
    describe: |config| {
        let defaults = Defaults {
            head_dim: Some(128),
            ..Defaults::PLAIN
        };
        qwen2::describe(config, NAME, &defaults)
    },
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
