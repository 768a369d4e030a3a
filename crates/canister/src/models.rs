//! What the engine asks of whoever holds the models: the trait through which `subnet` reaches `model`.
use crate::session::{GenerationRequest, ModelDigest, Progress};

/// Work in multiply-accumulates: the price of model operations.
pub type Work = u64;

/// Why a generation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The same on every replica: the session fails with this text.
    #[error("{0}")]
    Rejected(String),
    /// This machine's trouble (bytes missing, out of memory): the replica must stop, not diverge.
    #[error("model unavailable on this replica: {0}")]
    Unavailable(String),
}

/// Holds resident models and starts generations on them.
pub trait ModelHost: Send + Sync + 'static {
    /// Starts a generation, or, when `progress` is not empty, resumes one: everything up to
    /// `progress` is recomputed (free of charge) and the generation continues with the same bits.
    ///
    /// # Errors
    /// See [`GenerationError`].
    fn start(
        &self,
        model: &ModelDigest,
        request: &GenerationRequest,
        progress: &Progress,
    ) -> Result<Box<dyn Generation>, GenerationError>;
}

/// One running generation with its key-value cache.
pub trait Generation: Send {
    /// Runs whole operations until `budget` is used up, `permitted_tokens` have been generated in
    /// total, or the text ends. Returns the work done, which depends only on the request, the
    /// progress and the arguments; it may exceed `budget` by less than one operation.
    ///
    /// # Errors
    /// See [`GenerationError`].
    fn advance(&mut self, permitted_tokens: u32, budget: Work) -> Result<Work, GenerationError>;

    /// The replicated progress so far.
    fn progress(&self) -> &Progress;
}

/// Holds none.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoModels;

impl ModelHost for NoModels {
    fn start(
        &self,
        _model: &ModelDigest,
        _request: &GenerationRequest,
        _progress: &Progress,
    ) -> Result<Box<dyn Generation>, GenerationError> {
        Err(GenerationError::Rejected("there are no models here".into()))
    }
}
