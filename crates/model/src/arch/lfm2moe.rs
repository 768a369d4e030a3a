//! The `lfm2moe` architecture (Liquid AI's sparse LFM2): as `lfm2`, with a mixture of experts in place of the feed-forward
//! network in all layers but the first ones.
use super::{
    decoder::{Decoder, Gate, unsupported},
    lfm2::{self, OUTPUT_NORM, mix, mixings},
    origin::Origin,
};
use crate::{
    fixture::{Tiny, TinyExperts},
    gguf::{Gguf, Value},
    graph::{Graph, GraphError},
};
use serde_json::json;

pub(super) const NAME: &str = "lfm2moe";

pub(super) const TINY: Tiny = Tiny {
    experts: Some(TinyExperts {
        dense: 1,
        count: 6,
        used: 2,
    }),
    attends: &[false, true, false],
    architecture: NAME,
    ..lfm2::TINY
};

/// Experts are weighed by the sigmoid of their scores.
const SIGMOID: u64 = 2;

pub(super) const ORIGIN: Origin = Origin {
    name: NAME,
    types: &["lfm2_moe"],
    describe: |config| {
        let mut description = lfm2::describe(config, NAME)?;
        for (key, part) in [
            ("num_experts", "expert_count"),
            ("num_experts_per_tok", "expert_used_count"),
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("num_dense_layers", "leading_dense_block_count"),
        ] {
            description.set_size(part, config.size(key, None)?);
        }
        config.only("norm_topk_prob", &json!(true))?;
        config.only("routed_scaling_factor", &json!(1.0))?;
        description.set("expert_gating_func", Value::U32(SIGMOID as u32));
        Ok(description)
    },
};

pub(super) fn graph(file: &Gguf<'_>) -> Result<Graph, GraphError> {
    let mut decoder = Decoder::begin_sparse(file, NAME)?;
    decoder.refuse_window()?;
    let rope = decoder.rope()?;
    let size = |part: &str| decoder.builder.size(&decoder.key(part));
    let (count, used) = (size("expert_count")?, size("expert_used_count")?);
    let feed_forward = size("expert_feed_forward_length")?;
    let dense = file.unsigned(&decoder.key("leading_dense_block_count"))?;
    if used > count {
        return Err(GraphError::OutOfRange {
            key: decoder.key("expert_used_count"),
            value: used.to_string(),
            allowed: format!("1 to {count}"),
        });
    }
    if file.unsigned(&decoder.key("expert_gating_func"))? != SIGMOID {
        return unsupported(&format!(
            "experts weighed by another function than the sigmoid ({})",
            decoder.key("expert_gating_func")
        ));
    }
    for (layer, mixing) in mixings(&decoder)?.into_iter().enumerate() {
        mix(&mut decoder, layer, mixing)?;
        if (layer as u64) < dense {
            decoder.feed_forward(layer, Gate::Silu)?;
        } else {
            decoder.experts(layer, (count, used), feed_forward)?;
        }
    }
    decoder.finish(OUTPUT_NORM, vec![rope])
}
