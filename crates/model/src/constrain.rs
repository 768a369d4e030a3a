//! Text that a JSON schema allows: which tokens may come next.
//!
//! # Design
//! The grammar engine is the crate `llguidance`, and this file is the only one that knows it. It is there with the feature
//! `schema`; without it (in the Wasm module of the self-check) every schema is refused. A value is written with `", "`
//! between items and `": "` behind keys, properties in the order of the schema. Nothing is fetched: a schema refers to
//! itself alone.
//!
//! # Determinism
//! A mask is a set with one meaning: the tokens after whose bytes the text can still become a value. The engine computes
//! it by integers and bytes; bounds of numbers go through f64, by basic operations and powers of ten that f64 has exactly
//! where bounds have up to 15 digits; its clock readings are statistics, and its hash maps are looked up, never walked in a way
//! that reaches a mask. Its limits count steps, not time. A limit that is reached is an error, never another mask; since
//! what was computed before counts, [`Constraint::replay`] asks for every mask that the first run has asked for.
//! The engine's version is pinned exactly.
//!
//! # Errors
//! See [`ConstraintError`].
#[cfg(feature = "schema")]
mod engine;
#[cfg(all(test, feature = "schema"))]
mod tests;

use crate::tokenizer::Tokenizer;
#[cfg(feature = "schema")]
use engine::Engine;

/// Why a schema cannot be used or a text cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConstraintError {
    #[error("the schema is not JSON: {reason}")]
    NotJson { reason: String },
    #[error("a schema is a JSON object")]
    NotAnObject,
    #[error("the schema cannot be used: {reason}")]
    Unusable { reason: String },
    #[error(
        "the schema is too large: {bytes} bytes and {objects} objects (at most 65536 and 1024)"
    )]
    TooLarge { bytes: usize, objects: usize },
    #[error("this build cannot follow a schema")]
    NotBuiltIn,
    #[error("the schema is too much for the grammar engine: {reason}")]
    Exhausted { reason: String },
    #[error("the schema does not allow the token: {token}")]
    Refused { token: u32 },
}

/// A text under a schema.
pub struct Constraint {
    #[cfg(feature = "schema")]
    engine: Engine,
    allowed: Vec<bool>,
    ends: Vec<u32>,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Constraint").finish_non_exhaustive()
    }
}

impl Constraint {
    /// The empty text under `schema`.
    ///
    /// # Errors
    /// When the schema is none or uses what the engine lacks.
    #[cfg(feature = "schema")]
    pub fn new(schema: &str, tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        let vocabulary = tokenizer.vocabulary() as u32;
        let mut constraint = Self {
            engine: Engine::new(schema, tokenizer)?,
            allowed: vec![false; vocabulary as usize],
            ends: (0..vocabulary)
                .filter(|&token| tokenizer.is_end(token))
                .collect(),
        };
        constraint.renew()?;
        Ok(constraint)
    }

    /// Refuses every schema: the engine is not built in.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "schema"))]
    pub fn new(_schema: &str, _tokenizer: &Tokenizer) -> Result<Self, ConstraintError> {
        Err(ConstraintError::NotBuiltIn)
    }

    /// Whether a token may come next, by its number. A token that ends texts may when the text is a value.
    #[must_use]
    pub fn allowed(&self) -> &[bool] {
        &self.allowed
    }

    /// Goes on by a token. False when the text is a value that nothing can follow.
    ///
    /// # Errors
    /// When the schema does not allow the token, or the engine gives up.
    pub fn accept(&mut self, token: u32) -> Result<bool, ConstraintError> {
        let allowed = self.allowed.get(token as usize).copied();
        if !allowed.unwrap_or(false) || self.ends.contains(&token) {
            return Err(ConstraintError::Refused { token });
        }
        self.go_on(token)?;
        self.renew()
    }

    /// Goes on by the tokens of a run that was interrupted.
    ///
    /// # Errors
    /// As [`Self::accept`].
    pub fn replay(&mut self, tokens: &[u32]) -> Result<(), ConstraintError> {
        for &token in tokens {
            self.accept(token)?;
        }
        Ok(())
    }

    #[cfg(feature = "schema")]
    fn go_on(&mut self, token: u32) -> Result<(), ConstraintError> {
        self.engine.accept(token)
    }

    /// Finds out which tokens may come next; false when none of them adds to the text.
    #[cfg(feature = "schema")]
    fn renew(&mut self) -> Result<bool, ConstraintError> {
        let more = self.engine.allow(&mut self.allowed)?;
        let complete = self.engine.is_complete()?;
        for &end in &self.ends {
            self.allowed[end as usize] = complete;
        }
        Ok(more)
    }

    #[cfg(not(feature = "schema"))]
    #[allow(
        clippy::unused_self,
        clippy::needless_pass_by_ref_mut,
        reason = "has a use with the engine"
    )]
    fn go_on(&mut self, _token: u32) -> Result<(), ConstraintError> {
        Err(ConstraintError::NotBuiltIn)
    }

    #[cfg(not(feature = "schema"))]
    #[allow(
        clippy::unused_self,
        clippy::needless_pass_by_ref_mut,
        reason = "has a use with the engine"
    )]
    fn renew(&mut self) -> Result<bool, ConstraintError> {
        Err(ConstraintError::NotBuiltIn)
    }
}
