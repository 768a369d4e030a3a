//! Files that appear when they are whole.

use crate::error::Failure;
use anyhow::Result;
use std::{
    fmt,
    fs::{self, File, Permissions},
    io::{self, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Bytes written together.
const BUFFER_BYTES: usize = 1 << 20;

/// Prints a line on stdout.
pub(crate) fn line(text: impl fmt::Display) -> Result<()> {
    writeln!(io::stdout(), "{text}").map_err(unprinted)
}

/// What a failed write to stdout is called; a reader that has had enough is no failure.
pub(crate) fn unprinted(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => error.into(),
        _ => Failure::environment(format!("cannot write to standard output: {error}")).into(),
    }
}

/// Writes a file, in the place of one that is there only if `replace`. A [`Failure`] of `fill` inside of an [`io::Error`] is passed on.
pub(crate) fn write(
    path: &Path,
    replace: bool,
    fill: impl FnOnce(&mut Output) -> io::Result<()>,
) -> Result<()> {
    let mut output = Output::new(path, replace)?;
    fill(&mut output).map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => unwritable(path, &error),
    })?;
    output.finish()?;
    Ok(())
}

/// Refuses what no file can be put in the place of, and a file that may not be replaced.
pub(crate) fn check(path: &Path, replace: bool) -> Result<()> {
    let Ok(there) = fs::metadata(path) else {
        return Ok(());
    };
    if there.is_dir() {
        return Err(Failure::user(format!("output is a directory: {}", path.display())).into());
    }
    if !there.is_file() {
        return Err(Failure::user(format!("output is not a file: {}", path.display())).into());
    }
    if !replace {
        return Err(Failure::user(format!("output exists: {}", path.display()))
            .hint("choose another name, or replace it: --force")
            .into());
    }
    Ok(())
}

/// A file on its way. Dropped before [`Self::finish`], it leaves nothing.
pub(crate) struct Output {
    path: PathBuf,
    file: io::BufWriter<NamedTempFile>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Output {
    /// A file beside its final place `path`, which may be taken only if `replace`.
    pub(crate) fn new(path: &Path, replace: bool) -> Result<Self> {
        check(path, replace)?;
        let file = tempfile::Builder::new()
            .prefix(".lockstep-")
            .suffix(".partial")
            .permissions(ordinary())
            .tempfile_in(directory(path))
            .map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file: io::BufWriter::with_capacity(BUFFER_BYTES, file),
            hasher: blake3::Hasher::new(),
            bytes: 0,
        })
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self
            .write_all(bytes)
            .map_err(|error| unwritable(&self.path, &error))?)
    }

    /// Syncs the file and gives it its name; returns its size and BLAKE3 digest.
    pub(crate) fn finish(mut self) -> Result<(u64, String)> {
        if let Err(error) = self.file.flush() {
            return Err(unwritable(&self.path, &error).into());
        }
        let Self {
            path,
            file,
            hasher,
            bytes,
        } = self;
        let file = file
            .into_inner()
            .map_err(|error| unwritable(&path, error.error()))?;
        let synced = file.as_file().sync_all();
        synced.map_err(|error| unwritable(&path, &error))?;
        file.persist(&path)
            .map_err(|error| unwritable(&path, &error.error))?;
        // The name, too, outlives a loss of power where the system can promise that.
        if let Ok(directory) = File::open(directory(&path)) {
            let _ = directory.sync_all();
        }
        Ok((bytes, hasher.finalize().to_hex().to_string()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A failure to write, with what to do about it.
pub(crate) fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let said = error.to_string();
    // The name of a temporary file means nothing to people.
    let said = said.split(" at path \"").next().unwrap_or_default();
    let failure = Failure::environment(format!("cannot write {}: {said}", path.display()));
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            failure.hint("make room on the disk; `lockstep models` shows what models take")
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            failure.hint("give a folder that may be written")
        }
        io::ErrorKind::NotFound => failure.hint("make the folder first"),
        _ => failure,
    }
}

/// The rights of a file like others, of which the user's mask takes some: temporary files are their owner's alone.
#[cfg(unix)]
fn ordinary() -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    Permissions::from_mode(0o666)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
