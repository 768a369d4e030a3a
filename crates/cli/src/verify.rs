//! `lockstep verify`: computes a transcript again, or one text in every way this machine has.

mod compare;
mod plan;
mod selfcheck;
mod transcript;
mod wasm;

use anyhow::Result;
use std::{num::NonZeroUsize, path::PathBuf};

/// Checks a transcript, or this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Transcript written by `lockstep run --transcript`.
    #[arg(required_unless_present = "self_check")]
    transcript: Option<PathBuf>,
    /// The model: a .gguf file or an alias; by default the stored model the transcript names.
    #[arg(long)]
    model: Option<String>,
    /// The adapter, if the transcript names one.
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Worker threads; all cores when not given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Instead of a transcript, check that a model (file, alias or digest) gives the same bits in every
    /// way this machine can run it: threads, instruction sets, prefill chunks, batches, Wasm.
    #[arg(
        long = "self",
        value_name = "MODEL",
        conflicts_with_all = ["transcript", "model", "adapter", "threads"]
    )]
    self_check: Option<String>,
    #[command(flatten)]
    extent: plan::Extent,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match (&arguments.self_check, &arguments.transcript) {
        (Some(model), _) => selfcheck::run(model, &arguments.extent, arguments.json),
        (None, Some(path)) => transcript::run(path, arguments),
        (None, None) => unreachable!("the parser asks for one of the two"),
    }
}
