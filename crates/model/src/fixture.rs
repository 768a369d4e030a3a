//! Small GGUF files with pseudo-random weights, for tests of this crate and of the crates above.
//!
//! # Determinism
//! A file is a function of its seed alone, so digests of what a tiny model says can be frozen.
mod checkpoint;
mod peft;

use crate::{
    adapter::BASE_DIGEST,
    arch,
    digest::Digest,
    gguf::{self, NewTensor, TensorType, Value},
    graph::{Action, Shape},
};
pub use checkpoint::{Element, Floats, TinyCheckpoint};
use lockstep_numeric::convert::f32_to_f16;
pub use peft::{PEFT_CONFIG, peft};

/// The chat template of [`tiny_llama`].
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Positions of [`tiny_llama`]'s context.
pub const CONTEXT_LENGTH: usize = 192;

const EMBEDDING: usize = 64;
const FEED_FORWARD: usize = 96;
const HEADS: usize = 4;
const TAPS: usize = 3;
const EXPERT_WIDTH: usize = 32;
const ALIGNMENT: usize = 32;

/// Makes a file part by part.
#[derive(Clone, Debug, Default)]
pub struct GgufBuilder {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, Vec<u64>, TensorType, Vec<u8>)>,
}

impl GgufBuilder {
    /// Sets a metadata value.
    #[must_use]
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// Removes a metadata value.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.metadata.retain(|(known, _)| known != key);
        self
    }

    /// Adds a tensor; `dimensions` with the contiguous one first.
    #[must_use]
    pub fn tensor(
        mut self,
        name: &str,
        dimensions: &[u64],
        tensor_type: TensorType,
        bytes: Vec<u8>,
    ) -> Self {
        let tensor = (name.to_owned(), dimensions.to_vec(), tensor_type, bytes);
        self.tensors.push(tensor);
        self
    }

    /// Removes a tensor.
    #[must_use]
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|(known, ..)| known != name);
        self
    }

    /// The bytes of so many files that are the same model: each has some of the tensors, the first the metadata.
    #[must_use]
    pub fn split(&self, count: usize) -> Vec<Vec<u8>> {
        let each = self.tensors.len().div_ceil(count).max(1);
        let mut parts = self.tensors.chunks(each);
        let part = |number: usize| {
            let metadata = match number {
                0 => self.metadata.clone(),
                _ => Vec::new(),
            };
            let part = Self {
                metadata,
                tensors: parts.next().unwrap_or_default().to_vec(),
            };
            let part = part
                .set("split.no", Value::U16(number as u16))
                .set("split.count", Value::U16(count as u16))
                .set("split.tensors.count", Value::I32(self.tensors.len() as i32));
            part.build()
        };
        (0..count).map(part).collect()
    }

    /// The file's bytes, whether its tensors' fit their shapes or not.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (mut tensors, mut lengths, mut data) = (Vec::new(), Vec::new(), Vec::new());
        for (name, dimensions, tensor_type, bytes) in &self.tensors {
            tensors.push(NewTensor {
                name: name.clone(),
                dimensions: dimensions.clone(),
                tensor_type: *tensor_type,
            });
            lengths.push(bytes.len() as u64);
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        let tensors = tensors.iter().zip(&lengths);
        let mut file = gguf::header(&self.metadata, tensors, ALIGNMENT as u64);
        file.extend(data);
        file
    }
}

/// Pseudo-random numbers (SplitMix64) that follow from a seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "there is no end of them")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn bytes(&mut self, tensor_type: TensorType, elements: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        match tensor_type {
            TensorType::F32 => {
                for _ in 0..elements {
                    bytes.extend(((self.unit() - 0.5) * 0.5).to_le_bytes());
                }
            }
            TensorType::Q8_0 => {
                for _ in 0..elements / 32 {
                    let scale = 0.002 + 0.002 * self.unit();
                    bytes.extend(f32_to_f16(scale).to_le_bytes());
                    bytes.extend((0..32).map(|_| self.next() as u8));
                }
            }
            TensorType::Q4_1 => {
                for _ in 0..elements / 32 {
                    let scale = 0.02 + 0.02 * self.unit();
                    bytes.extend(f32_to_f16(scale).to_le_bytes());
                    bytes.extend(f32_to_f16(scale * -7.5).to_le_bytes());
                    bytes.extend((0..16).map(|_| self.next() as u8));
                }
            }
            other => unreachable!("no random weights of type {other}"),
        }
        bytes
    }
}

/// The experts of a small file.
#[derive(Clone, Copy, Debug)]
pub struct TinyExperts {
    /// Layers before the first that has some.
    pub dense: usize,
    /// Experts of a layer.
    pub count: usize,
    /// Of which so many are taken.
    pub used: usize,
}

/// What the small files of an architecture have.
#[derive(Clone, Copy, Debug)]
pub struct Tiny {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Times the widths of the smallest.
    pub scale: usize,
    /// Values per head; 16 times the scale are its share of the channels.
    pub head_dim: usize,
    /// Whether queries, keys and values have biases.
    pub biases: bool,
    /// Whether heads have norms.
    pub head_norms: bool,
    /// Whether there are norms behind attention and feed-forward network, too.
    pub norms_behind: bool,
    /// How many positions layers read that do not read all.
    pub window: Option<u32>,
    /// Experts, if it has some.
    pub experts: Option<TinyExperts>,
    /// For each layer whether it attends; the others have convolutions.
    pub attends: &'static [bool],
    /// Name of the norm before the output.
    pub output_norm: &'static str,
}

impl Tiny {
    /// Two layers that attend, and nothing else.
    pub(crate) const fn plain(architecture: &'static str) -> Self {
        Self {
            architecture,
            scale: 1,
            head_dim: EMBEDDING / HEADS,
            biases: false,
            head_norms: false,
            norms_behind: false,
            window: None,
            experts: None,
            attends: &[true; 2],
            output_norm: "output_norm",
        }
    }

    /// The same with rows that are whole blocks of every format.
    #[must_use]
    pub const fn wide(self) -> Self {
        const SCALE: usize = 8;
        Self {
            scale: SCALE,
            head_dim: SCALE * self.head_dim,
            ..self
        }
    }

    /// Of embedding, feed-forward network and expert.
    const fn widths(&self) -> [usize; 3] {
        [
            self.scale * EMBEDDING,
            self.scale * FEED_FORWARD,
            self.scale * EXPERT_WIDTH,
        ]
    }
}

/// In which formats the weights of a small file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// F32, Q8_0 and Q4_1.
    Mixed,
    /// F32.
    Float,
}

/// A `llama` of two layers, 64 channels and 4 heads on 2, with several weight formats, a byte-level
/// vocabulary with control tokens 0 to 2, and [`CHAT_TEMPLATE`].
#[must_use]
pub fn tiny_llama(seed: u64) -> GgufBuilder {
    tiny(&arch::TINY[0], seed, Weights::Mixed)
}

/// The same of any architecture.
#[must_use]
pub fn tiny(of: &Tiny, seed: u64, weights: Weights) -> GgufBuilder {
    let (tokens, types, merges) = vocabulary();
    let count = tokens.len();
    let strings = |texts: Vec<String>| Value::Array(texts.into_iter().map(Value::String).collect());
    let text = |text: &str| Value::String(text.to_owned());
    let [embedding, feed_forward, expert_width] = of.widths();
    let size = |size: usize| Value::U32(size as u32);
    let key = |part: &str| format!("{}.{part}", of.architecture);
    // Local layers have the other base.
    let base = if of.window.is_some() { 1e6 } else { 1e4 };
    let kv_heads = match of.attends.contains(&false) {
        true => Value::Array(
            of.attends
                .iter()
                .map(|is| size(2 * usize::from(*is)))
                .collect(),
        ),
        false => size(2),
    };
    let mut file = GgufBuilder::default()
        .set("general.architecture", text(of.architecture))
        .set("general.name", text("tiny"))
        .set(&key("block_count"), size(of.attends.len()))
        .set(&key("context_length"), size(CONTEXT_LENGTH))
        .set(&key("embedding_length"), size(embedding))
        .set(&key("feed_forward_length"), size(feed_forward))
        .set(&key("attention.head_count"), size(HEADS))
        .set(&key("attention.head_count_kv"), kv_heads)
        .set(&key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5))
        .set(&key("rope.freq_base"), Value::F32(base))
        .set(&key("rope.dimension_count"), size(of.head_dim))
        .set(&key("vocab_size"), size(count));
    if of.head_dim != embedding / HEADS {
        for part in ["attention.key_length", "attention.value_length"] {
            file = file.set(&key(part), size(of.head_dim));
        }
    }
    if let Some(window) = of.window {
        file = file.set(&key("attention.sliding_window"), Value::U32(window));
    }
    if let Some(experts) = of.experts {
        for (part, value) in [
            ("expert_count", experts.count),
            ("expert_used_count", experts.used),
            ("expert_feed_forward_length", expert_width),
            ("leading_dense_block_count", experts.dense),
            ("expert_gating_func", 2),
        ] {
            file = file.set(&key(part), size(value));
        }
    }
    if of.attends.contains(&false) {
        file = file.set(&key("shortconv.l_cache"), size(TAPS));
    }
    let file = file
        .set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("smollm"))
        .set("tokenizer.ggml.tokens", strings(tokens))
        .set("tokenizer.ggml.token_type", Value::Array(types))
        .set("tokenizer.ggml.merges", strings(merges))
        .set("tokenizer.ggml.bos_token_id", size(1))
        .set("tokenizer.ggml.eos_token_id", size(2))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .set("tokenizer.chat_template", text(CHAT_TEMPLATE));
    let random = Random(seed);
    fill(file, of, weights, random, count)
}

/// An adapter in llama.cpp's form for every matrix of a model file that can have one, with pseudo-random factors of this
/// rank; `base` says whose it is. Values are F16, unless `type` is F32.
///
/// # Panics
/// The bytes are not a model, or the type is another.
#[must_use]
pub fn adapter(
    model: &[u8],
    seed: u64,
    rank: usize,
    tensor_type: TensorType,
    base: Option<Digest>,
) -> GgufBuilder {
    let model = gguf::Gguf::parse(model).expect("a model file");
    let graph = arch::graph(&model).expect("a model");
    let text = |text: &str| Value::String(text.to_owned());
    let architecture = model.text("general.architecture").expect("a model file");
    let mut file = GgufBuilder::default()
        .set("general.type", text("adapter"))
        .set("general.architecture", text(architecture))
        .set("adapter.type", text("lora"))
        .set("adapter.lora.alpha", Value::F32(2.0 * rank as f32));
    if let Some(base) = base {
        file = file.set(BASE_DIGEST, text(&base.to_string()));
    }
    let mut random = Random(seed);
    let products = graph.operations.iter().filter_map(|o| match o.action {
        Action::MatMul { weight, .. } => Some(&graph.tensors[weight.0]),
        _ => None,
    });
    for tensor in products.filter(|tensor| tensor.name != "token_embd.weight") {
        let Shape::Matrix { rows, columns } = tensor.shape else {
            unreachable!("products are with matrices");
        };
        for (part, dimensions) in [("lora_a", [columns, rank]), ("lora_b", [rank, rows])] {
            let values = (0..dimensions[0] * dimensions[1]).map(|_| (random.unit() - 0.5) * 0.25);
            let bytes = match tensor_type {
                TensorType::F16 => values.flat_map(|v| f32_to_f16(v).to_le_bytes()).collect(),
                TensorType::F32 => values.flat_map(f32::to_le_bytes).collect(),
                other => panic!("no random factors of type {other}"),
            };
            let name = format!("{}.{part}", tensor.name);
            file = file.tensor(&name, &dimensions.map(|d| d as u64), tensor_type, bytes);
        }
    }
    file
}

/// Adds the tensors.
fn fill(
    mut file: GgufBuilder,
    of: &Tiny,
    weights: Weights,
    mut random: Random,
    vocabulary: usize,
) -> GgufBuilder {
    use TensorType as Type;
    let [embedding, feed_forward, expert_width] = of.widths();
    let (query_width, kv_width) = (HEADS * of.head_dim, 2 * of.head_dim);
    let mut matrices = vec![("token_embd".to_owned(), vocabulary, embedding, Type::Q8_0)];
    let mut norms = vec![(of.output_norm.to_owned(), embedding)];
    let (mut floats, mut experts) = (Vec::new(), Vec::new());
    for (layer, attends) in of.attends.iter().enumerate() {
        let name = |part: &str| format!("blk.{layer}.{part}");
        norms.extend([
            (name("attn_norm"), embedding),
            (name("ffn_norm"), embedding),
        ]);
        if of.norms_behind {
            let behind = ["post_attention_norm", "post_ffw_norm"];
            norms.extend(behind.map(|part| (name(part), embedding)));
        }
        if *attends {
            matrices.extend([
                (name("attn_q"), query_width, embedding, Type::Q4_1),
                (name("attn_k"), kv_width, embedding, Type::F32),
                (name("attn_v"), kv_width, embedding, Type::Q8_0),
                (name("attn_output"), embedding, query_width, Type::Q4_1),
            ]);
            if of.head_norms {
                norms.extend(["attn_q_norm", "attn_k_norm"].map(|part| (name(part), of.head_dim)));
            }
            if of.biases {
                floats.extend([
                    (name("attn_q.bias"), vec![query_width]),
                    (name("attn_k.bias"), vec![kv_width]),
                    (name("attn_v.bias"), vec![kv_width]),
                ]);
            }
        } else {
            matrices.extend([
                (
                    name("shortconv.in_proj"),
                    3 * embedding,
                    embedding,
                    Type::Q8_0,
                ),
                (name("shortconv.out_proj"), embedding, embedding, Type::Q4_1),
            ]);
            floats.push((name("shortconv.conv.weight"), vec![TAPS, embedding]));
        }
        match of.experts.filter(|experts| layer >= experts.dense) {
            None => matrices.extend([
                (name("ffn_gate"), feed_forward, embedding, Type::Q4_1),
                (name("ffn_up"), feed_forward, embedding, Type::Q8_0),
                (name("ffn_down"), embedding, feed_forward, Type::Q4_1),
            ]),
            Some(TinyExperts { count, .. }) => {
                let of_all = |part, rows, columns, tensor_type| {
                    (name(part), count, rows, columns, tensor_type)
                };
                experts.extend([
                    of_all("ffn_gate_exps", expert_width, embedding, Type::Q4_1),
                    of_all("ffn_up_exps", expert_width, embedding, Type::Q8_0),
                    of_all("ffn_down_exps", embedding, expert_width, Type::Q8_0),
                ]);
                matrices.push((name("ffn_gate_inp"), count, embedding, Type::F32));
                floats.push((name("exp_probs_b.bias"), vec![count]));
            }
        }
    }
    let type_of = |mixed| match weights {
        Weights::Mixed => mixed,
        Weights::Float => Type::F32,
    };
    for (name, rows, columns, mixed) in matrices {
        let tensor_type = type_of(mixed);
        let bytes = random.bytes(tensor_type, rows * columns);
        let dimensions = [columns as u64, rows as u64];
        file = file.tensor(&format!("{name}.weight"), &dimensions, tensor_type, bytes);
    }
    for (name, length) in norms {
        let bytes = (0..length)
            .flat_map(|_| (0.5 + random.unit()).to_le_bytes())
            .collect();
        file = file.tensor(
            &format!("{name}.weight"),
            &[length as u64],
            Type::F32,
            bytes,
        );
    }
    for (name, count, rows, columns, mixed) in experts {
        let tensor_type = type_of(mixed);
        let bytes = random.bytes(tensor_type, count * rows * columns);
        let dimensions = [columns, rows, count].map(|size| size as u64);
        file = file.tensor(&format!("{name}.weight"), &dimensions, tensor_type, bytes);
    }
    for (name, dimensions) in floats {
        let bytes = random.bytes(Type::F32, dimensions.iter().product());
        let dimensions: Vec<u64> = dimensions.iter().map(|size| *size as u64).collect();
        file = file.tensor(&name, &dimensions, Type::F32, bytes);
    }
    file
}

/// Three control tokens, all bytes, and a few merges.
fn vocabulary() -> (Vec<String>, Vec<Value>, Vec<String>) {
    let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        .map(str::to_owned)
        .to_vec();
    let mut types = vec![Value::I32(3); tokens.len()];
    let printable = ('!'..='~')
        .chain('\u{a1}'..='\u{ac}')
        .chain('\u{ae}'..='\u{ff}');
    let numbered = (0..68).filter_map(|number| char::from_u32(0x100 + number));
    tokens.extend(printable.chain(numbered).map(String::from));
    let mut merges = Vec::new();
    for (left, right) in [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("e", "r"),
        ("u", "s"),
        ("us", "er"),
        ("Ġ", "a"),
        ("l", "l"),
    ] {
        tokens.push(format!("{left}{right}"));
        merges.push(format!("{left} {right}"));
    }
    types.resize(tokens.len(), Value::I32(1));
    (tokens, types, merges)
}
