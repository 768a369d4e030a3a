//! `lockstep adapter`: adapters as files that say which base they are of.

use crate::{
    error::{Failure, chain},
    output, progress,
    run::open,
};
use anyhow::Result;
use clap::Subcommand;
use lockstep_model::{Adapter, AdapterError, Digest, Model};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Works with adapters (LoRA).
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read an adapter made elsewhere, and write it as a file that says which base it is of.
    Import(Import),
}

/// Imports an adapter.
#[derive(Debug, clap::Args)]
struct Import {
    /// The adapter: a GGUF file, or a folder with adapter_config.json and adapter_model.safetensors.
    adapter: PathBuf,
    /// The model that it was trained on: a .gguf file, an alias, or a digest.
    #[arg(long, value_name = "MODEL")]
    base: String,
    /// Where to write it.
    output: PathBuf,
    /// Replace the output if it is there.
    #[arg(long)]
    force: bool,
    /// Print what it is as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Command::Import(arguments) = &arguments.command;
    let model = open(&arguments.base)?;
    let adapter = open_for(&arguments.adapter, &model, Some(model.digest()))?;
    output::write(&arguments.output, arguments.force, |file| {
        adapter.write(file)
    })?;
    if arguments.json {
        let report = serde_json::json!({
            "adapter": adapter.digest(),
            "base": adapter.base(),
            "rank": adapter.rank(),
            "alpha": adapter.alpha(),
            "tensors": adapter.targets().collect::<Vec<_>>(),
            "resident_bytes": adapter.resident_bytes(),
        });
        output::line(report)
    } else {
        output::line(format_args!(
            "adapter {}\nbase    {}\nrank {}, alpha {}, {} tensors, {:.2} MB",
            adapter.digest(),
            adapter.base(),
            adapter.rank(),
            adapter.alpha(),
            adapter.targets().len(),
            adapter.resident_bytes() as f64 / 1e6
        ))
    }
}

/// Opens an adapter of `model`, whose base is stated, or stands in the file.
pub(crate) fn open_for(path: &Path, model: &Model, base: Option<Digest>) -> Result<Arc<Adapter>> {
    let spinner = progress::spinner(format!("loading {}", path.display()));
    let adapter = Adapter::open(path, model, base).map_err(|error| {
        let is_unbound = matches!(error, AdapterError::Unbound);
        let failure = Failure::user(format!("cannot open the adapter: {}", chain(error)));
        match is_unbound {
            true => failure.hint(format!(
                "state its base: lockstep adapter import {} --base MODEL OUTPUT",
                path.display()
            )),
            false => failure,
        }
    });
    spinner.finish_and_clear();
    Ok(adapter?)
}
