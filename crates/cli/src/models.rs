//! `lockstep models`: what the store holds.

use crate::{
    memory::size,
    output,
    store::{Store, Stored},
};
use anyhow::Result;
use lockstep_model::{file::Mapped, gguf::Gguf, gguf::Value};

/// Lists the stored models, or removes one.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Remove an alias, and the model with its last one; or a model by its digest.
    Remove {
        /// Alias or digest.
        name: String,
    },
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let store = Store::open()?;
    match &arguments.action {
        None => list(&store.list()?, arguments.json),
        Some(Action::Remove { name }) => {
            let bytes = store.remove(name)?;
            if arguments.json {
                let report = serde_json::json!({ "removed": name, "bytes_freed": bytes });
                output::line(report)
            } else {
                output::line(format_args!(
                    "removed {name}, {} are free again",
                    size(bytes)
                ))
            }
        }
    }
}

fn list(models: &[Stored], json: bool) -> Result<()> {
    let total: u64 = models.iter().map(|model| model.bytes).sum();
    if json {
        let entries = models.iter().map(|model| {
            serde_json::json!({
                "aliases": model.aliases, "name": name(model), "digest": model.digest,
                "bytes": model.bytes, "files": model.files,
            })
        });
        let entries: Vec<_> = entries.collect();
        return output::line(serde_json::json!({ "models": entries, "bytes": total }));
    }
    let width = |of: fn(&Stored) -> usize| models.iter().map(of).max().unwrap_or_default();
    let aliases = width(|model| model.aliases.join(", ").len());
    let names = width(|model| name(model).chars().count());
    for model in models {
        output::line(format_args!(
            "{:aliases$}  {:names$}  {:>9}  {}",
            model.aliases.join(", "),
            name(model),
            size(model.bytes),
            model.digest
        ))?;
    }
    let noun = if models.len() == 1 { "model" } else { "models" };
    eprintln!("{} {noun}, {}", models.len(), size(total));
    Ok(())
}

/// The name that a model's file gives it; empty when it cannot be read.
fn name(model: &Stored) -> String {
    let read = || {
        let files = model.files.iter();
        let files = files.filter(|path| path.extension().is_some_and(|found| found == "gguf"));
        let mapped = Mapped::files(files.cloned()).ok()?;
        shown(&Gguf::parse_parts(&mapped.parts()).ok()?)
    };
    read().unwrap_or_default()
}

fn shown(gguf: &Gguf<'_>) -> Option<String> {
    let name = gguf
        .metadata()
        .get("general.name")
        .and_then(Value::as_str)?;
    Some(name.escape_debug().to_string())
}
