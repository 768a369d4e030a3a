//! Generation: prefill, decode, sample, stop; in slices, and resumable.
//!
//! # Design
//! A [`Generation`] advances by whole operations within a budget of [`Work`]. Its [`Progress`] is
//! all that has to be kept to go on elsewhere: [`Generation::resume`] computes the cache and the
//! unfinished pass again from it, without charging for it, and then behaves as if nothing had
//! happened. The prompt is processed in chunks of [`Params::prefill_chunk`]; each generated token
//! is a pass of its own.
//!
//! # Determinism
//! Tokens, text, chain and total work depend on the model, the prompt and the sampling alone. How
//! work is divided into operations (`prefilled`, `operations_done`, what one `advance` returns)
//! depends on the chunk size too, so replicas use the same: [`PREFILL_CHUNK`].
//!
//! # Units and bounds
//! Sampling and digesting the logits is not priced apart; it is part of the output projection.
mod reuse;
#[cfg(test)]
mod tests;

use crate::{
    adapter::Adapter,
    constrain::{Constraint, ConstraintError},
    digest::Digest,
    execute::{Sequence, SequenceError, kv_pool},
    graph::Work,
    model::Model,
    sample::{ChoiceError, Sampling, Surroundings},
    steer::{Steering, SteeringError, Stops},
    template::{Message, TemplateError},
    tokenizer::Control,
    transcript::chain,
};
use lockstep_numeric::{Kernels, KvFormat};
use serde::{Deserialize, Serialize};
use std::{num::NonZeroUsize, sync::Arc};

/// Prompt tokens per pass in replicated runs.
pub const PREFILL_CHUNK: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A conversation, put into the model's chat template.
    Messages(Vec<Message>),
    /// Plain text; control tokens in it are only words.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// The prompt's tokens for `model`.
    ///
    /// # Errors
    /// When the template fails or is missing.
    pub fn tokens(&self, model: &Model) -> Result<Vec<u32>, GenerationError> {
        let tokenizer = model.tokenizer();
        match self {
            Self::Messages(messages) => {
                let template = model.template().ok_or(GenerationError::NoTemplate)?;
                Ok(template.encode(tokenizer, messages, true)?)
            }
            Self::Text(text) => {
                let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
                let text = tokenizer.encode(text, Control::Spelled);
                Ok(bos.into_iter().chain(text).collect())
            }
            Self::Tokens(tokens) => Ok(tokens.clone()),
        }
    }
}

/// How to generate.
#[derive(Clone, Debug)]
pub struct Params {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What steers the text besides.
    pub steering: Steering,
    /// What changes the model's products.
    pub adapter: Option<Arc<Adapter>>,
    /// How keys and values are kept.
    pub kv: KvFormat,
    /// Prompt tokens per pass.
    pub prefill_chunk: NonZeroUsize,
    /// Tokens the cache has to hold besides the prompt's; the whole context when not given. A
    /// generation that reaches it ends as if the context were full.
    pub tokens_max: Option<usize>,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            sampling: Sampling::GREEDY,
            steering: Steering::default(),
            adapter: None,
            kv: KvFormat::F16,
            prefill_chunk: PREFILL_CHUNK,
            tokens_max: None,
        }
    }
}

/// Why a generation cannot go on; the same wherever it runs.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GenerationError {
    #[error("the model has no chat template")]
    NoTemplate,
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error("the prompt has {tokens} tokens, but the model's context {context}")]
    PromptTooLong { tokens: usize, context: usize },
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("the model's output is not finite at token {step}")]
    NonFinite { step: usize },
    #[error("no token may be chosen at token {step}")]
    NothingAllowed { step: usize },
    #[error(transparent)]
    Steering(#[from] SteeringError),
    #[error("recorded progress does not belong to this prompt and model: {reason}")]
    ForeignProgress { reason: &'static str },
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The model produced a token that ends the text.
    EndOfText,
    /// There is no room for another token.
    ContextFull,
    /// One of [`Steering::stop`] came up.
    Stopped,
    /// The text is what [`Steering::schema`] allows, and nothing can follow.
    Complete,
}

/// How far a generation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Generated tokens, the ones that ended the text included.
    pub tokens: Vec<u32>,
    /// Bytes of the generated text (may end inside a UTF-8 character).
    pub text: Vec<u8>,
    /// Head of the transcript's chain.
    pub chain: Digest,
    /// Prompt positions processed in whole passes.
    pub prefilled: u32,
    /// Operations done of the pass under way.
    pub operations_done: u32,
    /// Work done in total.
    pub work: Work,
    /// Set when nothing more will come.
    pub ended: Option<Ended>,
}

/// A running generation.
#[derive(Debug)]
pub struct Generation {
    sequence: Sequence,
    params: Params,
    prompt: Vec<u32>,
    progress: Progress,
    constraint: Option<Constraint>,
    logits_digests: Vec<Digest>,
    failed: Option<Failure>,
}

/// Why every further attempt fails.
#[derive(Clone, Debug)]
enum Failure {
    Choice(ChoiceError),
    Constraint(ConstraintError),
}

impl Generation {
    /// Prepares a generation; nothing is computed yet.
    ///
    /// # Errors
    /// When the prompt cannot be made into tokens or is empty or too long.
    pub fn start(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        prompt: &Prompt,
        params: Params,
    ) -> Result<Self, GenerationError> {
        let prompt = checked(&model, prompt)?;
        let sequence = sequence(model, kernels, &prompt, &params)?;
        Self::begin(sequence, prompt, params)
    }

    /// Prepares a generation in `sequence`, whose positions hold the beginning of the prompt.
    fn begin(
        sequence: Sequence,
        prompt: Vec<u32>,
        params: Params,
    ) -> Result<Self, GenerationError> {
        let model = sequence.model();
        let vocabulary = model.graph().vocabulary;
        let constraint = params.steering.prepare(model.tokenizer(), vocabulary)?;
        let chain = chain::first(model.digest(), &prompt, &params);
        Ok(Self {
            progress: Progress {
                prompt_tokens: prompt.len() as u32,
                tokens: Vec::new(),
                text: Vec::new(),
                chain,
                prefilled: sequence.position() as u32,
                operations_done: 0,
                work: 0,
                ended: None,
            },
            sequence,
            params,
            prompt,
            constraint,
            logits_digests: Vec::new(),
            failed: None,
        })
    }

    /// Takes up a generation where `progress` left it: computes the cache again up to there.
    /// Nothing is charged, and everything after is as if it had never stopped.
    ///
    /// # Errors
    /// As [`Self::start`], and when the progress cannot be this generation's.
    pub fn resume(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        prompt: &Prompt,
        params: Params,
        progress: Progress,
    ) -> Result<Self, GenerationError> {
        let mut generation = Self::start(model, kernels, prompt, params)?;
        generation.check(&progress)?;
        generation.progress = progress;
        if generation.progress.ended.is_none() {
            if let Some(constraint) = &mut generation.constraint {
                let replayed = constraint.replay(&generation.progress.tokens);
                replayed.map_err(|_| GenerationError::ForeignProgress {
                    reason: "a token that the schema does not allow",
                })?;
            }
            generation.recompute()?;
        }
        Ok(generation)
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How many bytes of the text will stay: behind them, a string that stops the text may have begun.
    #[must_use]
    pub fn settled(&self) -> usize {
        let text = &self.progress.text;
        match self.progress.ended {
            Some(_) => text.len(),
            None => Stops(&self.params.steering.stop).settled(text),
        }
    }

    /// The prompt's tokens.
    #[must_use]
    pub fn prompt_tokens(&self) -> &[u32] {
        &self.prompt
    }

    /// Digests of the logits of the tokens this object has generated: all, unless it was resumed.
    #[must_use]
    pub fn logits_digests(&self) -> &[Digest] {
        &self.logits_digests
    }

    /// Runs whole operations until `budget` is used up, `permitted_tokens` have been generated in
    /// total, or the text ends. Returns the work done, which exceeds `budget` by less than one
    /// operation.
    ///
    /// # Errors
    /// When the model's output is not finite or steering leaves no token. The generation then gives the same error forever.
    pub fn advance(
        &mut self,
        permitted_tokens: u32,
        budget: Work,
    ) -> Result<Work, GenerationError> {
        if let Some(failure) = &self.failed {
            return Err(self.error(failure));
        }
        let mut work = 0;
        while work < budget
            && self.progress.ended.is_none()
            && self.progress.tokens.len() < permitted_tokens as usize
        {
            if !self.sequence.in_pass() {
                self.begin_pass()?;
            }
            let done = self.sequence.run(budget - work);
            work += done;
            self.progress.work += done;
            self.progress.operations_done = self.sequence.operations_done() as u32;
            if !self.sequence.in_pass() {
                self.end_pass()?;
            }
        }
        Ok(work)
    }

    /// Begins the pass over the next tokens, with logits if a token follows from it.
    fn begin_pass(&mut self) -> Result<(), SequenceError> {
        let (tokens, logits) = match self.progress.tokens.last() {
            Some(token) => (std::slice::from_ref(token), true),
            None => {
                let rest = &self.prompt[self.progress.prefilled as usize..];
                let chunk = &rest[..rest.len().min(self.params.prefill_chunk.get())];
                (chunk, chunk.len() == rest.len())
            }
        };
        self.sequence.begin(tokens, logits)
    }

    fn end_pass(&mut self) -> Result<(), GenerationError> {
        let prompt = self.prompt.len();
        if self.progress.tokens.is_empty() {
            self.progress.prefilled = self.sequence.position() as u32;
            if self.sequence.position() < prompt {
                return Ok(());
            }
        }
        let step = self.progress.tokens.len();
        let logits = self.sequence.logits();
        let surroundings = Surroundings {
            before: [&self.prompt, &self.progress.tokens],
            bias: &self.params.steering.bias,
            allowed: self.constraint.as_ref().map(Constraint::allowed),
        };
        let chosen = self.params.sampling.choose_within(
            self.sequence.kernels(),
            logits,
            &surroundings,
            step as u64,
        );
        let token = match chosen {
            Ok(token) => token,
            Err(error) => return self.fail(Failure::Choice(error)),
        };
        let digest = Digest::of_floats(logits);
        let ends = self.sequence.model().tokenizer().is_end(token);
        let more = match &mut self.constraint {
            Some(constraint) if !ends => constraint.accept(token),
            _ => Ok(true),
        };
        let more = match more {
            Ok(more) => more,
            Err(error) => return self.fail(Failure::Constraint(error)),
        };
        let progress = &mut self.progress;
        progress.chain = chain::next(progress.chain, step, token, digest);
        progress.tokens.push(token);
        self.logits_digests.push(digest);
        self.end_token(token, more);
        Ok(())
    }

    /// Adds the text of a token, and decides whether the generation ends with it.
    fn end_token(&mut self, token: u32, more: bool) {
        let tokenizer = self.sequence.model().tokenizer();
        let text = &mut self.progress.text;
        let seen = text.len();
        text.extend(tokenizer.token_bytes(token));
        let stop = Stops(&self.params.steering.stop).find(text, seen);
        self.progress.ended = if tokenizer.is_end(token) {
            Some(Ended::EndOfText)
        } else if let Some(end) = stop {
            text.truncate(end);
            Some(Ended::Stopped)
        } else if !more {
            Some(Ended::Complete)
        } else if self.sequence.position() == self.sequence.capacity() {
            Some(Ended::ContextFull)
        } else {
            None
        };
    }

    /// Fails, now and ever after.
    fn fail(&mut self, failure: Failure) -> Result<(), GenerationError> {
        let error = self.error(&failure);
        self.failed = Some(failure);
        Err(error)
    }

    fn error(&self, failure: &Failure) -> GenerationError {
        let step = self.progress.tokens.len();
        match failure {
            Failure::Choice(ChoiceError::NonFinite) => GenerationError::NonFinite { step },
            Failure::Choice(ChoiceError::NothingAllowed) => {
                GenerationError::NothingAllowed { step }
            }
            Failure::Constraint(error) => SteeringError::Constraint(error.clone()).into(),
        }
    }

    /// Checks what can be checked without computing.
    fn check(&self, progress: &Progress) -> Result<(), GenerationError> {
        let foreign = |reason| Err(GenerationError::ForeignProgress { reason });
        let prompt = self.prompt.len();
        let prefilled = progress.prefilled as usize;
        let graph = self.sequence.model().graph();
        if progress.prompt_tokens as usize != prompt {
            return foreign("the prompt's length");
        }
        let chunk = self.params.prefill_chunk.get();
        let between_chunks = prefilled < prompt && prefilled.is_multiple_of(chunk);
        let fed_back = match progress.tokens.len() {
            0 if !between_chunks => return foreign("the prefilled positions"),
            0 => 0,
            _ if prefilled != prompt => return foreign("the prefilled positions"),
            generated => generated - 1,
        };
        if prompt + fed_back > self.sequence.capacity() {
            return foreign("the number of tokens");
        }
        if progress
            .tokens
            .iter()
            .any(|&token| token as usize >= graph.vocabulary)
        {
            return foreign("a token");
        }
        let logits = !progress.tokens.is_empty() || prompt - prefilled <= chunk;
        if progress.operations_done as usize >= graph.pass_length(logits) {
            return foreign("the operations done");
        }
        Ok(())
    }

    /// Computes the cache and the pass under way again. Generated tokens are known by now, so they
    /// go through in chunks like the prompt.
    fn recompute(&mut self) -> Result<(), GenerationError> {
        let prefilled = self.progress.prefilled as usize;
        let fed_back = self.progress.tokens.len().saturating_sub(1);
        let known = [&self.prompt[..prefilled], &self.progress.tokens[..fed_back]].concat();
        for chunk in known.chunks(self.params.prefill_chunk.get()) {
            self.sequence.begin(chunk, false)?;
            self.sequence.finish();
        }
        if self.progress.operations_done > 0 {
            self.begin_pass()?;
            for _ in 0..self.progress.operations_done {
                self.sequence.step();
            }
        }
        Ok(())
    }
}

/// The tokens of a prompt that `model` can take.
fn checked(model: &Model, prompt: &Prompt) -> Result<Vec<u32>, GenerationError> {
    let prompt = prompt.tokens(model)?;
    let context = model.context_length();
    if prompt.is_empty() {
        return Err(GenerationError::EmptyPrompt);
    }
    if prompt.len() > context {
        return Err(GenerationError::PromptTooLong {
            tokens: prompt.len(),
            context,
        });
    }
    let vocabulary = model.graph().vocabulary;
    match prompt.iter().find(|&&token| token as usize >= vocabulary) {
        Some(&token) => Err(SequenceError::UnknownToken { token, vocabulary }.into()),
        None => Ok(prompt),
    }
}

/// An empty sequence for a generation.
fn sequence(
    model: Arc<Model>,
    kernels: Arc<Kernels>,
    prompt: &[u32],
    params: &Params,
) -> Result<Sequence, SequenceError> {
    let capacity = capacity(&model, prompt, params);
    let pool = kv_pool(&model, params.kv, usize::MAX)?;
    let mut sequence = Sequence::in_pool(model, kernels, &pool, capacity);
    sequence.set_adapter(params.adapter.clone())?;
    Ok(sequence)
}

/// Positions a generation needs.
fn capacity(model: &Model, prompt: &[u32], params: &Params) -> usize {
    let context = model.context_length();
    // The last generated token is not fed back, so it needs no position.
    let wanted = params.tokens_max.unwrap_or(context).saturating_sub(1);
    prompt.len().saturating_add(wanted).min(context)
}
