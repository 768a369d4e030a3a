//! Times passes over a model.

use crate::error::Failure;
use anyhow::Result;
use lockstep_model::{
    Batch, Digest, Model, Sequence,
    execute::Member,
    graph::{Action, Shape},
};
use lockstep_numeric::{Kernels, argmax};
use std::{
    collections::BTreeMap,
    fs,
    hint::black_box,
    num::NonZeroUsize,
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

/// Digests of which the best is taken.
const DIGESTS: usize = 100;

/// A model on some threads.
#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) model: Arc<Model>,
    pub(super) kernels: Arc<Kernels>,
}

/// Seconds per kind of operation.
pub(super) type Profile = BTreeMap<String, f64>;

impl Runner {
    fn sequence(&self, capacity: usize) -> Sequence {
        Sequence::new(Arc::clone(&self.model), Arc::clone(&self.kernels), capacity)
    }

    /// Seconds for a prompt in passes of `chunk` tokens, the last of them with logits, on an empty
    /// sequence; the first token is chosen within them.
    pub(super) fn prefill(&self, prompt: &[u32], chunk: NonZeroUsize) -> Result<f64> {
        let mut sequence = self.sequence(prompt.len());
        let begun = Instant::now();
        prefill(&mut sequence, prompt, chunk)?;
        black_box(argmax(sequence.logits()).map_err(Failure::user)?);
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds for `tokens` one by one, each with logits, from an empty sequence.
    pub(super) fn decode(&self, tokens: &[u32]) -> Result<f64> {
        let mut sequence = self.sequence(tokens.len());
        let begun = Instant::now();
        for token in tokens {
            one(&mut sequence, *token)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds for `tokens` one by one in `count` sequences at a time, each with logits.
    pub(super) fn decode_batch(&self, tokens: &[u32], count: NonZeroUsize) -> Result<f64> {
        let mut batch = Batch::new(Arc::clone(&self.model), Arc::clone(&self.kernels));
        let mut sequences: Vec<_> = (0..count.get())
            .map(|_| self.sequence(tokens.len()))
            .collect();
        let begun = Instant::now();
        for token in tokens {
            let mut members: Vec<_> = sequences
                .iter_mut()
                .map(|sequence| Member {
                    sequence,
                    tokens: slice::from_ref(token),
                    logits: true,
                })
                .collect();
            batch.run(&mut members).map_err(Failure::user)?;
            for sequence in &sequences {
                black_box(sequence.logits());
            }
        }
        Ok(begun.elapsed().as_secs_f64())
    }

    /// Seconds for `prompt`, then for each of `tokens` behind it.
    pub(super) fn decode_behind(
        &self,
        prompt: &[u32],
        chunk: NonZeroUsize,
        tokens: &[u32],
    ) -> Result<(f64, Vec<f64>)> {
        let mut sequence = self.sequence(prompt.len() + tokens.len());
        let begun = Instant::now();
        prefill(&mut sequence, prompt, chunk)?;
        let prefill = begun.elapsed().as_secs_f64();
        let times = tokens
            .iter()
            .map(|token| {
                let begun = Instant::now();
                one(&mut sequence, *token)?;
                Ok(begun.elapsed().as_secs_f64())
            })
            .collect::<Result<_>>()?;
        Ok((prefill, times))
    }

    /// Seconds for the digest of a token's logits: the best of several, since others disturb it more than
    /// it varies.
    pub(super) fn digest(&self) -> f64 {
        let logits = vec![1.0; self.model.graph().vocabulary];
        (0..DIGESTS)
            .map(|_| {
                let begun = Instant::now();
                black_box(Digest::of_floats(black_box(&logits)));
                begun.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min)
    }

    /// Seconds per kind of operation of one pass over `tokens`.
    pub(super) fn profile_prefill(&self, tokens: &[u32]) -> Result<Profile> {
        let mut profile = Profile::new();
        let mut sequence = self.sequence(tokens.len());
        self.profile(&mut sequence, tokens, &mut profile)?;
        Ok(profile)
    }

    /// Seconds per kind of operation of one pass for each of `tokens`.
    pub(super) fn profile_decode(&self, tokens: &[u32]) -> Result<Profile> {
        let mut profile = Profile::new();
        let mut sequence = self.sequence(tokens.len());
        for token in tokens {
            self.profile(&mut sequence, &[*token], &mut profile)?;
        }
        Ok(profile)
    }

    fn profile(
        &self,
        sequence: &mut Sequence,
        tokens: &[u32],
        profile: &mut Profile,
    ) -> Result<()> {
        let operations = &self.model.graph().operations;
        sequence.begin(tokens, true).map_err(Failure::user)?;
        // Summed by number first: nothing but a clock runs between two operations.
        let mut times = Vec::with_capacity(operations.len());
        let mut begun = Instant::now();
        while sequence.step().is_some() {
            let now = Instant::now();
            times.push(now - begun);
            begun = now;
        }
        for (operation, time) in operations.iter().zip(times) {
            let kind = match operation.action {
                Action::Quantize { .. } => "quantize",
                _ => kind(&operation.name),
            };
            *profile.entry(kind.to_owned()).or_default() += Duration::as_secs_f64(&time);
        }
        Ok(())
    }
}

fn prefill(sequence: &mut Sequence, prompt: &[u32], chunk: NonZeroUsize) -> Result<()> {
    let mut rest = prompt;
    while !rest.is_empty() {
        let (tokens, behind) = rest.split_at(chunk.get().min(rest.len()));
        sequence
            .begin(tokens, behind.is_empty())
            .map_err(Failure::user)?;
        sequence.finish();
        rest = behind;
    }
    Ok(())
}

fn one(sequence: &mut Sequence, token: u32) -> Result<()> {
    sequence.begin(&[token], true).map_err(Failure::user)?;
    sequence.finish();
    black_box(sequence.logits());
    Ok(())
}

/// The last part of an operation's name, which all layers share.
fn kind(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Bytes of weights that a token's pass reads: those of every product, norm and convolution, once each time, and of the
/// experts that are taken.
pub(super) fn weight_bytes(model: &Model) -> usize {
    model
        .graph()
        .operations
        .iter()
        .map(|operation| match operation.action {
            Action::MatMul { weight, .. }
            | Action::RmsNorm { weight, .. }
            | Action::GatedConvolution { weight, .. }
            | Action::AddVector { vector: weight, .. } => model.tensor_bytes(weight),
            Action::Experts(shape) => {
                let count = match model.graph().tensors[shape.gate.0].shape {
                    Shape::Experts { count, .. } => count,
                    _ => 1,
                };
                let all = [shape.gate, shape.up, shape.down].map(|id| model.tensor_bytes(id));
                all.iter().sum::<usize>() / count * shape.used
            }
            _ => 0,
        })
        .sum()
}

/// Token numbers that look random and are the same everywhere.
pub(super) fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|index| (u64::from(index.wrapping_mul(2_654_435_761)) % vocabulary as u64) as u32)
        .collect()
}

/// A figure of this process in bytes, where the system tells it.
pub(super) fn process_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    status_bytes(&status, name)
}

fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The processor's name, where the system tells it.
pub(super) fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info
        .lines()
        .find(|line| line.starts_with("model name"))?
        .split_once(':')?;
    Some(line.1.trim().to_owned())
}

/// The middle of the sorted values, or the mean of the two in the middle.
///
/// # Panics
/// When there are none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::{arch::TINY, fixture, graph::TensorId};
    use lockstep_numeric::{Isa, Pool};

    fn runner() -> Runner {
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
        Runner {
            model: Model::from_bytes(&fixture::tiny_llama(1).build()).unwrap(),
            kernels: Arc::new(Kernels::new(Isa::Portable, pool).unwrap()),
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status_bytes(status, "VmRSS"), Some(1 << 20));
        assert_eq!(status_bytes(status, "VmSwap"), None);
    }

    #[test]
    fn a_profile_has_every_operation_under_the_name_its_layers_share() {
        let runner = runner();
        let profile = runner.profile_decode(&[5, 6]).unwrap();
        let kinds: Vec<_> = profile.keys().map(String::as_str).collect();
        for kind in ["attention", "ffn_down", "output", "quantize", "token_embd"] {
            assert!(kinds.contains(&kind), "{kind} not in {kinds:?}");
        }
        assert!(!kinds.contains(&"input"), "{kinds:?}");
        assert_eq!(
            kinds,
            runner
                .profile_prefill(&[5, 6])
                .unwrap()
                .keys()
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_token_reads_the_embedding_as_output_and_all_other_weights() {
        // The fixture's output shares the embedding's table, so all weights are read once.
        let model = runner().model;
        assert_eq!(weight_bytes(&model), model.resident_bytes());
    }

    #[test]
    fn of_experts_a_token_reads_those_that_are_taken() {
        let of = TINY.iter().find(|of| of.experts.is_some()).unwrap();
        let experts = of.experts.unwrap();
        let file = fixture::tiny(of, 1, fixture::Weights::Mixed).build();
        let model = Model::from_bytes(&file).unwrap();
        let all: usize = (0..)
            .zip(&model.graph().tensors)
            .filter(|(_, tensor)| matches!(tensor.shape, Shape::Experts { .. }))
            .map(|(id, _)| model.tensor_bytes(TensorId(id)))
            .sum();
        let left = all / experts.count * (experts.count - experts.used);
        // No token reads the choice's bias by a product.
        let biases: usize = (0..)
            .zip(&model.graph().tensors)
            .filter(|(_, tensor)| tensor.name.ends_with("exp_probs_b.bias"))
            .map(|(id, _)| model.tensor_bytes(TensorId(id)))
            .sum();
        assert_eq!(weight_bytes(&model), model.resident_bytes() - left - biases);
    }

    #[test]
    fn tokens_are_in_the_vocabulary_and_vary() {
        let tokens = tokens(100, 49_152);
        assert_eq!(tokens[..4], [0, 31_153, 45_922, 27_923]);
        assert!(tokens.iter().all(|&token| token < 49_152));
    }

    #[test]
    fn a_prompt_longer_than_the_context_is_an_error() {
        let runner = runner();
        let tokens = tokens(fixture::CONTEXT_LENGTH + 1, 32);
        assert!(runner.prefill(&tokens, NonZeroUsize::MIN).is_err());
    }
}
