//! Several texts in one pass.
use super::{Observer, Sequence, SequenceError, pass::Pass, text::Text};
use crate::{graph::Work, model::Model};
use lockstep_numeric::Kernels;
use std::sync::Arc;

/// What one text puts into a pass.
#[derive(Debug)]
pub struct Member<'a> {
    /// The text.
    pub sequence: &'a mut Sequence,
    /// What is to follow in it.
    pub tokens: &'a [u32],
    /// Whether logits are wanted for the last of the tokens.
    pub logits: bool,
}

/// Why a pass over several texts cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text {member} of the batch cannot take part")]
pub struct BatchError {
    /// Index of the first member that cannot take part.
    pub member: usize,
    /// Why.
    pub source: SequenceError,
}

/// Runs passes over several texts of one model at a time, prefilling and decoding mixed as they
/// come; weights are read once for all of them.
///
/// # Determinism
/// A text gets the keys, values and logits it gets alone, and the pass costs what its members cost
/// alone.
#[derive(Debug)]
pub struct Batch {
    model: Arc<Model>,
    kernels: Arc<Kernels>,
    pass: Pass,
}

impl Batch {
    /// For texts of `model`, on `kernels`.
    #[must_use]
    pub fn new(model: Arc<Model>, kernels: Arc<Kernels>) -> Self {
        Self {
            model,
            kernels,
            pass: Pass::default(),
        }
    }

    /// Runs a whole pass over all members and returns the work done. The logits of those that want
    /// them are in their [`Sequence::logits`]. A member's pass under way is dropped.
    ///
    /// # Errors
    /// When a member's token is unknown, it or its pool has no room, or it is of another model; then
    /// no text has changed.
    ///
    /// # Panics
    /// When a member has no tokens.
    pub fn run(&mut self, members: &mut [Member<'_>]) -> Result<Work, BatchError> {
        self.run_with(members, None)
    }

    /// [`Self::run`], telling `observer` what each operation gives.
    ///
    /// # Errors
    /// As [`Self::run`].
    ///
    /// # Panics
    /// As [`Self::run`].
    pub fn run_observed(
        &mut self,
        members: &mut [Member<'_>],
        observer: &mut dyn Observer,
    ) -> Result<Work, BatchError> {
        self.run_with(members, Some(observer))
    }

    fn run_with(
        &mut self,
        members: &mut [Member<'_>],
        mut observer: Option<&mut (dyn Observer + '_)>,
    ) -> Result<Work, BatchError> {
        let Self {
            model,
            kernels,
            pass,
        } = self;
        for (index, member) in members.iter().enumerate() {
            check(model, member).map_err(|source| BatchError {
                member: index,
                source,
            })?;
        }
        for index in 0..members.len() {
            let Member {
                sequence, tokens, ..
            } = &mut members[index];
            if let Err(source) = sequence.text.reserve(tokens.len()) {
                for member in &mut members[..index] {
                    member.sequence.pass.abandon();
                    member.sequence.text.release();
                }
                return Err(BatchError {
                    member: index,
                    source,
                });
            }
        }
        let segments = members
            .iter()
            .map(|member| (member.tokens, member.sequence.position(), member.logits));
        pass.begin(model.graph(), segments);
        let mut texts: Vec<&mut Text> = Vec::with_capacity(members.len());
        for member in &mut *members {
            member.sequence.pass.abandon();
            texts.push(&mut member.sequence.text);
        }
        let mut work = 0;
        while let Some(price) = pass.step(model, kernels, &mut texts, observer.as_deref_mut()) {
            work += price;
        }
        let wanting = members.iter_mut().filter(|member| member.logits);
        for (member, logits) in wanting.zip(pass.logits(model.graph())) {
            member.sequence.pass.set_last_logits(model.graph(), logits);
        }
        Ok(work)
    }
}

fn check(model: &Model, member: &Member<'_>) -> Result<(), SequenceError> {
    let (wanted, found) = (model.digest(), member.sequence.model().digest());
    if wanted != found {
        return Err(SequenceError::ForeignModel { wanted, found });
    }
    let vocabulary = model.graph().vocabulary;
    member.sequence.text.check(member.tokens, vocabulary)
}
