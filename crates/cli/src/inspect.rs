//! `lockstep inspect`: what a model file says, also of one that cannot be run.

mod report;

use crate::{
    error::{Failure, chain},
    memory::size,
    output,
    store::Store,
};
use anyhow::Result;
use lockstep_model::{file::Mapped, gguf::Gguf};
use report::Report;

/// Shows what is in a model file.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, an alias, or a digest.
    model: String,
    /// List the tensors.
    #[arg(long)]
    tensors: bool,
    /// Print all of it as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = Store::open()?.resolve_gguf(&arguments.model)?;
    let mapped = Mapped::model(&path).map_err(Failure::from)?;
    let gguf = Gguf::parse_parts(&mapped.parts()).map_err(|error| {
        Failure::user(format!("cannot read {}: {}", path.display(), chain(error)))
    })?;
    let report = Report::of(&gguf, &mapped, arguments.tensors);
    if arguments.json {
        output::line(serde_json::to_string(&report)?)
    } else {
        output::line(text(&report))
    }
}

/// For people.
fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        text.push_str(&line.to_string());
        text.push('\n');
    };
    let mut line =
        |name: &str, value: &dyn std::fmt::Display| put(format_args!("{name:<14}{value}"));
    let or_none = |value: &Option<String>| value.as_deref().map_or("none".to_owned(), shown);
    line("name", &or_none(&report.name));
    line("architecture", &or_none(&report.architecture));
    line("files", &report.files.len());
    line("size", &size(report.bytes));
    line("parameters", &report.parameters);
    line("tensors", &report.tensor_count);
    for format in &report.formats {
        let text = format!(
            "{} in {} tensors, {}",
            format.name,
            format.tensors,
            size(format.bytes)
        );
        line("  format", &text);
    }
    line("tokenizer", &report.tokenizer);
    line(
        "chat template",
        if report.chat_template { &"yes" } else { &"no" },
    );
    match report.context_length {
        Some(tokens) => line("context", &format!("{tokens} tokens")),
        None => line("context", &"unknown"),
    }
    match &report.memory {
        Some(memory) => {
            line("weights", &size(memory.weights));
            line(
                "cache",
                &format!("{} per 1,000 tokens", size(memory.cache_per_1000_tokens)),
            );
        }
        None => line("memory", &"unknown"),
    }
    match &report.reason {
        None => line("runs", &"yes"),
        Some(reason) => line("runs", &format!("no: {}", shown(reason))),
    }
    put(format_args!("\nmetadata"));
    for (key, value) in &report.metadata {
        put(format_args!("  {} = {}", shown(key), short(value)));
    }
    if let Some(tensors) = &report.tensors {
        put(format_args!("\ntensors"));
        for tensor in tensors {
            let shape: Vec<_> = tensor.dimensions.iter().map(u64::to_string).collect();
            put(format_args!(
                "  {} {} [{}] {}",
                shown(&tensor.name),
                tensor.format,
                shape.join(", "),
                size(tensor.bytes)
            ));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// A text without what a terminal would obey.
fn shown(text: &str) -> String {
    let each = |character: char| match character.is_control() {
        true => character.escape_default().to_string(),
        false => character.to_string(),
    };
    text.chars().map(each).collect()
}

/// A value on one line of bounded length, without what a terminal would obey.
fn short(value: &serde_json::Value) -> String {
    const CHARACTERS_MAX: usize = 80;
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut characters = text.chars();
    let begin: String = characters.by_ref().take(CHARACTERS_MAX).collect();
    let rest = characters.count();
    match rest {
        0 => shown(&begin),
        more => format!("{} … and {more} characters", shown(&begin)),
    }
}
