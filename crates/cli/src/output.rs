//! Files that appear when they are whole.

use crate::error::Failure;
use anyhow::Result;
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};
use tempfile::NamedTempFile;

/// Bytes written together.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes a file, in the place of one that is there. A [`Failure`] of `fill` inside of an [`io::Error`] is passed on.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&mut Output) -> io::Result<()>) -> Result<()> {
    let mut output = Output::new(path, true)?;
    fill(&mut output).map_err(|error| match error.downcast::<Failure>() {
        Ok(failure) => failure,
        Err(error) => output.failure(&error),
    })?;
    output.finish()?;
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
        if path.is_dir() {
            return Err(Failure::user(format!("output is a directory: {}", path.display())).into());
        }
        if !replace && path.exists() {
            return Err(Failure::user(format!("output exists: {}", path.display()))
                .hint("choose another name, or replace it: --force")
                .into());
        }
        let file = tempfile::Builder::new()
            .prefix(".lockstep-")
            .suffix(".partial")
            .tempfile_in(directory(path))
            .map_err(|error| {
                Failure::environment(format!(
                    "cannot write {}: {}",
                    path.display(),
                    plain(&error)
                ))
                .hint("choose an output in a directory that exists and may be written")
            })?;
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
            .map_err(|error| self.failure(&error))?)
    }

    /// What a failed write is called.
    pub(crate) fn failure(&self, error: &io::Error) -> Failure {
        let failure = Failure::environment(format!(
            "cannot write {}: {}",
            self.path.display(),
            plain(error)
        ));
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                failure.hint("make room, or choose an output on another disk")
            }
            _ => failure,
        }
    }

    /// Syncs the file and gives it its name; returns its size and BLAKE3 digest.
    pub(crate) fn finish(mut self) -> Result<(u64, String)> {
        let failure = |path: &Path, error: &io::Error| {
            Failure::environment(format!("cannot write {}: {}", path.display(), plain(error)))
        };
        if let Err(error) = self.file.flush() {
            return Err(self.failure(&error).into());
        }
        let Self {
            path,
            file,
            hasher,
            bytes,
        } = self;
        let file = file
            .into_inner()
            .map_err(|error| failure(&path, error.error()))?;
        let named = permit(file.as_file())
            .and_then(|()| file.as_file().sync_all())
            .map_err(|error| failure(&path, &error));
        named?;
        file.persist(&path)
            .map_err(|error| failure(&path, &error.error))?;
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

/// Temporary files are their owner's alone; a model is a file like others.
#[cfg(unix)]
fn permit(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn permit(_: &File) -> io::Result<()> {
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The system's words, without the name of the temporary file.
fn plain(error: &io::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code).to_string(),
            None => match error.get_ref() {
                Some(_) => io::Error::from(error.kind()).to_string(),
                None => error.to_string(),
            },
        },
    }
}
