//! The `llama` architecture (Llama, SmolLM2, Mistral, and others that are stored as it): grouped-query attention with
//! interleaved rotary pairs, and a SwiGLU feed-forward network.
use super::origin::{self, Defaults, Origin};
use super::{
    decoder::{AttentionStyle, Decoder},
    names::Names,
};
use crate::{
    fixture::Tiny,
    gguf::Gguf,
    graph::{Graph, GraphError},
};
use lockstep_numeric::Pairs;

pub(super) const NAME: &str = "llama";

pub(super) const TINY: Tiny = Tiny::plain(NAME);

pub(super) const NAMES: Names = Names {
    interleaves: true,
    ..Names::PLAIN
};

/// Llama 3.1 and later stretch the slower rotations: a factor for each pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &["llama", "mistral"],
    describe: |config| {
        let mut description = origin::common(config, NAME, &Defaults::PLAIN)?;
        let context = config.size("max_position_embeddings", None)?;
        origin::refuse_window(config, None, context)?;
        let of = config.inner("rope_parameters")?;
        description.rope(config, of, 10_000.0)?;
        Ok(description)
    },
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin(file, NAME)?;
    let mut rope = decoder.rope()?;
    decoder.layers(AttentionStyle::plain(Pairs::Interleaved))?;
    if file.tensors().contains_key(ROPE_FACTORS) {
        let pairs = decoder.sizes().head_dim / 2;
        rope.factors = Some(decoder.builder.vector(ROPE_FACTORS, pairs)?);
    }
    decoder.finish("output_norm", vec![rope])
}
