//! Every architecture: its logits against plain f64 arithmetic, and its bits against themselves.
#![expect(
    clippy::disallowed_methods,
    reason = "what is compared with is near, and not the same bits"
)]
use super::TINY;
use crate::{
    Adapter, Batch, Model, Sequence, adapter,
    execute::Member,
    fixture::{self, Weights},
    gguf::{Gguf, TensorType, Value},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{fs, num::NonZeroUsize, path::Path, sync::Arc};

const LENGTH: usize = 40;

fn tokens(text: usize) -> Vec<u32> {
    (0..LENGTH as u32)
        .map(|index| (text as u32 * 41 + index * index * 7 + 3) % 268)
        .collect()
}

fn kernels(isa: Isa, threads: usize) -> Arc<Kernels> {
    let pool = Pool::new(NonZeroUsize::new(threads).unwrap());
    Arc::new(Kernels::new(isa, Arc::new(pool)).unwrap())
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The values of an F32 tensor.
fn floats(file: &Gguf<'_>, name: &str) -> Vec<f64> {
    let (values, _) = file.tensor_bytes(name).unwrap().as_chunks::<4>();
    values
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect()
}

/// A model file in plain f64 arithmetic, whatever its architecture: what a layer is, is read from the tensors it has.
struct Reference<'f> {
    file: Gguf<'f>,
    halves: bool,
    /// An adapter's file.
    adapter: Option<Gguf<'f>>,
}

impl Reference<'_> {
    fn number(&self, part: &str) -> usize {
        let name = self.file.text("general.architecture").unwrap();
        self.file.unsigned(&format!("{name}.{part}")).unwrap() as usize
    }

    fn has(&self, name: &str) -> bool {
        self.file.tensors().contains_key(name)
    }

    fn tensor(&self, name: &str) -> Vec<f64> {
        floats(&self.file, name)
    }

    /// Rows of a matrix times a vector.
    fn product(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let product = |matrix: &[f64], input: &[f64]| -> Vec<f64> {
            let rows = matrix.chunks_exact(input.len());
            rows.map(|row| row.iter().zip(input).map(|(a, b)| a * b).sum())
                .collect()
        };
        let mut output = product(&self.tensor(name), input);
        let Some(adapter) = &self.adapter else {
            return output;
        };
        let factors = ["a", "b"].map(|part| format!("{name}.lora_{part}"));
        if adapter.tensors().contains_key(&factors[0]) {
            let [a, b] = factors.map(|name| floats(adapter, &name));
            let inner = product(&a, input);
            let alpha = f64::from(adapter.float("adapter.lora.alpha").unwrap());
            let scale = alpha / inner.len() as f64;
            let added = product(&b, &inner).into_iter();
            output
                .iter_mut()
                .zip(added)
                .for_each(|(y, u)| *y += scale * u);
        }
        output
    }

    fn norm(&self, name: &str, input: &[f64]) -> Vec<f64> {
        let weight = self.tensor(name);
        let parts = input.chunks_exact(weight.len()).flat_map(|part| {
            let mean = part.iter().map(|x| x * x).sum::<f64>() / part.len() as f64;
            let scale = (mean + 1e-5).sqrt().recip();
            part.iter()
                .zip(&weight)
                .map(move |(x, w)| x * scale * w)
                .collect::<Vec<_>>()
        });
        parts.collect()
    }

    /// Whether a layer reads a window of positions, and how many.
    fn window(&self, layer: usize) -> Option<usize> {
        let name = self.file.text("general.architecture").unwrap();
        let key = format!("{name}.attention.sliding_window");
        let has = self.file.metadata().contains_key(&key);
        (has && layer % 6 != 5).then(|| self.number("attention.sliding_window"))
    }

    fn rotate(&self, values: &mut [f64], head_dim: usize, position: usize, base: f64) {
        for head in values.chunks_exact_mut(head_dim) {
            for pair in 0..head_dim / 2 {
                let (i, j) = match self.halves {
                    true => (pair, pair + head_dim / 2),
                    false => (2 * pair, 2 * pair + 1),
                };
                let frequency = base.powf(-2.0 * pair as f64 / head_dim as f64);
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                let (a, b) = (head[i], head[j]);
                (head[i], head[j]) = (a * cosine - b * sine, a * sine + b * cosine);
            }
        }
    }

    /// All positions' attention in a layer.
    fn attention(&self, layer: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let heads = self.number("attention.head_count");
        let [queries, keys, values] = ["q", "k", "v"].map(|part| {
            let of = |(position, input): (usize, &Vec<f64>)| {
                let mut row = self.product(&name(&format!("attn_{part}.weight")), input);
                if self.has(&name(&format!("attn_{part}.bias"))) {
                    let bias = self.tensor(&name(&format!("attn_{part}.bias")));
                    row.iter_mut()
                        .zip(bias)
                        .for_each(|(value, bias)| *value += bias);
                }
                if self.has(&name(&format!("attn_{part}_norm.weight"))) {
                    row = self.norm(&name(&format!("attn_{part}_norm.weight")), &row);
                }
                if part != "v" {
                    let name = self.file.text("general.architecture").unwrap();
                    let base = match self.window(layer) {
                        Some(_) => 10_000.0,
                        None => {
                            f64::from(self.file.float(&format!("{name}.rope.freq_base")).unwrap())
                        }
                    };
                    self.rotate(
                        &mut row,
                        self.number("rope.dimension_count"),
                        position,
                        base,
                    );
                }
                row
            };
            inputs.iter().enumerate().map(of).collect::<Vec<_>>()
        });
        let head_dim = queries[0].len() / heads;
        let sharing = heads * head_dim / keys[0].len();
        let attend = |position: usize| {
            let mut output = Vec::new();
            for head in 0..heads {
                let query = &queries[position][head * head_dim..][..head_dim];
                let shared = head / sharing * head_dim;
                let window = self.window(layer).unwrap_or(usize::MAX);
                let first = (position + 1).saturating_sub(window);
                let scores: Vec<f64> = (first..=position)
                    .map(|at| {
                        let key = &keys[at][shared..][..head_dim];
                        let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                        (dot / (head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                for dimension in 0..head_dim {
                    let weighted = scores.iter().zip(&values[first..]);
                    let weighted = weighted.map(|(score, row)| score * row[shared + dimension]);
                    output.push(weighted.sum::<f64>() / sum);
                }
            }
            self.product(&name("attn_output.weight"), &output)
        };
        (0..inputs.len()).map(attend).collect()
    }

    /// What the experts of a layer make of a normalised row.
    fn experts(&self, layer: usize, input: &[f64]) -> Vec<f64> {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let scores = self.product(&name("ffn_gate_inp.weight"), input);
        let bias = self.tensor(&name("exp_probs_b.bias"));
        let weights: Vec<f64> = scores.iter().map(|s| 1.0 / (1.0 + (-s).exp())).collect();
        let mut best: Vec<usize> = (0..weights.len()).collect();
        best.sort_by(|a, b| (weights[*b] + bias[*b]).total_cmp(&(weights[*a] + bias[*a])));
        best.truncate(self.number("expert_used_count"));
        let sum: f64 = best.iter().map(|expert| weights[*expert]).sum();
        let part = |part: &str, expert: usize, input: &[f64]| -> Vec<f64> {
            let all = self.tensor(&name(part));
            let matrix = &all[all.len() / weights.len() * expert..][..all.len() / weights.len()];
            let rows = matrix.chunks_exact(input.len());
            rows.map(|row| row.iter().zip(input).map(|(a, b)| a * b).sum())
                .collect()
        };
        let mut output = vec![0.0; input.len()];
        for expert in best {
            let gate = part("ffn_gate_exps.weight", expert, input);
            let up = part("ffn_up_exps.weight", expert, input);
            let hidden = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u);
            let result = part("ffn_down_exps.weight", expert, &hidden.collect::<Vec<_>>());
            let weight = weights[expert] / sum;
            output
                .iter_mut()
                .zip(result)
                .for_each(|(sum, value)| *sum += weight * value);
        }
        output
    }

    /// All positions' gated convolution in a layer.
    fn convolution(&self, layer: usize, inputs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let name = |part: &str| format!("blk.{layer}.shortconv.{part}.weight");
        let taps = self.tensor(&name("conv"));
        let width = inputs[0].len();
        let count = taps.len() / width;
        let projected: Vec<_> = inputs
            .iter()
            .map(|i| self.product(&name("in_proj"), i))
            .collect();
        let of = |position: usize| {
            let channel = |channel: usize| {
                let mut sum = 0.0;
                for tap in 0..count {
                    if let Some(at) = (position + tap + 1).checked_sub(count) {
                        let row = &projected[at];
                        sum +=
                            taps[channel * count + tap] * row[channel] * row[2 * width + channel];
                    }
                }
                sum * projected[position][width + channel]
            };
            let output: Vec<f64> = (0..width).map(channel).collect();
            self.product(&name("out_proj"), &output)
        };
        (0..inputs.len()).map(of).collect()
    }

    /// Logits after the last of the tokens.
    fn logits(&self, tokens: &[u32], output_norm: &str) -> Vec<f64> {
        let width = self.number("embedding_length");
        let table = self.tensor("token_embd.weight");
        let mut rows: Vec<Vec<f64>> = tokens
            .iter()
            .map(|token| table[*token as usize * width..][..width].to_vec())
            .collect();
        let is_gated_by_gelu = self.has("blk.0.post_ffw_norm.weight");
        if is_gated_by_gelu {
            rows.iter_mut()
                .flatten()
                .for_each(|value| *value *= (width as f64).sqrt());
        }
        let add = |rows: &mut Vec<Vec<f64>>, addends: Vec<Vec<f64>>, norm: &str| {
            for (row, mut addend) in rows.iter_mut().zip(addends) {
                if self.has(norm) {
                    addend = self.norm(norm, &addend);
                }
                row.iter_mut().zip(addend).for_each(|(a, b)| *a += b);
            }
        };
        for layer in 0..self.number("block_count") {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let normed: Vec<_> = rows
                .iter()
                .map(|r| self.norm(&name("attn_norm"), r))
                .collect();
            let mixed = match self.has(&name("attn_q")) {
                true => self.attention(layer, &normed),
                false => self.convolution(layer, &normed),
            };
            add(&mut rows, mixed, &name("post_attention_norm"));
            let fed = rows.iter().map(|row| -> Vec<f64> {
                let normed = self.norm(&name("ffn_norm"), row);
                if self.has(&name("ffn_gate_inp")) {
                    return self.experts(layer, &normed);
                }
                let gate = self.product(&name("ffn_gate"), &normed);
                let up = self.product(&name("ffn_up"), &normed);
                let hidden = gate.iter().zip(up).map(|(g, u)| match is_gated_by_gelu {
                    true => {
                        let inner =
                            (2.0 / std::f64::consts::PI).sqrt() * (g + 0.044715 * g.powi(3));
                        0.5 * g * (1.0 + inner.tanh()) * u
                    }
                    false => g / (1.0 + (-g).exp()) * u,
                });
                self.product(&name("ffn_down"), &hidden.collect::<Vec<_>>())
            });
            let fed = fed.collect();
            add(&mut rows, fed, &name("post_ffw_norm"));
        }
        let last = self.norm(&format!("{output_norm}.weight"), rows.last().unwrap());
        self.product("token_embd.weight", &last)
    }
}

#[test]
fn logits_are_those_of_plain_arithmetic() {
    for of in TINY {
        let bytes = fixture::tiny(of, 11, Weights::Float).build();
        let model = Model::from_bytes(&bytes).unwrap();
        let reference = Reference {
            file: Gguf::parse(&bytes).unwrap(),
            halves: of.architecture != "llama",
            adapter: None,
        };
        let wanted = reference.logits(&tokens(0), of.output_norm);
        assert_near(&logits(model, None), &wanted, of.architecture);
    }
}

#[test]
fn logits_with_an_adapter_and_merged_with_it_are_those_of_plain_arithmetic() {
    for of in TINY {
        let bytes = fixture::tiny(of, 11, Weights::Float).build();
        let model = Model::from_bytes(&bytes).unwrap();
        let base = Some(model.digest());
        let file = fixture::adapter(&bytes, 12, 6, TensorType::F32, base).build();
        let adapter = Adapter::from_gguf(&file, &model, None).unwrap();
        let mut reference = Reference {
            file: Gguf::parse(&bytes).unwrap(),
            halves: of.architecture != "llama",
            adapter: None,
        };
        let bare = reference.logits(&tokens(0), of.output_norm);
        reference.adapter = Some(Gguf::parse(&file).unwrap());
        let wanted = reference.logits(&tokens(0), of.output_norm);
        assert!(spread(&bare, &wanted) > 0.1, "the adapter does something");
        let mut merged = Vec::new();
        adapter::merge(&[&bytes], &adapter, None, &mut merged).unwrap();
        let merged = Model::from_bytes(&merged).unwrap();
        assert_near(&logits(model, Some(adapter)), &wanted, of.architecture);
        assert_near(&logits(merged, None), &wanted, of.architecture);
    }
}

fn logits(model: Arc<Model>, adapter: Option<Arc<Adapter>>) -> Vec<f64> {
    let mut sequence = Sequence::new(model, kernels(Isa::Portable, 1), LENGTH);
    sequence.set_adapter(adapter).unwrap();
    sequence.begin(&tokens(0), true).unwrap();
    sequence.finish();
    sequence.logits().iter().map(|v| f64::from(*v)).collect()
}

/// The largest difference, as a share of the range of those wanted.
fn spread(found: &[f64], wanted: &[f64]) -> f64 {
    let largest = wanted.iter().copied().fold(f64::MIN, f64::max);
    let range = largest - wanted.iter().copied().fold(f64::MAX, f64::min);
    let differences = found.iter().zip(wanted);
    let worst = differences.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    worst / range
}

fn assert_near(found: &[f64], wanted: &[f64], name: &str) {
    let spread = spread(found, wanted);
    assert!(spread < 1e-3, "{name}: {spread}");
}

#[test]
fn bits_depend_on_the_text_alone() {
    for (of, isa) in TINY
        .iter()
        .flat_map(|of| Isa::available().into_iter().map(move |isa| (of, isa)))
    {
        let model = Model::from_bytes(&fixture::tiny(of, 3, Weights::Mixed).build()).unwrap();
        let new = |threads| Sequence::new(model.clone(), kernels(isa, threads), LENGTH);
        let mut alone = Sequence::new(model.clone(), kernels(Isa::Portable, 1), LENGTH);
        let mut wanted = Vec::new();
        for text in 0..2 {
            alone.clear();
            for token in tokens(text) {
                alone.begin(&[token], true).unwrap();
                alone.finish();
            }
            wanted.push(bits(alone.logits()));
        }
        // In chunks, with a pass over other tokens that is dropped half-way before each.
        for chunk in [1, 2, 3, 7, LENGTH] {
            let mut sequence = new(2);
            for tokens in tokens(0).chunks(chunk) {
                let others: Vec<u32> = tokens.iter().map(|token| (token + 1) % 268).collect();
                sequence.begin(&others, false).unwrap();
                for _ in 0..model.graph().head / 2 {
                    let _ = sequence.step();
                }
                sequence.begin(tokens, true).unwrap();
                sequence.finish();
            }
            assert_eq!(
                bits(sequence.logits()),
                wanted[0],
                "{} {isa} {chunk}",
                of.architecture
            );
        }
        // Two in a batch, of which one is ahead.
        let mut both = [new(1), new(1)];
        both[1].begin(&tokens(1)[..5], false).unwrap();
        both[1].finish();
        let mut batch = Batch::new(model.clone(), kernels(isa, 2));
        let (first, second) = (tokens(0), tokens(1));
        for (first, second) in first.chunks(8).zip(second[5..].chunks(7)) {
            let mut texts = both.iter_mut();
            let members = [first, second].map(|tokens| Member {
                sequence: texts.next().unwrap(),
                tokens,
                logits: true,
            });
            batch.run(&mut { members }).unwrap();
        }
        for (text, sequence) in both.iter().enumerate() {
            assert_eq!(sequence.position(), LENGTH);
            assert_eq!(
                bits(sequence.logits()),
                wanted[text],
                "{} {isa}, batch",
                of.architecture
            );
        }
    }
}

#[test]
fn layers_without_attention_are_said_by_an_array_as_long_as_there_are_layers() {
    let lfm2 = TINY.iter().find(|of| of.architecture == "lfm2").unwrap();
    let key = format!("{}.attention.head_count_kv", lfm2.architecture);
    let error = |value: Value| {
        let file = fixture::tiny(lfm2, 1, Weights::Mixed).set(&key, value);
        Model::from_bytes(&file.build()).unwrap_err().to_string()
    };
    assert_eq!(
        error(Value::Array(vec![Value::U32(0), Value::U32(2)])),
        "metadata value is out of range (allowed: one for each of 4 layers): \
         lfm2.attention.head_count_kv = 2 numbers"
    );
    assert_eq!(
        error(Value::Array([0, 1, 2, 0].map(Value::U32).to_vec())),
        "the model uses a feature that is not supported: layers of different numbers of key and value heads \
         (lfm2.attention.head_count_kv)"
    );
}

/// Lines of the crate's code, outside of this folder and of tests, that `check` says yes to.
fn lines(folder: &Path, check: &dyn Fn(&str) -> bool, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "arch") {
                lines(&path, check, found);
            }
        } else if !path.ends_with("tests.rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let named = code.lines().filter(|line| check(line));
            found.extend(named.map(|line| format!("{}: {line}", path.display())));
        }
    }
}

#[test]
fn names_of_architectures_stand_here_alone() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for of in TINY {
        let (name, key) = (
            format!("\"{}\"", of.architecture),
            format!("\"{}.", of.architecture),
        );
        // A kind of tokenizer and a way of cutting have names of architectures.
        let is_tokenizer =
            |line: &str| line.contains("const SENTENCEPIECE: ") || line.contains("Kind::Pattern(");
        let names =
            |line: &str| (line.contains(&name) || line.contains(&key)) && !is_tokenizer(line);
        let mut found = Vec::new();
        lines(&source, &names, &mut found);
        assert_eq!(found, [""; 0], "{}", of.architecture);
    }
}

#[test]
fn factors_of_rotations_are_numbers_above_0() {
    for (factor, is_good) in [(4.0, true), (0.0, false), (-1.0, false), (1e-40, false)] {
        let factors = [1.0f32, 1.0, 2.0, 2.0, 4.0, 4.0, 8.0, factor];
        let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes());
        let file = fixture::tiny(&TINY[0], 1, Weights::Mixed);
        let file = file.tensor("rope_freqs.weight", &[8], TensorType::F32, bytes.collect());
        match Model::from_bytes(&file.build()) {
            Ok(_) => assert!(is_good, "{factor}"),
            Err(error) => {
                let expected = format!(
                    "metadata value is out of range (allowed: normal numbers above 0): rope_freqs.weight = {factor}"
                );
                assert_eq!(error.to_string(), expected);
                assert!(!is_good, "{factor}");
            }
        }
    }
}

#[test]
fn what_would_change_results_is_refused_by_name() {
    let tiny = |name: &str| TINY.iter().find(|of| of.architecture == name).unwrap();
    let error = |name: &str, part: &str, value: Value| {
        let file = fixture::tiny(tiny(name), 1, Weights::Mixed);
        let file = file.set(&format!("{name}.{part}"), value);
        Model::from_bytes(&file.build()).unwrap_err().to_string()
    };
    for (name, part, value) in [
        ("lfm2", "attention.sliding_window", Value::U32(8)),
        ("llama", "attention.causal", Value::Bool(false)),
        ("qwen2", "rope.scaling.attn_factor", Value::F32(2.0)),
        ("gemma3", "attn_logit_softcapping", Value::F32(50.0)),
        ("llama", "expert_count", Value::U32(4)),
    ] {
        let message = error(name, part, value);
        assert!(
            message.starts_with("the model uses a feature that is not supported: "),
            "{message}"
        );
        assert!(message.contains(&format!("({name}.{part})")), "{message}");
    }
    // Sizes that no memory holds.
    let message = error("qwen3", "attention.key_length", Value::U32(1 << 20));
    let allowed =
        "metadata value is out of range (allowed: 1 to 1024): qwen3.attention.key_length = 1048576";
    assert_eq!(message, allowed);
    // Without a type a factor stretches all frequencies, as with the type it has then.
    let stretched = |file: fixture::GgufBuilder| {
        let file = file.set("llama.rope.scaling.factor", Value::F32(4.0));
        Model::from_bytes(&file.build()).unwrap().graph().ropes[0].stretch
    };
    let plain = fixture::tiny(tiny("llama"), 1, Weights::Mixed);
    let typed = |name: &str| {
        plain
            .clone()
            .set("llama.rope.scaling.type", Value::String(name.into()))
    };
    let stretches = [
        stretched(plain.clone()),
        stretched(typed("linear")),
        stretched(typed("none")),
    ];
    assert_eq!(stretches, [4.0, 4.0, 1.0]);
}
