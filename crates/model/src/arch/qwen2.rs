//! The `qwen2` architecture (Qwen 2 and 2.5): as `llama`, but queries, keys and values have biases, and heads are rotated
//! by halves.
use super::decoder::{AttentionStyle, Decoder};
use super::origin::{self, Defaults, Description, Origin};
use crate::{
    checkpoint::{CheckpointError, Config},
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

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &[NAME],
    describe: |config| describe(config, NAME, &Defaults::PLAIN),
};

/// Windows are switched on by a setting of their own.
pub(super) fn describe(
    config: &Config<'_>,
    name: &'static str,
    defaults: &Defaults,
) -> Result<Description, CheckpointError> {
    let mut description = origin::common(config, name, defaults)?;
    origin::refuse_window(config, Some("use_sliding_window"), usize::MAX)?;
    let of = config.inner("rope_parameters")?;
    description.rope(config, of, 10_000.0)?;
    Ok(description)
}

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let rope = decoder.rope()?;
    decoder.layers(AttentionStyle {
        biases: true,
        ..AttentionStyle::plain(Pairs::Halves)
    })?;
    decoder.finish("output_norm", vec![rope])
}
