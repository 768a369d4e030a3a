//! Names of tensors in the checkpoints of other formats, and in a GGUF file.
//!
//! # Design
//! Checkpoints as they are trained name modules by their place in a program (`model.layers.3.self_attn.q_proj`), and a
//! parameter behind that (`.weight`, `.bias`). Each architecture's file has a table of them; here they are read. Adapters
//! for such checkpoints name the same modules.
use super::{gemma3, lfm2, lfm2moe, llama, qwen2, qwen3};

/// The names of an architecture, checkpoint's first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Modules of a layer, behind its number.
    pub(super) layer: &'static [(&'static str, &'static str)],
    /// Modules outside of layers.
    pub(super) outside: &'static [(&'static str, &'static str)],
    /// Whether rows of queries and keys, which a checkpoint stores by halves of a head, are stored by pairs.
    pub(super) interleaves: bool,
    /// Whether a checkpoint stores the weights of norms less 1.
    pub(super) norms_less_one: bool,
}

/// What architectures have in common.
pub(super) const OUTSIDE: &[(&str, &str)] = &[
    ("embed_tokens", "token_embd"),
    ("norm", "output_norm"),
    ("lm_head", "output"),
];

/// Attention and feed-forward network of most architectures; norms of a head are in those that have them.
pub(super) const LAYER: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

impl Names {
    pub(super) const PLAIN: Self = Self {
        layer: LAYER,
        outside: OUTSIDE,
        interleaves: false,
        norms_less_one: false,
    };
}

const KNOWN: &[(&str, Names)] = &[
    (llama::NAME, llama::NAMES),
    (qwen2::NAME, Names::PLAIN),
    (qwen3::NAME, Names::PLAIN),
    (gemma3::NAME, gemma3::NAMES),
    (lfm2::NAME, lfm2::NAMES),
    (lfm2moe::NAME, lfm2::NAMES),
];

/// How the values of a tensor in a GGUF file differ from those in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Not at all.
    Same,
    /// Rows of each head are in another order: [`interleaved`].
    Interleaved,
    /// They are 1 more.
    OneMore,
}

/// Where a tensor of a checkpoint is in a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name there; a module's without the parameter's.
    pub tensor: String,
    /// The number of the expert, whose matrix lies in `tensor` behind those of the ones before it.
    pub expert: Option<usize>,
    /// What is done to its values.
    pub stored: Stored,
}

/// The place of a checkpoint's tensor (`model.layers.3.mlp.up_proj.weight`), or of a module, without the parameter.
/// Nothing when the architecture or the name is unknown.
#[must_use]
pub fn place(architecture: &str, name: &str) -> Option<Place> {
    let names = of(architecture)?;
    let (module, parameter) = split(name);
    let module = inner(module);
    let Some((layer, part)) = layer_of(module) else {
        let tensor = find(names.outside, module)?;
        return Some(Place {
            stored: names.stored(tensor, parameter),
            tensor: format!("{tensor}{parameter}"),
            expert: None,
        });
    };
    let (part, expert) = without_expert(part);
    let tensor = find(names.layer, &part)?;
    Some(Place {
        stored: names.stored(tensor, parameter),
        tensor: format!("blk.{layer}.{tensor}{parameter}"),
        expert,
    })
}

/// The name in a checkpoint of a GGUF file's tensor or module: that of [`place`], with the usual prefix. Experts have
/// `{}` in the place of their number.
#[must_use]
pub fn name(architecture: &str, tensor: &str) -> Option<String> {
    let names = of(architecture)?;
    let (module, parameter) = match tensor.ends_with(".exp_probs_b.bias") {
        // It is a parameter of its module by another name.
        true => (tensor, ""),
        false => split(tensor),
    };
    let back = |table: &[(&'static str, &'static str)], part: &str| {
        table
            .iter()
            .find(|(_, there)| *there == part)
            .map(|(here, _)| *here)
    };
    if let Some(rest) = module.strip_prefix("blk.") {
        let (layer, part) = rest.split_once('.')?;
        let part = back(names.layer, part)?;
        return Some(format!("model.layers.{layer}.{part}{parameter}"));
    }
    match back(names.outside, module)? {
        head @ "lm_head" => Some(format!("{head}{parameter}")),
        other => Some(format!("model.{other}{parameter}")),
    }
}

/// The row of a checkpoint's matrix that is row `row` of one whose [`Stored`] is [`Stored::Interleaved`]; `head_dim` is
/// even.
#[must_use]
pub fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + (within % 2) * (head_dim / 2) + within / 2
}

impl Names {
    fn stored(&self, tensor: &str, parameter: &str) -> Stored {
        if self.interleaves && ["attn_q", "attn_k"].contains(&tensor) {
            return Stored::Interleaved;
        }
        match self.norms_less_one && tensor.ends_with("norm") && parameter == ".weight" {
            true => Stored::OneMore,
            false => Stored::Same,
        }
    }
}

fn of(architecture: &str) -> Option<Names> {
    let mut known = KNOWN.iter();
    known
        .find(|(name, _)| *name == architecture)
        .map(|(_, names)| *names)
}

fn find(table: &[(&'static str, &'static str)], part: &str) -> Option<&'static str> {
    let mut entries = table.iter();
    entries
        .find(|(here, _)| *here == part)
        .map(|(_, there)| *there)
}

/// A module, and the name of its parameter with the dot, or nothing.
fn split(name: &str) -> (&str, &str) {
    for parameter in [".weight", ".bias"] {
        if let Some(module) = name.strip_suffix(parameter) {
            return (module, parameter);
        }
    }
    (name, "")
}

/// A module's name without the names of the programs around it.
fn inner(mut module: &str) -> &str {
    for around in ["model.", "language_model.", "model."] {
        module = module.strip_prefix(around).unwrap_or(module);
    }
    module
}

/// The number of a layer, and the module in it.
fn layer_of(module: &str) -> Option<(usize, &str)> {
    let (layer, part) = module.strip_prefix("layers.")?.split_once('.')?;
    Some((number(layer)?, part))
}

/// A number as it is written: without sign and leading zeros.
fn number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// `feed_forward.experts.7.w1` as `feed_forward.experts.{}.w1` and 7.
fn without_expert(part: &str) -> (String, Option<usize>) {
    let split = part.split_once("experts.").and_then(|(before, rest)| {
        let (expert, after) = rest.split_once('.')?;
        let expert = number(expert)?;
        Some((format!("{before}experts.{{}}.{after}"), Some(expert)))
    });
    split.unwrap_or_else(|| (part.to_owned(), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        arch::{self, TINY},
        fixture::{self, Weights},
        gguf::Gguf,
    };

    fn tensor(architecture: &str, name: &str) -> Option<String> {
        place(architecture, name).map(|place| place.tensor)
    }

    #[test]
    fn every_tensor_of_a_small_file_has_a_name_that_leads_back() {
        for of in TINY {
            let file = fixture::tiny(of, 1, Weights::Float).build();
            let file = Gguf::parse(&file).unwrap();
            arch::graph(&file).unwrap();
            for tensor in file.tensors().keys() {
                let name = name(of.architecture, tensor).expect(tensor);
                let name = name.replace("{}", "5");
                let place = place(of.architecture, &name).expect(&name);
                assert_eq!(&place.tensor, tensor, "{name}");
                assert_eq!(place.expert, name.contains("experts.").then_some(5));
            }
        }
    }

    #[test]
    fn names_are_found_with_and_without_what_is_around_them() {
        let wanted = Some("blk.3.ffn_up.weight".to_owned());
        for name in [
            "model.layers.3.mlp.up_proj.weight",
            "language_model.model.layers.3.mlp.up_proj.weight",
            "model.language_model.layers.3.mlp.up_proj.weight",
        ] {
            assert_eq!(tensor("gemma3", name), wanted, "{name}");
        }
        let module = tensor("llama", "model.layers.3.mlp.up_proj");
        assert_eq!(module.as_deref(), Some("blk.3.ffn_up"));
        for name in [
            "model.layers.03.mlp.up_proj",
            "model.layers.-3.mlp.up_proj",
            "model.layers.3",
            "model.layers.3.mlp.side_proj",
            "model.layers.99999999999999999999999.mlp.up_proj",
            "",
        ] {
            assert_eq!(tensor("llama", name), None, "{name}");
        }
        assert_eq!(tensor("mamba", "model.norm.weight"), None);
    }

    #[test]
    fn what_is_stored_otherwise_is_said() {
        let stored = |architecture, name| place(architecture, name).unwrap().stored;
        let query = "model.layers.0.self_attn.q_proj.weight";
        assert_eq!(stored("llama", query), Stored::Interleaved);
        assert_eq!(stored("qwen2", query), Stored::Same);
        assert_eq!(
            stored("llama", "model.layers.0.self_attn.v_proj"),
            Stored::Same
        );
        let norm = "model.layers.0.pre_feedforward_layernorm.weight";
        assert_eq!(stored("gemma3", norm), Stored::OneMore);
        let rows: Vec<usize> = (0..12).map(|row| interleaved(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
