//! What the settings of a trained checkpoint (`config.json`) are in a GGUF file's metadata.
//!
//! # Design
//! Each architecture's file has an [`Origin`]: how checkpoints call it, and a function that writes down what it has beyond
//! the [`common`] settings. What would change results and is not computed here is refused by name.
use super::{gemma3, lfm2, lfm2moe, llama, qwen2, qwen3};
use crate::{
    checkpoint::{CheckpointError, Config, unsupported},
    gguf::Value,
};
use lockstep_numeric::Rope;
use serde_json::json;

/// More layers are refused.
const LAYERS_MAX: usize = 1 << 12;

/// How checkpoints name an architecture, and what their settings mean.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type`.
    pub(super) types: &'static [&'static str],
    pub(super) describe: fn(&Config<'_>) -> Result<Description, CheckpointError>,
}

const KNOWN: &[Origin] = &[
    llama::ORIGIN,
    qwen2::ORIGIN,
    qwen3::ORIGIN,
    gemma3::ORIGIN,
    lfm2::ORIGIN,
    lfm2moe::ORIGIN,
];

/// What a checkpoint is.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    /// `general.architecture`.
    pub(crate) architecture: &'static str,
    /// Its metadata, under the architecture's name.
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) vocabulary: usize,
    pub(crate) layers: usize,
    /// Values of a head.
    pub(crate) head_dim: usize,
    /// Whether the output shares the embedding's matrix.
    pub(crate) tied: bool,
    /// What frequencies of rotations are divided by.
    pub(crate) rope_factors: Option<Vec<f32>>,
    /// Beginnings of the names of tensors that are not of the language model.
    pub(crate) besides: &'static [&'static str],
}

/// What settings mean that are not there; without a default they have to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    pub(super) vocabulary: Option<usize>,
    pub(super) heads: Option<usize>,
    pub(super) kv_heads: Option<usize>,
    pub(super) context: Option<usize>,
    /// Without one it is the embedding's share of a head.
    pub(super) head_dim: Option<usize>,
    pub(super) rope_base: f64,
    /// The setting of the norms' epsilon, and its default.
    pub(super) epsilon: (&'static str, Option<f64>),
    /// The setting of the activation, and the one that is computed.
    pub(super) activation: (&'static str, &'static str),
    pub(super) tied: bool,
    /// The setting that says how wide the feed-forward network is.
    pub(super) width: &'static str,
}

impl Defaults {
    pub(super) const PLAIN: Self = Self {
        vocabulary: None,
        heads: None,
        kv_heads: None,
        context: None,
        head_dim: None,
        rope_base: 10_000.0,
        epsilon: ("rms_norm_eps", None),
        activation: ("hidden_act", "silu"),
        tied: false,
        width: "intermediate_size",
    };
}

/// How checkpoints call an architecture that has one.
pub(crate) fn model_type(architecture: &str) -> Option<&'static str> {
    let mut known = KNOWN.iter();
    let origin = known.find(|origin| origin.name == architecture)?;
    origin.types.first().copied()
}

/// Describes a checkpoint by its settings.
///
/// # Errors
/// When they are not of a known architecture, or ask for something that is not computed.
pub(crate) fn describe(config: &Config<'_>) -> Result<Description, CheckpointError> {
    let Some(name) = config.optional_text("model_type")? else {
        config.size("model_type", None)?;
        unreachable!("a setting that is not there is an error");
    };
    match KNOWN.iter().find(|origin| origin.types.contains(&name)) {
        Some(origin) => (origin.describe)(config),
        None => Err(CheckpointError::UnsupportedModel {
            name: name.to_owned(),
            known: KNOWN
                .iter()
                .flat_map(|origin| origin.types)
                .copied()
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

impl Description {
    pub(super) fn set(&mut self, part: &str, value: Value) {
        let key = format!("{}.{part}", self.architecture);
        self.metadata.retain(|(known, _)| *known != key);
        self.metadata.push((key, value));
    }

    /// A size; larger ones than fit were refused when they were read.
    pub(super) fn set_size(&mut self, part: &str, size: usize) {
        self.set(part, Value::U32(size as u32));
    }

    pub(super) fn set_number(&mut self, part: &str, number: f64) {
        self.set(part, Value::F32(number as f32));
    }

    /// Writes down how heads are rotated: `of` are settings of that alone, as newer files have them.
    pub(super) fn rope(
        &mut self,
        config: &Config<'_>,
        of: Option<Config<'_>>,
        default_base: f64,
    ) -> Result<(), CheckpointError> {
        let of = match of {
            Some(of) => Some(of),
            None => config.inner("rope_scaling")?,
        };
        let inner_base = of.map(|of| of.optional_number("rope_theta")).transpose()?;
        let base = match inner_base.flatten() {
            Some(base) => base,
            None => config.number("rope_theta", Some(default_base))?,
        };
        self.set_number("rope.freq_base", base);
        config.only("partial_rotary_factor", &json!(1.0))?;
        let Some(of) = of else { return Ok(()) };
        of.only("partial_rotary_factor", &json!(1.0))?;
        let kind = match of.optional_text("rope_type")? {
            Some(kind) => kind,
            None => of.optional_text("type")?.unwrap_or("default"),
        };
        match kind {
            "default" => {}
            "linear" => {
                self.set("rope.scaling.type", Value::String("linear".to_owned()));
                let factor = of.number("factor", None)?;
                self.set_number("rope.scaling.factor", factor);
            }
            "llama3" => self.rope_factors = Some(self.factors(&of, base)?),
            other => return Err(unsupported(format!("rotary scaling: {other}"))),
        }
        Ok(())
    }

    /// Llama 3.1's factors: none for the fastest rotations, the whole one for the slowest, and between them what lies between.
    fn factors(&self, of: &Config<'_>, base: f64) -> Result<Vec<f32>, CheckpointError> {
        let number = |key: &str| {
            let number = of.number(key, None)?;
            match number > 0.0 && number < 1e9 {
                true => Ok(number),
                false => Err(of.invalid(key, "a number above 0", &json!(number))),
            }
        };
        let factor = number("factor")?;
        let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
        let length = number("original_max_position_embeddings")?;
        if low >= high {
            return Err(of.invalid("low_freq_factor", "below high_freq_factor", &json!(low)));
        }
        let base = base as f32;
        let is_rotation = base.is_normal() && base >= 1.0 && base.is_finite();
        if !is_rotation || self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(unsupported(format!(
                "rotations of {} values by a base of {base}",
                self.head_dim
            )));
        }
        let rope = Rope::new(self.head_dim, base, None);
        let of = |frequency: &f64| {
            // Turns that a rotation makes within the original length.
            let turns = length * frequency / std::f64::consts::TAU;
            if turns > high {
                return 1.0;
            }
            if turns < low {
                return factor as f32;
            }
            let smooth = (turns - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        };
        Ok(rope.frequencies().iter().map(of).collect())
    }
}

/// What all architectures have. Rotations are left to [`Description::rope`].
pub(super) fn common(
    config: &Config<'_>,
    architecture: &'static str,
    defaults: &Defaults,
) -> Result<Description, CheckpointError> {
    let heads = config.size("num_attention_heads", defaults.heads)?;
    let embedding = config.size("hidden_size", None)?;
    let shared = config.optional_size("head_dim")?.or(defaults.head_dim);
    let head_dim = shared.unwrap_or(embedding / heads.max(1));
    let vocabulary = config.size("vocab_size", defaults.vocabulary)?;
    let layers = config.size("num_hidden_layers", None)?;
    if layers > LAYERS_MAX {
        let wanted = format!("at most {LAYERS_MAX}");
        return Err(config.invalid("num_hidden_layers", &wanted, &json!(layers)));
    }
    let mut description = Description {
        architecture,
        metadata: Vec::new(),
        vocabulary,
        layers,
        head_dim,
        tied: config.flag("tie_word_embeddings", defaults.tied)?,
        rope_factors: None,
        besides: &[],
    };
    let kv_heads = defaults.kv_heads.or(Some(heads));
    let (epsilon, epsilon_default) = defaults.epsilon;
    description.set_size("block_count", layers);
    description.set_size(
        "context_length",
        config.size("max_position_embeddings", defaults.context)?,
    );
    description.set_size("embedding_length", embedding);
    description.set_size("feed_forward_length", config.size(defaults.width, None)?);
    description.set_size("attention.head_count", heads);
    description.set_size(
        "attention.head_count_kv",
        config.size("num_key_value_heads", kv_heads)?,
    );
    description.set_number(
        "attention.layer_norm_rms_epsilon",
        config.number(epsilon, epsilon_default)?,
    );
    description.set_size("rope.dimension_count", head_dim);
    if head_dim.checked_mul(heads) != Some(embedding) {
        description.set_size("attention.key_length", head_dim);
        description.set_size("attention.value_length", head_dim);
    }
    description.set_size("vocab_size", vocabulary);
    let (activation, computed) = defaults.activation;
    config.only(activation, &json!(computed))?;
    for absent in ["attention_bias", "mlp_bias"] {
        config.only(absent, &json!(false))?;
    }
    Ok(description)
}

/// For each layer what it is called, where the settings say that.
pub(super) fn layer_types<'c>(
    config: &Config<'c>,
    layers: usize,
) -> Result<Option<Vec<&'c str>>, CheckpointError> {
    const KEY: &str = "layer_types";
    let Some(types) = config.list(KEY)? else {
        return Ok(None);
    };
    let named: Option<Vec<&str>> = types.iter().map(|name| name.as_str()).collect();
    match named.filter(|named| named.len() == layers) {
        Some(named) => Ok(Some(named)),
        None => Err(config.invalid(
            KEY,
            &format!("a list of {layers} texts"),
            &json!(format!("{} values", types.len())),
        )),
    }
}

/// Refuses layers that read a window of positions, unless they are switched off by `switch`.
pub(super) fn refuse_window(
    config: &Config<'_>,
    switch: Option<&str>,
    context: usize,
) -> Result<(), CheckpointError> {
    let used = match switch {
        Some(switch) => config.flag(switch, false)?,
        None => true,
    };
    match config.optional_size("sliding_window")? {
        Some(window) if used && window < context => Err(unsupported(format!(
            "windows of attention: sliding_window = {window}"
        ))),
        _ => Ok(()),
    }
}
