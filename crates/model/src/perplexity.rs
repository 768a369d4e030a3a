//! Perplexity: how well a model predicts a text. For reports, to compare with other programs.
//!
//! # Design
//! [`Perplexity::measure`] follows llama.cpp's tool: the text is cut into pieces of `context` tokens, what is left over
//! does not count. Each piece starts from an empty sequence, and its first token is the one that begins texts, if the
//! model's tokenizer adds that to texts. Of a piece's tokens those behind token `context / 2` count, each given all before
//! it in the piece: `context - context / 2 - 1` of them. Perplexity is the exponential of the mean of their negative
//! log-likelihoods.
//!
//! # Determinism
//! Not canonical: the logits are, but the logarithms and the mean here use this machine's f64
//! functions. Nothing replicated calls it.
use crate::{
    execute::{Batch, BatchError, Member, Sequence, SequenceError, kv_pool},
    model::Model,
};
use lockstep_numeric::{Kernels, KvFormat};
use std::sync::Arc;

/// Pieces that go through the model together.
const PIECES: usize = 16;

/// Why a text has no perplexity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum PerplexityError {
    #[error("text is too short for pieces of {context} tokens: {tokens}")]
    TooShort { context: usize, tokens: usize },
    #[error("pieces are not between 4 and the {most} tokens of the model's context: {context}")]
    Context { context: usize, most: usize },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Pieces of the text.
    pub pieces: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// Mean of their negative log-likelihoods, in nats.
    pub mean: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
}

impl Perplexity {
    /// The exponential of the mean.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "a figure for a report, not replicated"
    )]
    pub fn value(&self) -> f64 {
        self.mean.exp()
    }

    /// That of `text`, tokens with the one that begins texts, in pieces of `context`, with keys and values kept as `kv`.
    /// `progress` hears how many pieces are done.
    ///
    /// # Errors
    /// When the text has no whole piece, a token is unknown or the model's context is shorter than a piece.
    pub fn measure(
        model: &Arc<Model>,
        kernels: &Arc<Kernels>,
        text: &[u32],
        context: usize,
        kv: KvFormat,
        mut progress: impl FnMut(usize),
    ) -> Result<Self, PerplexityError> {
        let most = model.context_length();
        if !(4..=most).contains(&context) {
            return Err(PerplexityError::Context { context, most });
        }
        let mut pieces: Vec<Vec<u32>> = text.chunks_exact(context).map(<[_]>::to_vec).collect();
        if pieces.is_empty() {
            return Err(PerplexityError::TooShort {
                context,
                tokens: text.len(),
            });
        }
        let tokenizer = model.tokenizer();
        if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
            pieces.iter_mut().for_each(|piece| piece[0] = bos);
        }
        let pool = kv_pool(model, kv, usize::MAX)?;
        let new = || Sequence::in_pool(Arc::clone(model), Arc::clone(kernels), &pool, context);
        let mut sequences: Vec<_> = (0..PIECES.min(pieces.len())).map(|_| new()).collect();
        let mut batch = Batch::new(Arc::clone(model), Arc::clone(kernels));
        let first = context / 2;
        let (mut count, mut sum, mut squares) = (0usize, 0.0, 0.0);
        for (group, pieces) in pieces.chunks(PIECES).enumerate() {
            for (sequence, piece) in sequences.iter_mut().zip(pieces) {
                sequence.clear();
                sequence.begin(&piece[..first], false)?;
                sequence.finish();
            }
            for position in first..context - 1 {
                let mut members: Vec<_> = sequences
                    .iter_mut()
                    .zip(pieces)
                    .map(|(sequence, piece)| Member {
                        sequence,
                        tokens: &piece[position..=position],
                        logits: true,
                    })
                    .collect();
                batch.run(&mut members)?;
                for (sequence, piece) in sequences.iter().zip(pieces) {
                    let next = negative_log_likelihood(sequence.logits(), piece[position + 1]);
                    sum += next;
                    squares += next * next;
                    count += 1;
                }
            }
            progress(group * PIECES + pieces.len());
        }
        let tokens = count as f64;
        let mean = sum / tokens;
        let variance = (squares / tokens - mean * mean).max(0.0);
        Ok(Self {
            pieces: pieces.len(),
            tokens: count,
            mean,
            standard_error: (variance / (tokens - 1.0).max(1.0)).sqrt(),
        })
    }
}

/// Of a token, by the logits before it, in nats.
#[allow(
    clippy::disallowed_methods,
    reason = "a figure for a report, not replicated"
)]
fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let likelihoods = logits.iter().map(|logit| f64::from(logit - largest).exp());
    let target = logits.get(token as usize).copied().unwrap_or(f32::NAN);
    likelihoods.sum::<f64>().ln() - f64::from(target - largest)
}

/// The mean negative log-likelihood, in nats, of the tokens of `text` behind `first`, each given
/// all before it; perplexity is its exponential. Not a number when there are none.
///
/// # Errors
/// When a token is unknown or the text is longer than the model's context.
pub fn mean_negative_log_likelihood(
    model: &Arc<Model>,
    kernels: Arc<Kernels>,
    text: &[u32],
    first: usize,
) -> Result<f64, SequenceError> {
    let mut sequence = Sequence::new(Arc::clone(model), kernels, text.len());
    let mut sum = 0.0;
    let mut count = 0;
    for (index, pair) in text.windows(2).enumerate() {
        let counts = index + 1 >= first;
        sequence.begin(&pair[..1], counts)?;
        sequence.finish();
        if counts {
            sum += negative_log_likelihood(sequence.logits(), pair[1]);
            count += 1;
        }
    }
    Ok(sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixture,
        gguf::{TensorType, Value},
    };
    use lockstep_numeric::{Isa, Pool};
    use std::num::NonZeroUsize;

    fn kernels() -> Arc<Kernels> {
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
        Arc::new(Kernels::new(Isa::Portable, pool).unwrap())
    }

    fn mean(file: &fixture::GgufBuilder, text: &[u32], first: usize) -> f64 {
        let model = Model::from_bytes(&file.build()).unwrap();
        mean_negative_log_likelihood(&model, kernels(), text, first).unwrap()
    }

    fn measure(
        file: &fixture::GgufBuilder,
        text: &[u32],
        context: usize,
    ) -> Result<Perplexity, PerplexityError> {
        let model = Model::from_bytes(&file.build()).unwrap();
        Perplexity::measure(&model, &kernels(), text, context, KvFormat::F16, |_| ())
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "checks a reported figure")]
    fn a_model_that_knows_nothing_guesses() {
        // Zero weights in the last norm make all logits equal.
        let norm = "output_norm.weight";
        let file = fixture::tiny_llama(1).without_tensor(norm).tensor(
            norm,
            &[64],
            TensorType::F32,
            vec![0; 256],
        );
        let text: Vec<u32> = (3..40).collect();
        let guessing = 268f64.ln();
        assert!((mean(&file, &text, 10) - guessing).abs() < 1e-9);
        let found = measure(&file, &text, 8).unwrap();
        assert!((found.value() - 268.0).abs() < 1e-6);
        assert!(found.standard_error < 1e-6);
    }

    #[test]
    fn only_tokens_behind_the_first_count() {
        let file = fixture::tiny_llama(1);
        let text: Vec<u32> = (3..20).collect();
        let (all, last) = (mean(&file, &text, 1), mean(&file, &text, 16));
        let others = mean(&file, &text[..16], 1);
        assert!((all * 16.0 - others * 15.0 - last).abs() < 1e-6);
        assert!(mean(&file, &text, 17).is_nan());
    }

    #[test]
    fn pieces_count_behind_their_middle_and_start_as_texts_do() {
        let text: Vec<u32> = (0..181).map(|index| 3 + index * index % 260).collect();
        for (adds, context) in [(false, 10), (true, 10), (true, 9)] {
            let file =
                fixture::tiny_llama(1).set("tokenizer.ggml.add_bos_token", Value::Bool(adds));
            let found = measure(&file, &text, context).unwrap();
            let each = context - context / 2 - 1;
            assert_eq!(found.pieces, 181 / context);
            assert_eq!(found.tokens, found.pieces * each);
            let means: Vec<f64> = text
                .chunks_exact(context)
                .map(|piece| {
                    let mut piece = piece.to_vec();
                    if adds {
                        piece[0] = 1;
                    }
                    // Targets from `context / 2 + 1` on.
                    mean(&file, &piece, context / 2 + 1)
                })
                .collect();
            let expected = means.iter().sum::<f64>() / means.len() as f64;
            assert!((found.mean - expected).abs() < 1e-9, "{adds} {context}");
        }
    }

    #[test]
    fn texts_and_pieces_that_do_not_fit_say_why() {
        let file = fixture::tiny_llama(1);
        let error = |text: &[u32], context| measure(&file, text, context).unwrap_err().to_string();
        assert_eq!(
            error(&[3; 9], 10),
            "text is too short for pieces of 10 tokens: 9"
        );
        assert_eq!(
            error(&[3; 900], 500),
            "pieces are not between 4 and the 192 tokens of the model's context: 500"
        );
        assert_eq!(
            error(&[3; 900], 3),
            "pieces are not between 4 and the 192 tokens of the model's context: 3"
        );
        assert_eq!(
            error(&[900; 10], 10),
            "token is not in the vocabulary of 268: 900"
        );
    }
}
