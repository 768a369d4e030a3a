//! Checks that a model gives the same bits whatever it runs on, and names the operation where it does
//! not.
//!
//! # Design
//! A [`SelfCheck`] is a prompt and a number of tokens to generate greedily. [`SelfCheck::outcome`] runs
//! it in one [`Configuration`] and digests what came out; outcomes of all configurations must be equal.
//! [`SelfCheck::first_difference`] runs two configurations side by side, digests every row of every
//! operation, and stops at the first position that differs.
//!
//! In a batch the text checked lies between companions: texts with the same tokens in another order
//! that started earlier, want logits at times of their own, and start again when they are full, so
//! that prefill and decode mix.
//!
//! # Determinism
//! The first difference is that of the lowest position and, there, of the lowest operation. All that
//! an operation reads belongs to the same or an earlier position and was made by an operation before
//! it or for a position before, so its inputs are equal and it is where the two part.
mod companion;
#[cfg(test)]
mod tests;
mod trace;

pub use trace::Trace;

use crate::{
    digest::{Digest, update_floats},
    execute::{Batch, BatchError, Member, Observer, Output, Sequence, SequenceError},
    graph::{Action, Graph},
    model::Model,
    sample::Sampling,
};
use companion::Companion;
use lockstep_numeric::Kernels;
use std::{fmt, num::NonZeroUsize, sync::Arc};

/// What must not change a result.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Instruction set and threads.
    pub kernels: Arc<Kernels>,
    /// Prompt tokens per pass.
    pub prefill_chunk: NonZeroUsize,
    /// Texts that go through each pass together, the one checked included.
    pub batch: NonZeroUsize,
}

impl fmt::Display for Configuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}, threads {}, prefill chunk {}, batch {}",
            self.kernels.isa(),
            self.kernels.pool().threads(),
            self.prefill_chunk,
            self.batch
        )
    }
}

/// Why a check cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SelfCheckError {
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    #[error("the model's output is not finite at token {step}")]
    NonFinite { step: usize },
}

impl From<BatchError> for SelfCheckError {
    fn from(error: BatchError) -> Self {
        Self::Sequence(error.source)
    }
}

/// A generated token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The token.
    pub token: u32,
    /// Digest of the logits it was chosen from.
    pub logits: Digest,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Digest of the last layer's output at every position of the prompt, in order.
    pub prompt: Digest,
    /// The generated tokens.
    pub steps: Vec<Step>,
}

impl Outcome {
    /// One digest of it all: of the prompt's digest, then each step's token (4 bytes, little-endian)
    /// and logits' digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.prompt.0);
        for step in &self.steps {
            hasher.update(&step.token.to_le_bytes());
            hasher.update(&step.logits.0);
        }
        Digest(*hasher.finalize().as_bytes())
    }
}

/// Where two runs part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Number of the operation.
    pub operation: usize,
    /// Its name.
    pub name: String,
    /// Position of the row that differs.
    pub position: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "operation {} ({}) at position {}",
            self.operation, self.name, self.position
        )
    }
}

/// A text to run in several configurations.
#[derive(Clone, Debug)]
pub struct SelfCheck {
    model: Arc<Model>,
    prompt: Vec<u32>,
    tokens: usize,
}

impl SelfCheck {
    /// Generates `tokens` tokens behind `prompt`.
    ///
    /// # Errors
    /// When the prompt is empty, has an unknown token, or leaves too little of the model's context.
    pub fn new(model: Arc<Model>, prompt: Vec<u32>, tokens: usize) -> Result<Self, SelfCheckError> {
        if prompt.is_empty() {
            return Err(SelfCheckError::EmptyPrompt);
        }
        let vocabulary = model.graph().vocabulary;
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(SequenceError::UnknownToken { token, vocabulary }.into());
        }
        let check = Self {
            model,
            prompt,
            tokens,
        };
        let (needed, capacity) = (check.positions(), check.model.context_length());
        if needed > capacity {
            return Err(SequenceError::Full { needed, capacity }.into());
        }
        Ok(check)
    }

    /// Runs in `configuration`.
    ///
    /// # Errors
    /// When the model's output is not finite.
    pub fn outcome(&self, configuration: &Configuration) -> Result<Outcome, SelfCheckError> {
        let mut run = Run::start(self, configuration)?;
        let mut listener = LastLayer {
            operation: last_layer(self.model.graph()),
            segment: run.segment(),
            positions: self.prompt.len(),
            hasher: blake3::Hasher::new(),
        };
        while run.pass(&mut listener)? {}
        Ok(Outcome {
            prompt: Digest(*listener.hasher.finalize().as_bytes()),
            steps: run.steps,
        })
    }

    /// Where the runs in two configurations part; nothing when they do not.
    ///
    /// # Errors
    /// When the model's output is not finite and equal in both.
    pub fn first_difference(
        &self,
        left: &Configuration,
        right: &Configuration,
    ) -> Result<Option<Difference>, SelfCheckError> {
        first_difference(Run::start(self, left)?, Run::start(self, right)?)
    }

    /// A digest of every row of every operation in `configuration`: what a run elsewhere, in another
    /// process or machine, can be compared with.
    ///
    /// # Errors
    /// When the model's output is not finite.
    pub fn trace(&self, configuration: &Configuration) -> Result<Trace, SelfCheckError> {
        let mut run = Run::start(self, configuration)?;
        let mut trace = Trace::of(run.segment());
        while run.pass(&mut trace)? {}
        Ok(trace)
    }

    /// Where two traces of this check part; nothing when they do not.
    #[must_use]
    pub fn compare(&self, left: &Trace, right: &Trace) -> Option<Difference> {
        left.first_difference(right)
            .map(|place| self.difference(place))
    }

    /// Tokens of the prompt.
    #[must_use]
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Tokens to generate.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    fn difference(&self, (position, operation): (usize, usize)) -> Difference {
        Difference {
            operation,
            name: self.model.graph().operations[operation].name.clone(),
            position,
        }
    }

    /// Positions used; the last generated token is not fed back.
    fn positions(&self) -> usize {
        self.prompt
            .len()
            .saturating_add(self.tokens.saturating_sub(1))
    }
}

/// Number of the operation that gives the last layer's output, the input of the head.
fn last_layer(graph: &Graph) -> usize {
    let input = match graph.operations[graph.head].action {
        Action::SelectLast { input, .. } => input,
        ref action => unreachable!("the head begins with a selection: {action:?}"),
    };
    graph.operations[..graph.head]
        .iter()
        .rposition(|operation| operation.action.output() == Some(input))
        .expect("the head reads what an operation has written")
}

/// Digests the rows of one operation, in order of position.
struct LastLayer {
    operation: usize,
    segment: usize,
    positions: usize,
    hasher: blake3::Hasher,
}

impl Observer for LastLayer {
    fn observe(&mut self, output: Output<'_>) {
        if (output.operation, output.segment) == (self.operation, self.segment) {
            for (_, row) in output.rows().take_while(|(p, _)| *p < self.positions) {
                update_floats(&mut self.hasher, row);
            }
        }
    }
}

fn first_difference(
    mut left: Run<'_>,
    mut right: Run<'_>,
) -> Result<Option<Difference>, SelfCheckError> {
    let (mut left_trace, mut right_trace) = (Trace::of(left.segment()), Trace::of(right.segment()));
    // The one behind goes on. Tokens are chosen from logits that were equal.
    loop {
        let (left_position, right_position) = (left.subject.position(), right.subject.position());
        let more = match left_position <= right_position {
            true => left.pass(&mut left_trace)?,
            false => right.pass(&mut right_trace)?,
        };
        if !more {
            return Ok(None);
        }
        let end = left.subject.position().min(right.subject.position());
        let (left_rows, right_rows) = (left_trace.take(end), right_trace.take(end));
        if let Some(place) = left_rows.first_difference(&right_rows) {
            return Ok(Some(left.check.difference(place)));
        }
    }
}

/// A check under way in one configuration.
struct Run<'a> {
    check: &'a SelfCheck,
    chunk: usize,
    batch: Batch,
    subject: Sequence,
    steps: Vec<Step>,
    companions: Vec<Companion>,
}

impl<'a> Run<'a> {
    fn start(check: &'a SelfCheck, configuration: &Configuration) -> Result<Self, SelfCheckError> {
        let model = &check.model;
        let kernels = &configuration.kernels;
        let capacity = check.positions();
        let new = || Sequence::new(Arc::clone(model), Arc::clone(kernels), capacity);
        let companions = 1..configuration.batch.get();
        let mut run = Self {
            check,
            chunk: configuration.prefill_chunk.get(),
            batch: Batch::new(Arc::clone(model), Arc::clone(kernels)),
            subject: new(),
            steps: Vec::new(),
            companions: companions
                .map(|shift| Companion::new(new(), shift))
                .collect(),
        };
        companion::warm_up(
            &mut run.batch,
            &mut run.companions,
            &check.prompt,
            run.chunk,
        )?;
        Ok(run)
    }

    /// Place of the text checked among the members of a pass: between companions.
    fn segment(&self) -> usize {
        self.companions.len().div_ceil(2)
    }

    /// Runs the next pass; false when all tokens are there.
    fn pass(&mut self, observer: &mut dyn Observer) -> Result<bool, SelfCheckError> {
        let prompt = &self.check.prompt;
        let rest = prompt.get(self.subject.position()..).unwrap_or_default();
        let chunk = &rest[..rest.len().min(self.chunk)];
        let mut fed_back = [0];
        let (tokens, logits) = match chunk {
            [] => {
                if self.steps.len() < self.check.tokens {
                    fed_back = [self.choose()?];
                }
                if self.steps.len() == self.check.tokens {
                    return Ok(false);
                }
                (&fed_back[..], true)
            }
            chunk => (chunk, chunk.len() == rest.len()),
        };
        let place = self.segment();
        let next: Vec<_> = self
            .companions
            .iter_mut()
            .map(|companion| companion.next(prompt, self.chunk))
            .collect();
        let mut members: Vec<Member<'_>> = self
            .companions
            .iter_mut()
            .zip(&next)
            .map(|(companion, next)| companion.member(next))
            .collect();
        let subject = Member {
            sequence: &mut self.subject,
            tokens,
            logits,
        };
        members.insert(place, subject);
        self.batch.run_observed(&mut members, observer)?;
        Ok(true)
    }

    /// Chooses the next token and writes it down.
    fn choose(&mut self) -> Result<u32, SelfCheckError> {
        let logits = self.subject.logits();
        let step = self.steps.len();
        let token = Sampling::GREEDY
            .choose(self.subject.kernels(), logits, step as u64)
            .map_err(|_| SelfCheckError::NonFinite { step })?;
        self.steps.push(Step {
            token,
            logits: Digest::of_floats(logits),
        });
        Ok(token)
    }
}
