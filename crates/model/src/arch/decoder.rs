//! What the architectures here have in common: a table of embeddings, layers that each add to a residual, and a head.
//!
//! A layer mixes positions ([`Decoder::attention`] or [`Decoder::convolution`]) and then channels
//! ([`Decoder::feed_forward`] or [`Decoder::experts`]). What differs is said by the file of each architecture.
use crate::{
    gguf::{Gguf, Value},
    graph::{
        Action, AttentionShape, BufferId, Builder, ExpertsShape, Graph, GraphError, Rope, TensorId,
    },
};
use lockstep_numeric::Pairs;
use std::num::NonZeroUsize;

/// Longer contexts are refused: a text may ask for memory for all of it.
const CONTEXT_LENGTH_MAX: u64 = 1 << 18;
/// Heads of a layer, at most.
const HEADS_MAX: u64 = 1 << 14;
/// Values per head, at most.
const HEAD_DIM_MAX: u64 = 1 << 10;
/// Values of keys that a layer may keep of a text.
const KEPT_MAX: usize = 1 << 31;

/// Sizes that all layers share.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) layers: usize,
    pub(super) embedding: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) epsilon: f32,
}

/// What kinds of attention differ in.
#[derive(Clone, Copy)]
pub(super) struct AttentionStyle {
    /// Which elements of a head are rotated together.
    pub(super) pairs: Pairs,
    /// Whether queries, keys and values have something added after their products.
    pub(super) biases: bool,
    /// Whether each head's query and key is normalised before it is rotated.
    pub(super) head_norms: bool,
    /// How many positions are read; none: all.
    pub(super) window: Option<NonZeroUsize>,
    /// Which rotary embedding it is rotated by.
    pub(super) rope: usize,
}

impl AttentionStyle {
    /// Without biases and norms, over all positions.
    pub(super) const fn plain(pairs: Pairs) -> Self {
        Self {
            pairs,
            biases: false,
            head_norms: false,
            window: None,
            rope: 0,
        }
    }
}

/// What the gate of a feed-forward network goes through.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    Silu,
    Gelu,
}

/// Buffers that all layers share.
struct Buffers {
    residual: BufferId,
    normed: BufferId,
    query: BufferId,
    key: BufferId,
    value: BufferId,
    attended: BufferId,
    projected: BufferId,
    gate: BufferId,
    up: BufferId,
}

/// Builds a graph layer by layer.
pub(super) struct Decoder<'f> {
    pub(super) builder: Builder<'f>,
    name: &'static str,
    sizes: Sizes,
    buffers: Buffers,
    /// Buffers of normalised queries and keys.
    head_normed: Option<[BufferId; 2]>,
    /// Buffers of what a convolution reads and writes.
    convolved: Option<[BufferId; 2]>,
    /// Buffer of the scores of experts.
    scores: Option<BufferId>,
    attentions: usize,
    convolutions: usize,
    /// Whether what a part has come to is normalised before it is added.
    pub(super) norms_behind: bool,
    table: TensorId,
    vocabulary: usize,
}

/// A metadata value that has to fit others.
fn expect(key: &str, value: usize, allowed: bool, wanted: String) -> Result<(), GraphError> {
    match allowed {
        true => Ok(()),
        false => Err(GraphError::OutOfRange {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: wanted,
        }),
    }
}

/// Says that a file uses something that is computed nowhere here.
pub(super) fn unsupported<T>(feature: &str) -> Result<T, GraphError> {
    Err(GraphError::UnsupportedFeature {
        feature: feature.to_owned(),
    })
}

impl Sizes {
    /// Reads the metadata of architecture `name`. Layers without attention have no key and value heads.
    pub(super) fn read(builder: &Builder<'_>, name: &str) -> Result<Self, GraphError> {
        let file = builder.file();
        let key = |part: &str| format!("{name}.{part}");
        let has = |part: &str| file.metadata().contains_key(&key(part));
        let embedding = builder.size(&key("embedding_length"))?;
        let heads = builder.size_up_to(&key("attention.head_count"), HEADS_MAX)?;
        let head_dim = match has("attention.key_length") {
            true => builder.size_up_to(&key("attention.key_length"), HEAD_DIM_MAX)?,
            false => embedding / heads,
        };
        expect(
            &key("attention.head_count"),
            heads,
            (has("attention.key_length") || embedding.is_multiple_of(heads))
                && head_dim.is_multiple_of(2),
            format!("divides the embedding length {embedding} into heads of even length"),
        )?;
        let kv_heads = match file.metadata().get(&key("attention.head_count_kv")) {
            None => heads,
            Some(Value::Array(layers)) => {
                let counts: Vec<u64> = layers.iter().filter_map(Value::as_u64).collect();
                let most = counts.iter().copied().max().unwrap_or(0);
                let all = counts.len() == layers.len();
                if !all || counts.iter().any(|count| ![0, most].contains(count)) {
                    return unsupported(&format!(
                        "layers of different numbers of key and value heads ({})",
                        key("attention.head_count_kv")
                    ));
                }
                most as usize
            }
            Some(_) => builder.size(&key("attention.head_count_kv"))?,
        };
        expect(
            &key("attention.head_count_kv"),
            kv_heads,
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            format!("divides the head count {heads}"),
        )?;
        for part in ["rope.dimension_count", "attention.value_length"] {
            if let Some(value) = file.metadata().get(&key(part)).and_then(Value::as_u64) {
                let fits = value == head_dim as u64;
                let wanted = format!("{head_dim}, the head length");
                expect(&key(part), value as usize, fits, wanted)?;
            }
        }
        Ok(Self {
            layers: builder.size(&key("block_count"))?,
            embedding,
            feed_forward: builder.size(&key("feed_forward_length"))?,
            heads,
            kv_heads,
            head_dim,
            epsilon: builder.number(&key("attention.layer_norm_rms_epsilon"), 0.0)?,
        })
    }
}

/// Refuses what files of every architecture may ask for and nobody here computes; or what only those have that are
/// `sparse`.
fn refuse_variants(file: &Gguf<'_>, name: &str, sparse: bool) -> Result<(), GraphError> {
    let experts = format!("{name}.expert_count");
    let scaling = format!("{name}.rope.scaling.type");
    let metadata = file.metadata();
    let count = metadata.get(&experts).map(Value::as_u64);
    if !sparse && count.is_some_and(|count| count != Some(0)) {
        return unsupported(&format!("mixture of experts ({experts})"));
    }
    let scalings = [Some("none"), Some("linear")];
    if metadata
        .get(&scaling)
        .is_some_and(|v| !scalings.contains(&v.as_str()))
    {
        return unsupported(&format!("rotary scaling ({scaling})"));
    }
    for part in ["rope.scaling.attn_factor", "rope.scale_linear"] {
        let key = format!("{name}.{part}");
        if metadata.get(&key).is_some_and(|v| v.as_f32() != Some(1.0)) {
            return unsupported(&format!("rotary scaling ({key})"));
        }
    }
    let causal = format!("{name}.attention.causal");
    if metadata
        .get(&causal)
        .is_some_and(|v| v.as_bool() != Some(true))
    {
        return unsupported(&format!("attention to later positions ({causal})"));
    }
    for part in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let key = format!("{name}.{part}");
        if metadata.get(&key).is_some_and(|v| v.as_f32() != Some(0.0)) {
            return unsupported(&format!("soft caps ({key})"));
        }
    }
    Ok(())
}

impl<'f> Decoder<'f> {
    /// Begins with the embedding of the tokens.
    pub(super) fn begin(file: &'f Gguf<'f>, name: &'static str) -> Result<Self, GraphError> {
        Self::new(file, name, false)
    }

    /// The same for architectures that have mixtures of experts.
    pub(super) fn begin_sparse(file: &'f Gguf<'f>, name: &'static str) -> Result<Self, GraphError> {
        Self::new(file, name, true)
    }

    fn new(file: &'f Gguf<'f>, name: &'static str, sparse: bool) -> Result<Self, GraphError> {
        refuse_variants(file, name, sparse)?;
        let mut builder = Builder::new(file);
        let sizes = Sizes::read(&builder, name)?;
        let vocabulary = file.tensor("token_embd.weight")?.rows;
        let (query_width, kv_width) = (
            sizes.heads * sizes.head_dim,
            sizes.kv_heads * sizes.head_dim,
        );
        let buffers = Buffers {
            residual: builder.buffer("residual", sizes.embedding),
            normed: builder.buffer("normed", sizes.embedding),
            query: builder.buffer("query", query_width),
            key: builder.buffer("key", kv_width),
            value: builder.buffer("value", kv_width),
            attended: builder.buffer("attended", query_width),
            projected: builder.buffer("projected", sizes.embedding),
            gate: builder.buffer("gate", sizes.feed_forward),
            up: builder.buffer("up", sizes.feed_forward),
        };
        let table = builder.matrix("token_embd.weight", vocabulary, sizes.embedding)?;
        builder.push(
            "token_embd",
            Action::Embed {
                table,
                output: buffers.residual,
            },
        );
        Ok(Self {
            builder,
            name,
            sizes,
            buffers,
            head_normed: None,
            convolved: None,
            scores: None,
            attentions: 0,
            convolutions: 0,
            norms_behind: false,
            table,
            vocabulary,
        })
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The architecture's metadata key of this name.
    pub(super) fn key(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// Normalises the residual before a part of a layer.
    fn norm(&mut self, layer: usize, part: &str) -> Result<(), GraphError> {
        self.norm_of(layer, part, self.buffers.residual)
    }

    fn norm_of(&mut self, layer: usize, part: &str, input: BufferId) -> Result<(), GraphError> {
        let name = format!("blk.{layer}.{part}");
        let weight = self
            .builder
            .vector(&format!("{name}.weight"), self.sizes.embedding)?;
        let action = Action::RmsNorm {
            input,
            weight,
            parts: 1,
            epsilon: self.sizes.epsilon,
            output: self.buffers.normed,
        };
        self.builder.push(name, action);
        Ok(())
    }

    /// A product with a matrix of a layer.
    fn product(
        &mut self,
        layer: usize,
        part: &str,
        (rows, columns): (usize, usize),
        input: BufferId,
        output: BufferId,
    ) -> Result<(), GraphError> {
        let name = format!("blk.{layer}.{part}");
        let weight = self
            .builder
            .matrix(&format!("{name}.weight"), rows, columns)?;
        self.builder.product(name, weight, input, output);
        Ok(())
    }

    /// Adds what a part of a layer has come to; `norm` names the norm before that, if there is one.
    fn add(&mut self, layer: usize, name: &str, norm: &str) -> Result<(), GraphError> {
        let mut addend = self.buffers.projected;
        if self.norms_behind {
            self.norm_of(layer, norm, addend)?;
            addend = self.buffers.normed;
        }
        let accumulator = self.buffers.residual;
        let action = Action::Add {
            accumulator,
            addend,
        };
        self.builder.push(format!("blk.{layer}.{name}"), action);
        Ok(())
    }

    /// Multiplies the embedding.
    pub(super) fn scale_embedding(&mut self, factor: f32) {
        let values = self.buffers.residual;
        let action = Action::Scale { values, factor };
        self.builder.push("token_embd.scale", action);
    }

    /// All layers of an architecture without further parts: attention in a style, then SwiGLU.
    pub(super) fn layers(&mut self, style: AttentionStyle) -> Result<(), GraphError> {
        self.refuse_window()?;
        for layer in 0..self.sizes.layers {
            self.attention(layer, style)?;
            self.feed_forward(layer, Gate::Silu)?;
        }
        Ok(())
    }

    /// Refuses a file in which all layers read a window of positions.
    pub(super) fn refuse_window(&self) -> Result<(), GraphError> {
        let key = self.key("attention.sliding_window");
        let window = self.builder.file().metadata().get(&key);
        match window.is_some_and(|window| window.as_u64() != Some(0)) {
            true => unsupported(&format!("windows of attention ({key})")),
            false => Ok(()),
        }
    }

    /// The rotary embedding that the metadata describe.
    pub(super) fn rope(&self) -> Result<Rope, GraphError> {
        let key = |part: &str| self.key(&format!("rope.{part}"));
        let metadata = self.builder.file().metadata();
        let scaling = metadata.get(&key("scaling.type")).and_then(Value::as_str);
        let has_factor = metadata.contains_key(&key("scaling.factor"));
        // Without a type it is linear.
        let stretch = match scaling.unwrap_or("linear") == "linear" && has_factor {
            true => self.builder.number(&key("scaling.factor"), 1.0)?,
            false => 1.0,
        };
        Ok(Rope {
            base: self.builder.number(&key("freq_base"), 1.0)?,
            stretch,
            factors: None,
        })
    }

    /// Grouped-query attention.
    pub(super) fn attention(
        &mut self,
        layer: usize,
        style: AttentionStyle,
    ) -> Result<(), GraphError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let Sizes {
            embedding,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let Buffers {
            normed,
            query,
            key,
            value,
            attended,
            projected,
            ..
        } = self.buffers;
        self.norm(layer, "attn_norm")?;
        for (part, heads, output) in [
            ("attn_q", heads, query),
            ("attn_k", kv_heads, key),
            ("attn_v", kv_heads, value),
        ] {
            let rows = heads * head_dim;
            self.product(layer, part, (rows, embedding), normed, output)?;
            if style.biases {
                let bias = name(part) + ".bias";
                let vector = self.builder.vector(&bias, rows)?;
                let values = output;
                let action = Action::AddVector { values, vector };
                self.builder.push(bias, action);
            }
        }
        let [query, key] = match style.head_norms {
            true => self.norm_heads(layer, [(query, heads), (key, kv_heads)])?,
            false => [query, key],
        };
        for (part, values, heads) in [("rope_q", query, heads), ("rope_k", key, kv_heads)] {
            let AttentionStyle { pairs, rope, .. } = style;
            let action = Action::Rope {
                values,
                heads,
                pairs,
                rope,
            };
            self.builder.push(name(part), action);
        }
        let cache = self.attentions;
        self.attentions += 1;
        self.builder.push(
            name("store_kv"),
            Action::StoreKv {
                layer: cache,
                key,
                value,
            },
        );
        self.builder.push(
            name("attention"),
            Action::Attention {
                layer: cache,
                queries: query,
                heads,
                window: style.window,
                output: attended,
            },
        );
        let shape = (embedding, heads * head_dim);
        self.product(layer, "attn_output", shape, attended, projected)?;
        self.add(layer, "attn_add", "post_attention_norm")
    }

    /// Normalises each head of queries and keys.
    fn norm_heads(
        &mut self,
        layer: usize,
        [query, key]: [(BufferId, usize); 2],
    ) -> Result<[BufferId; 2], GraphError> {
        let head_dim = self.sizes.head_dim;
        let builder = &mut self.builder;
        let outputs = *self.head_normed.get_or_insert_with(|| {
            [
                builder.buffer("query_normed", query.1 * head_dim),
                builder.buffer("key_normed", key.1 * head_dim),
            ]
        });
        for ((part, (input, parts)), output) in [("attn_q_norm", query), ("attn_k_norm", key)]
            .into_iter()
            .zip(outputs)
        {
            let name = format!("blk.{layer}.{part}");
            let weight = self.builder.vector(&format!("{name}.weight"), head_dim)?;
            let epsilon = self.sizes.epsilon;
            let action = Action::RmsNorm {
                input,
                weight,
                parts,
                epsilon,
                output,
            };
            self.builder.push(name, action);
        }
        Ok(outputs)
    }

    /// A gated short convolution of so many taps, in place of attention.
    pub(super) fn convolution(&mut self, layer: usize, taps: usize) -> Result<(), GraphError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let embedding = self.sizes.embedding;
        let builder = &mut self.builder;
        let [input, output] = *self.convolved.get_or_insert_with(|| {
            [
                builder.buffer("convolution_input", 3 * embedding),
                builder.buffer("convolution_output", embedding),
            ]
        });
        self.norm(layer, "attn_norm")?;
        let shape = (3 * embedding, embedding);
        self.product(
            layer,
            "shortconv.in_proj",
            shape,
            self.buffers.normed,
            input,
        )?;
        let conv = name("shortconv.conv");
        let weight = self
            .builder
            .convolution(&format!("{conv}.weight"), embedding, taps)?;
        let action = Action::GatedConvolution {
            layer: self.convolutions,
            input,
            weight,
            output,
        };
        self.convolutions += 1;
        self.builder.push(conv, action);
        let shape = (embedding, embedding);
        self.product(
            layer,
            "shortconv.out_proj",
            shape,
            output,
            self.buffers.projected,
        )?;
        self.add(layer, "shortconv.add", "post_attention_norm")
    }

    /// The gated feed-forward network: SwiGLU or GeGLU.
    pub(super) fn feed_forward(&mut self, layer: usize, by: Gate) -> Result<(), GraphError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let Sizes {
            embedding,
            feed_forward,
            ..
        } = self.sizes;
        let Buffers {
            normed,
            projected,
            gate,
            up,
            ..
        } = self.buffers;
        self.norm(layer, "ffn_norm")?;
        for (part, output) in [("ffn_gate", gate), ("ffn_up", up)] {
            self.product(layer, part, (feed_forward, embedding), normed, output)?;
        }
        let (part, action) = match by {
            Gate::Silu => ("ffn_silu", Action::SiluMul { gate, up }),
            Gate::Gelu => ("ffn_gelu", Action::GeluMul { gate, up }),
        };
        self.builder.push(name(part), action);
        self.product(
            layer,
            "ffn_down",
            (embedding, feed_forward),
            gate,
            projected,
        )?;
        self.add(layer, "ffn_add", "post_ffw_norm")
    }

    /// A mixture of experts in place of the feed-forward network: `count` of this width, of which `used` are taken.
    pub(super) fn experts(
        &mut self,
        layer: usize,
        (count, used): (usize, usize),
        feed_forward: usize,
    ) -> Result<(), GraphError> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let weight = |part: &str| format!("blk.{layer}.{part}.weight");
        let embedding = self.sizes.embedding;
        let builder = &mut self.builder;
        let scores = *self
            .scores
            .get_or_insert_with(|| builder.buffer("expert_scores", count));
        let normed = self.buffers.normed;
        self.norm(layer, "ffn_norm")?;
        self.product(layer, "ffn_gate_inp", (count, embedding), normed, scores)?;
        let builder = &mut self.builder;
        let bias = name("exp_probs_b.bias");
        let bias = match builder.file().tensors().contains_key(&bias) {
            true => Some(builder.vector(&bias, count)?),
            false => None,
        };
        let shape = ExpertsShape {
            input: normed,
            scores,
            bias,
            gate: builder.experts(&weight("ffn_gate_exps"), count, feed_forward, embedding)?,
            up: builder.experts(&weight("ffn_up_exps"), count, feed_forward, embedding)?,
            down: builder.experts(&weight("ffn_down_exps"), count, embedding, feed_forward)?,
            used,
            output: self.buffers.projected,
        };
        builder.push(name("ffn_experts"), Action::Experts(shape));
        self.add(layer, "ffn_add", "post_ffw_norm")
    }

    /// Ends with the logits of the last token; `norm` names the weight of the norm before them.
    pub(super) fn finish(mut self, norm: &str, ropes: Vec<Rope>) -> Result<Graph, GraphError> {
        let Sizes {
            embedding, epsilon, ..
        } = self.sizes;
        let builder = &mut self.builder;
        let last = builder.buffer("last", embedding);
        let last_normed = builder.buffer("last_normed", embedding);
        let logits = builder.buffer("logits", self.vocabulary);
        builder.push(
            "last",
            Action::SelectLast {
                input: self.buffers.residual,
                output: last,
            },
        );
        let weight = builder.vector(&format!("{norm}.weight"), embedding)?;
        builder.push(
            "output_norm",
            Action::RmsNorm {
                input: last,
                weight,
                parts: 1,
                epsilon,
                output: last_normed,
            },
        );
        // Without a matrix of its own the output shares the embedding's.
        let output = match builder.file().tensors().contains_key("output.weight") {
            true => builder.matrix("output.weight", self.vocabulary, embedding)?,
            false => self.table,
        };
        builder.product("output", output, last_normed, logits);
        let key = self.key("context_length");
        let context_length = self.builder.size_up_to(&key, CONTEXT_LENGTH_MAX)?;
        let kept = context_length.saturating_mul(self.sizes.kv_heads * self.sizes.head_dim);
        expect(
            &key,
            context_length,
            kept <= KEPT_MAX,
            format!("at most {KEPT_MAX} values of keys in a layer"),
        )?;
        let attention = AttentionShape {
            layers: self.attentions,
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
        };
        self.builder
            .finish(logits, attention, ropes, context_length)
    }
}
