//! Perplexity: how well a model predicts a text. For reports, to compare with other programs.
//!
//! # Determinism
//! Not canonical: the logits are, but the logarithms and the mean here use this machine's f64
//! functions. Nothing replicated calls it.
use crate::{
    execute::{Sequence, SequenceError},
    model::Model,
};
use lockstep_numeric::Kernels;
use std::sync::Arc;

/// The mean negative log-likelihood, in nats, of the tokens of `text` behind `first`, each given
/// all before it; perplexity is its exponential. Not a number when there are none.
///
/// # Errors
/// When a token is unknown or the text is longer than the model's context.
#[allow(
    clippy::disallowed_methods,
    reason = "a figure for a report, not replicated"
)]
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
            let logits = sequence.logits();
            let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let likelihoods = logits.iter().map(|logit| f64::from(logit - largest).exp());
            let target = logits.get(pair[1] as usize).copied().unwrap_or(f32::NAN);
            sum += likelihoods.sum::<f64>().ln() - f64::from(target - largest);
            count += 1;
        }
    }
    Ok(sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, gguf::TensorType};
    use lockstep_numeric::{Isa, Pool};
    use std::num::NonZeroUsize;

    fn mean(file: &fixture::GgufBuilder, text: &[u32], first: usize) -> f64 {
        let model = Model::from_bytes(&file.build()).unwrap();
        let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
        let kernels = Arc::new(Kernels::new(Isa::Portable, pool).unwrap());
        mean_negative_log_likelihood(&model, kernels, text, first).unwrap()
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
}
