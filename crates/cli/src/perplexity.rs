//! `lockstep perplexity`: how well a model predicts a text.

use crate::{
    choice,
    corpus::{self, Text},
    kernels,
    run::open,
};
use anyhow::Result;
use lockstep_numeric::KvFormat;
use sha2::{Digest, Sha256};
use std::{
    io::{self, Write},
    num::NonZeroUsize,
    path::PathBuf,
};

/// Measures a model's perplexity, defined as llama.cpp's tool defines it: the text in pieces of so many
/// tokens, of which those behind the middle count.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, a folder with a checkpoint, an alias, or a digest.
    model: String,
    /// A file with the text.
    text: PathBuf,
    /// Take no more than this many tokens of it.
    #[arg(long, value_name = "COUNT")]
    tokens: Option<NonZeroUsize>,
    /// Tokens of a piece; 512, or the model's context if that is less.
    #[arg(long, value_name = "COUNT")]
    context: Option<NonZeroUsize>,
    /// How keys and values are kept: f16, q8 or q4.
    #[arg(long, value_name = "FORMAT", default_value = "f16", value_parser = choice::kv)]
    kv: KvFormat,
    /// Worker threads; all cores when not given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = Text::read(&arguments.text)?;
    let kernels = kernels::checked(arguments.threads)?;
    let model = open(&arguments.model)?;
    let tokens = text.tokens(&model, arguments.tokens)?;
    let context = corpus::context(arguments.context, &model)?;
    let found = corpus::perplexity(
        &model,
        &kernels,
        &tokens,
        context,
        arguments.kv,
        "perplexity",
    )?;
    let value = found.value();
    let mut out = io::stdout();
    if arguments.json {
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let report = serde_json::json!({
            "model": model.digest(),
            "perplexity": value,
            "standard_error": value * found.standard_error,
            "mean_negative_log_likelihood": found.mean,
            "tokens": tokens.len(),
            "tokens_sha256": hex::encode(Sha256::digest(&bytes)),
            "tokens_predicted": found.tokens,
            "pieces": found.pieces,
            "context": context,
            "kv": arguments.kv.name(),
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "perplexity {value:.4} +- {:.4}, {} tokens predicted in {} pieces of {context}",
            value * found.standard_error,
            found.tokens,
            found.pieces,
        )?;
    }
    Ok(())
}
