//! `lockstep merge`: writes a model with an adapter added to its weights.

use crate::{
    adapter::open_for,
    error::{Failure, chain},
    output, progress,
    run::open_file,
    store::Store,
};
use anyhow::Result;
use lockstep_model::{
    adapter::{self, MergeError},
    file::Mapped,
    gguf::TensorType,
};
use std::{io, path::PathBuf};

/// Adds an adapter to a model's weights.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model: a .gguf file, an alias, or a digest.
    base: String,
    /// An adapter of it.
    adapter: PathBuf,
    /// Where to write the merged model.
    output: PathBuf,
    /// Type of the changed matrices: F32, F16 or BF16; the base's where it is one of them, else F16, when not given.
    #[arg(long)]
    format: Option<String>,
    /// Replace the output if it is there.
    #[arg(long)]
    force: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let format = match &arguments.format {
        None => None,
        Some(name) => Some(TensorType::named(&name.to_uppercase()).ok_or_else(|| {
            Failure::user(format!("unknown type of weights: {name}"))
                .hint("known: F32, F16, BF16; lockstep quantize makes others of the result")
        })?),
    };
    let path = Store::open()?.resolve_gguf(&arguments.base)?;
    let adapter = {
        let model = open_file(&path)?;
        open_for(&arguments.adapter, &model, None)?
    };
    let base = Mapped::model(&path).map_err(Failure::from)?;
    let spinner = progress::spinner(format!("merging {} tensors", adapter.targets().len()));
    let written = output::write(&arguments.output, arguments.force, |file| {
        adapter::merge(&base.parts(), &adapter, format, file).map_err(|error| match error {
            MergeError::Write(error) => error,
            other => io::Error::other(Failure::user(chain(other))),
        })
    });
    spinner.finish_and_clear();
    written?;
    let (tensors, path) = (adapter.targets().len(), &arguments.output);
    if arguments.json {
        output::line(serde_json::json!({ "tensors": tensors, "path": path }))
    } else {
        output::line(format_args!(
            "merged {tensors} tensors into {}",
            path.display()
        ))
    }
}
