//! The executor: takes tokens of texts through the op graph.
//!
//! # Design
//! A [`Sequence`] is one text on one model: its key-value cache and its position, and a pass of its
//! own. [`Sequence::begin`] starts a pass over some tokens; [`Sequence::run`] executes whole operations
//! until a budget is used up or the pass is over, so a pass can be left between any two operations and
//! taken up later. A [`Batch`] takes several sequences through one pass. Both walk the graph with the
//! same code, in which one text is a batch of one; an [`Observer`] hears what each operation gives.
//!
//! # Determinism
//! Keys, values and logits depend on the tokens before them and the text's adapter alone: not on how the text was cut into
//! passes, which other texts went through with it, where passes were interrupted, or what the kernels
//! run on.
//!
//! # Units and bounds
//! A sequence has room for a fixed number of positions. Keys and values lie in pages of 64 positions that it takes from a
//! [`KvPool`] as it grows; the pool may be that of many sequences, and has a budget. Layers that read a window of positions
//! keep only that. Sequences that begin alike share pages ([`Sequence::fork`]). Activations take memory from a sequence's
//! first pass of its own on.
mod batch;
mod experts;
mod observe;
mod pass;
#[cfg(test)]
mod tests;
mod text;

pub use batch::{Batch, BatchError, Member};
pub use observe::{ExpertInputs, Observer, Output};

use crate::{
    adapter::Adapter,
    digest::Digest,
    graph::{AttentionShape, Work},
    model::Model,
};
use lockstep_numeric::{Kernels, KvFormat, KvFull, KvPool};
use pass::Pass;
use std::{iter, sync::Arc};
use text::Text;

/// Why a pass cannot begin. All are mistakes of the caller that have to be reported to a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SequenceError {
    #[error("sequence is full: {needed} positions needed, {capacity} there")]
    Full { needed: usize, capacity: usize },
    #[error("token is not in the vocabulary of {vocabulary}: {token}")]
    UnknownToken { token: u32, vocabulary: usize },
    #[error("sequence is of another model than {wanted}: {found}")]
    ForeignModel { wanted: Digest, found: Digest },
    #[error(transparent)]
    NoMemory(#[from] KvFull),
    #[error("keys and values of heads of {head_dim} elements cannot be kept as {format}")]
    Format { format: KvFormat, head_dim: usize },
    #[error("adapter is of another base than {wanted}: {found}")]
    ForeignAdapter { wanted: Digest, found: Digest },
    #[error(
        "adapter of a text cannot change behind its first token: {position} positions are there"
    )]
    AdapterTooLate { position: usize },
}

/// A pool for texts of `model` that keep keys and values as `format`, in at most `budget` bytes together.
///
/// # Errors
/// When the format does not take the model's heads.
pub fn kv_pool(
    model: &Model,
    format: KvFormat,
    budget: usize,
) -> Result<Arc<KvPool>, SequenceError> {
    let AttentionShape {
        kv_heads, head_dim, ..
    } = model.graph().attention;
    if !format.takes(head_dim) {
        return Err(SequenceError::Format { format, head_dim });
    }
    Ok(KvPool::new(format, kv_heads, head_dim, budget))
}

/// One text on one model.
pub struct Sequence {
    model: Arc<Model>,
    kernels: Arc<Kernels>,
    text: Text,
    pass: Pass,
}

impl std::fmt::Debug for Sequence {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Sequence")
            .field("model", &self.model.name())
            .field("capacity", &self.text.capacity)
            .field("position", &self.text.position)
            .field("pass", &self.pass)
            .finish_non_exhaustive()
    }
}

impl Sequence {
    /// An empty sequence with room for `capacity` positions, at most the model's context. Keys and values are kept as
    /// f16.
    #[must_use]
    pub fn new(model: Arc<Model>, kernels: Arc<Kernels>, capacity: usize) -> Self {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = model.graph().attention;
        let pool = KvPool::new(KvFormat::F16, kv_heads, head_dim, usize::MAX);
        Self::in_pool(model, kernels, &pool, capacity)
    }

    /// As [`Self::new`], with keys and values in pages of `pool`, in its format.
    ///
    /// # Panics
    /// When the pool is not made for the model's heads; see [`kv_pool`].
    #[must_use]
    pub fn in_pool(
        model: Arc<Model>,
        kernels: Arc<Kernels>,
        pool: &Arc<KvPool>,
        capacity: usize,
    ) -> Self {
        Self {
            text: Text::new(&model, pool, capacity),
            pass: Pass::default(),
            model,
            kernels,
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Its adapter.
    #[must_use]
    pub fn adapter(&self) -> Option<&Arc<Adapter>> {
        self.text.adapter.as_ref()
    }

    /// Gives an empty sequence another adapter, or none; [`Self::clear`] keeps it. A pass under way is dropped.
    ///
    /// # Errors
    /// When the adapter is of another base, or the sequence is not empty; then nothing has changed.
    pub fn set_adapter(&mut self, adapter: Option<Arc<Adapter>>) -> Result<(), SequenceError> {
        let wanted = self.model.digest();
        if let Some(found) = adapter.as_ref().map(|adapter| adapter.base())
            && found != wanted
        {
            return Err(SequenceError::ForeignAdapter { wanted, found });
        }
        let position = self.text.position;
        if position > 0 {
            return Err(SequenceError::AdapterTooLate { position });
        }
        self.pass.abandon();
        self.text.adapter = adapter;
        Ok(())
    }

    /// What it runs on, alone.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Positions of whole passes; the tokens of a pass under way come after it.
    #[must_use]
    pub fn position(&self) -> usize {
        self.text.position
    }

    /// Positions there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.text.capacity
    }

    /// Bytes of the key-value cache's pages, shared ones too, and of what convolutions keep.
    #[must_use]
    pub fn kv_bytes(&self) -> usize {
        self.text.bytes()
    }

    /// Makes it empty again, dropping a pass under way. Its pages go back to the pool.
    pub fn clear(&mut self) {
        self.text.clear();
        self.pass.abandon();
    }

    /// Another sequence that goes on from the same positions. Whole pages of the cache are shared; a pass under way is not
    /// part of it.
    ///
    /// # Errors
    /// When the pool has no room for the last pages, which are copied.
    pub fn fork(&self) -> Result<Self, SequenceError> {
        Ok(Self {
            model: Arc::clone(&self.model),
            kernels: Arc::clone(&self.kernels),
            text: self.text.fork()?,
            pass: Pass::default(),
        })
    }

    /// Goes back to the first `position` positions, dropping a pass under way, and returns how many it has then: fewer,
    /// none at all, where layers keep only what later positions read (windows, convolutions).
    pub fn rewind(&mut self, position: usize) -> usize {
        self.pass.abandon();
        self.text.rewind(position);
        self.text.position
    }

    /// Begins a pass over `tokens`, with logits for the last of them if asked for. A pass under way
    /// is dropped.
    ///
    /// # Errors
    /// When a token is unknown or the sequence or its pool has no room.
    ///
    /// # Panics
    /// When `tokens` is empty.
    pub fn begin(&mut self, tokens: &[u32], logits: bool) -> Result<(), SequenceError> {
        let graph = self.model.graph();
        self.text.check(tokens, graph.vocabulary)?;
        self.text.reserve(tokens.len())?;
        let segment = (tokens, self.text.position, logits);
        self.pass.begin(graph, iter::once(segment));
        Ok(())
    }

    /// Whether a pass is under way.
    #[must_use]
    pub fn in_pass(&self) -> bool {
        self.pass.under_way()
    }

    /// Operations of the pass under way that are done; 0 when there is none.
    #[must_use]
    pub fn operations_done(&self) -> usize {
        self.pass.next().unwrap_or_default()
    }

    /// Runs operations of the pass under way until `budget` is used up or the pass is over.
    /// Returns the work done, which exceeds `budget` by less than one operation.
    pub fn run(&mut self, budget: Work) -> Work {
        let mut work = 0;
        while work < budget {
            match self.step() {
                Some(price) => work += price,
                None => break,
            }
        }
        work
    }

    /// Runs the rest of the pass under way.
    pub fn finish(&mut self) -> Work {
        self.run(Work::MAX)
    }

    /// Runs the next operation and returns its price; nothing when no pass is under way.
    pub fn step(&mut self) -> Option<Work> {
        self.step_with(None)
    }

    /// [`Self::step`], telling `observer` what the operation gives.
    pub fn step_observed(&mut self, observer: &mut dyn Observer) -> Option<Work> {
        self.step_with(Some(observer))
    }

    fn step_with(&mut self, observer: Option<&mut dyn Observer>) -> Option<Work> {
        let texts = &mut [&mut self.text];
        self.pass.step(&self.model, &self.kernels, texts, observer)
    }

    /// The logits of the last whole pass that was begun with them, alone or in a batch.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        self.pass.last_logits(self.model.graph())
    }
}
