//! The next prompt of a conversation, which begins as the last one went on.
use super::{Generation, GenerationError, Params, Prompt, capacity, checked, sequence};
use lockstep_numeric::Kernels;
use std::{iter, sync::Arc};

impl Generation {
    /// Prepares a generation with the model of `self`, which ends: what the new prompt begins with and `self` has
    /// computed is not computed again, in whole chunks, if both have the same room, adapter and format of the cache;
    /// otherwise it runs on `kernels`. Tokens, text and chain are those of [`Generation::start`];
    /// [`super::Progress::prefilled`] begins behind what was kept, and the work is less. So it is not for what is
    /// replicated: there, work is a function of the request.
    ///
    /// # Errors
    /// As [`Generation::start`].
    pub fn next(
        self,
        kernels: Arc<Kernels>,
        prompt: &Prompt,
        params: Params,
    ) -> Result<Self, GenerationError> {
        let model = Arc::clone(self.sequence.model());
        let prompt = checked(&model, prompt)?;
        let adapter = |params: &Params| params.adapter.as_ref().map(|adapter| adapter.digest());
        let is_alike = self.sequence.capacity() == capacity(&model, &prompt, &params)
            && self.params.kv == params.kv
            && adapter(&self.params) == adapter(&params);
        let sequence = if is_alike {
            // Whole chunks, so that the generation can be taken up anywhere as one that began anew.
            let chunk = params.prefill_chunk.get();
            let shared = self.shared(&prompt) / chunk * chunk;
            let mut kept = self.sequence;
            kept.rewind(shared);
            kept
        } else {
            sequence(model, kernels, &prompt, &params)?
        };
        Self::begin(sequence, prompt, params)
    }

    /// How many positions of the cache are those of `prompt`, but its last: that one gives the logits.
    fn shared(&self, prompt: &[u32]) -> usize {
        let held = self.prompt.iter().chain(&self.progress.tokens);
        let held = held.take(self.sequence.position());
        iter::zip(held, &prompt[..prompt.len() - 1])
            .take_while(|(held, wanted)| held == wanted)
            .count()
    }
}
