//! `lockstep prepare`: writes a model as the kernels read it, so that it opens at once and is used where it lies.
//!
//! # Design
//! The prepared file lies beside the model's and has its name, with another extension. A file that is named by its digest,
//! as those in the store are, is replaced by the prepared one beside it whenever it is opened ([`beside`]): the digest
//! says that they belong together. Another's prepared file is opened by its own name.

use crate::{
    error::Failure,
    output::{self, Output},
    progress, store,
};
use anyhow::Result;
use lockstep_model::{
    Digest, Model, ModelError,
    file::{self, Mapped},
    prepared::{self, EXTENSION, PreparedError},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Prepares a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, an alias, or a digest.
    model: String,
    /// Where to write the prepared file; beside the model when not given.
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    output: Option<PathBuf>,
    /// Write nothing; read the prepared file and check the digest of every tensor.
    #[arg(long)]
    check: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let model = store::Store::open()?.resolve_file(&arguments.model)?;
    let (digest, path) = match arguments.check {
        true => check(&model)?,
        false => make(&model, arguments.output.as_deref())?,
    };
    if arguments.json {
        let bytes = fs::metadata(&path)?.len();
        let report = serde_json::json!({ "model": digest, "path": path, "bytes": bytes });
        output::line(report)
    } else {
        output::line(path.display())
    }
}

/// The digest by which a file is named, if it is.
fn named(path: &Path) -> Option<Digest> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// Whether a path is that of a prepared file.
pub(crate) fn is_prepared(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == EXTENSION)
}

/// Opens a prepared file; one that is named by a digest has to be that model.
pub(crate) fn open(path: &Path) -> Result<Arc<Model>> {
    let model = Model::open_prepared(path).map_err(failure)?;
    match named(path) {
        Some(wanted) if wanted != model.digest() => Err(other_model(path, model.digest())),
        _ => Ok(model),
    }
}

/// The model of a file that is named by its digest, from the prepared file beside it. Where that is of no use, a line on
/// stderr says why, and the file itself has to be opened.
pub(crate) fn beside(path: &Path) -> Option<Arc<Model>> {
    named(path)?;
    let prepared = path.with_extension(EXTENSION);
    if is_prepared(path) || !prepared.is_file() {
        return None;
    }
    match open(&prepared) {
        Ok(model) => Some(model),
        Err(error) => {
            eprintln!("warning: {error:#}; opening {}", path.display());
            None
        }
    }
}

fn check(model: &Path) -> Result<(Digest, PathBuf)> {
    let path = model.with_extension(EXTENSION);
    let map = file::map(&path).map_err(|error| {
        Failure::from(error).hint("prepare the model first: lockstep prepare MODEL")
    })?;
    let spinner = progress::spinner(format!("checking {}", path.display()));
    let checked = prepared::check(&map);
    spinner.finish_and_clear();
    let digest = checked.map_err(|error| {
        let chain = anyhow::Error::new(error);
        Failure::user(format!("cannot open the model: {chain:#}")).hint("prepare it again")
    })?;
    match named(&path) {
        Some(wanted) if wanted != digest => Err(other_model(&path, digest)),
        _ => Ok((digest, path)),
    }
}

fn make(model: &Path, output: Option<&Path>) -> Result<(Digest, PathBuf)> {
    if is_prepared(model) {
        let message = format!("the model is prepared already: {}", model.display());
        return Err(Failure::user(message).into());
    }
    let path = output.map_or_else(|| model.with_extension(EXTENSION), Path::to_owned);
    // What is there and is whole need not be made again; only a digest in the name says that it is this model's.
    if let Some(digest) = named(model)
        && file::map(&path).is_ok_and(|there| prepared::check(&there).is_ok_and(|of| of == digest))
    {
        return Ok((digest, path));
    }
    let is_model = file::parts(model).iter().any(|part| {
        let same = |path: &Path| fs::canonicalize(path).ok();
        same(part).is_some() && same(part) == same(&path)
    });
    if is_model {
        let message = format!("the output is the model itself: {}", path.display());
        return Err(Failure::user(message).into());
    }
    let mut out = Output::new(&path, true)?;
    let digest = write(model, &mut out).map_err(|error| match error {
        ModelError::Prepared(PreparedError::Write(error)) => {
            output::unwritable(&path, &error).into()
        }
        error => failure(error),
    })?;
    if named(model).is_some_and(|wanted| wanted != digest) {
        return Err(other_model(model, digest));
    }
    let whole = out.whole()?;
    Model::open_prepared(whole.path()).map_err(failure)?;
    whole.name(&path)?;
    Ok((digest, path))
}

/// Writes the prepared file of the model at `path`.
fn write(path: &Path, out: &mut Output) -> Result<Digest, ModelError> {
    let model = Mapped::model(path)?;
    let bar = progress::bytes("preparing", 0);
    let digest = prepared::write(&model.parts(), out, |bytes, of| {
        bar.set_length(of);
        bar.set_position(bytes);
    });
    bar.finish_and_clear();
    digest
}

fn failure(error: ModelError) -> anyhow::Error {
    let chain = anyhow::Error::new(error);
    Failure::user(format!("cannot open the model: {chain:#}")).into()
}

fn other_model(path: &Path, digest: Digest) -> anyhow::Error {
    let message = format!("not the model that its name says: {}", path.display());
    Failure::user(message)
        .hint(format!("its digest is {digest}"))
        .into()
}
