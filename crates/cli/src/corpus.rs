//! Texts that a model is measured on: files, as tokens.

use crate::{error::Failure, progress, text};
use anyhow::Result;
use lockstep_model::{Model, Prompt, perplexity::Perplexity};
use lockstep_numeric::{Kernels, KvFormat};
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Tokens of a piece, if the model's context allows so many.
const CONTEXT: usize = 512;

/// A text that was read, before there is a model to make tokens of it.
#[derive(Debug)]
pub(crate) struct Text {
    path: PathBuf,
    text: String,
}

impl Text {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            text: text::read(path)?,
        })
    }

    /// Its tokens as `model` sees them, the one that begins texts included; no more than `most`.
    pub(crate) fn tokens(&self, model: &Model, most: Option<NonZeroUsize>) -> Result<Vec<u32>> {
        let prompt = Prompt::Text(self.text.clone());
        let mut tokens = prompt.tokens(model).map_err(Failure::user)?;
        if let Some(most) = most {
            tokens.truncate(most.get());
        }
        if tokens.is_empty() {
            return Err(Failure::user(format!("text is empty: {}", self.path.display())).into());
        }
        Ok(tokens)
    }
}

/// Tokens of a piece: as asked, or as many as usual and possible.
pub(crate) fn context(asked: Option<NonZeroUsize>, model: &Model) -> Result<usize> {
    let most = model.context_length();
    match asked.map(NonZeroUsize::get) {
        None => Ok(CONTEXT.min(most)),
        Some(asked) if asked <= most => Ok(asked),
        Some(asked) => Err(Failure::user(format!(
            "the model's context has {most} tokens, needed: {asked}"
        ))
        .hint("lower --context")
        .into()),
    }
}

/// The perplexity of `tokens`, with a bar on a terminal.
pub(crate) fn perplexity(
    model: &Arc<Model>,
    kernels: &Arc<Kernels>,
    tokens: &[u32],
    context: usize,
    kv: KvFormat,
    message: &'static str,
) -> Result<Perplexity> {
    let bar = progress::steps(tokens.len() / context).with_message(message);
    let found = Perplexity::measure(model, kernels, tokens, context, kv, |done| {
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    Ok(found.map_err(Failure::user)?)
}
