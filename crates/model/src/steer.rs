//! What steers a text besides the sampling: bias, strings that stop it, a JSON schema.
//!
//! # Design
//! A [`Steering`] is plain data that stands in transcripts; what is empty is not written. [`Stops`] looks for the strings
//! in the bytes of a text, so that it does not matter how they are spread over tokens.
//!
//! # Determinism
//! Byte by byte, the first string that is complete ends the text where that string begins; of several that are complete
//! at the same byte, the longest. The text of a token is looked at to its end before the next token is computed.
//!
//! # Errors
//! Tokens outside of the vocabulary, empty strings and schemas that cannot be used are [`SteeringError`]s.
#[cfg(test)]
mod tests;

use crate::{
    constrain::{Constraint, ConstraintError},
    tokenizer::Tokenizer,
};
use blake3::Hasher;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What steers a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Steering {
    /// Tokens whose logits are changed, or that are banned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bias: BTreeMap<u32, Bias>,
    /// The text ends before the first of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// A JSON schema: the text is a value that it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
}

/// How a token's logit is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bias {
    /// So many thousandths are added.
    Milli(i32),
    /// The token is never chosen.
    Ban,
}

/// Why a text cannot be steered so.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SteeringError {
    #[error("the bias is for a token that is not in the vocabulary of {vocabulary}: {token}")]
    UnknownToken { token: u32, vocabulary: usize },
    #[error("a string that stops the text is empty")]
    EmptyStop,
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

impl Steering {
    /// Whether it steers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks bias and strings, and makes the schema usable.
    ///
    /// # Errors
    /// See [`SteeringError`].
    pub fn prepare(
        &self,
        tokenizer: &Tokenizer,
        vocabulary: usize,
    ) -> Result<Option<Constraint>, SteeringError> {
        if let Some((&token, _)) = self.bias.range(vocabulary as u32..).next() {
            return Err(SteeringError::UnknownToken { token, vocabulary });
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(SteeringError::EmptyStop);
        }
        let constraint = self
            .schema
            .as_deref()
            .map(|schema| Constraint::new(schema, tokenizer));
        Ok(constraint.transpose()?)
    }

    /// Adds all of it to a digest, so that different ones differ: numbers little-endian, every list and string after its
    /// length (4 bytes).
    pub(crate) fn digest(&self, hasher: &mut Hasher) {
        let length = |count: usize| (count as u32).to_le_bytes();
        hasher.update(&length(self.bias.len()));
        for (token, bias) in &self.bias {
            hasher.update(&token.to_le_bytes());
            let (kind, milli) = match bias {
                Bias::Milli(milli) => (0, *milli),
                Bias::Ban => (1, 0),
            };
            hasher.update(&[kind]);
            hasher.update(&milli.to_le_bytes());
        }
        hasher.update(&length(self.stop.len()));
        for stop in &self.stop {
            hasher.update(&length(stop.len()));
            hasher.update(stop.as_bytes());
        }
        hasher.update(&[u8::from(self.schema.is_some())]);
        hasher.update(self.schema.as_deref().unwrap_or_default().as_bytes());
    }
}

/// Strings that stop a text.
#[derive(Clone, Copy, Debug)]
pub struct Stops<'a>(pub &'a [String]);

impl Stops<'_> {
    /// Where the text ends, if one of the strings is complete in it behind the first `seen` bytes.
    #[must_use]
    pub fn find(self, text: &[u8], seen: usize) -> Option<usize> {
        (seen + 1..=text.len()).find_map(|end| {
            let complete = self
                .0
                .iter()
                .filter(|stop| text[..end].ends_with(stop.as_bytes()));
            complete.map(|stop| end - stop.len()).min()
        })
    }

    /// How many bytes of a text without any of the strings will stay, whatever follows.
    #[must_use]
    pub fn settled(self, text: &[u8]) -> usize {
        let longest = self.0.iter().map(String::len).max().unwrap_or_default();
        let first = text.len().saturating_sub(longest.saturating_sub(1));
        (first..text.len())
            .find(|&from| {
                let begins = |stop: &String| stop.as_bytes().starts_with(&text[from..]);
                self.0.iter().any(begins)
            })
            .unwrap_or(text.len())
    }
}
