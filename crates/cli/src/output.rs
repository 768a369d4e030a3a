//! Files that appear when they are whole.
//!
//! # Design
//! An [`Output`] is written beside its final place, under a name that says which process writes it; synced it is
//! [`Whole`], and then it is renamed. Nobody sees half of a file under its final name. What a process that was ended has
//! left is removed by the next one that writes into the same folder.

use crate::error::Failure;
use anyhow::Result;
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use std::{
    fmt,
    fs::{self, File, Permissions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process,
};
use tempfile::{NamedTempFile, TempDir, TempPath};

/// Bytes written together.
const BUFFER_BYTES: usize = 1 << 20;
/// Names of work in progress are this, the id of the process, a hyphen, something random, and [`SUFFIX`].
const PREFIX: &str = ".lockstep-";
const SUFFIX: &str = ".partial";

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
    output.whole()?.name(path)
}

/// Refuses what no file can be put in the place of, and a file that may not be replaced.
fn check(path: &Path, replace: bool) -> Result<()> {
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

/// An empty folder in `parent` for work in progress, removed when dropped.
pub(crate) fn folder(parent: &Path) -> Result<TempDir> {
    remove_leftovers(parent);
    let made = in_progress(&name_of(process::id())).tempdir_in(parent);
    Ok(made.map_err(|error| unwritable(parent, &error))?)
}

/// A file on its way. Dropped before it is [`Whole`], it leaves nothing.
pub(crate) struct Output {
    /// What is named where it cannot be written.
    place: PathBuf,
    file: io::BufWriter<NamedTempFile>,
}

impl Output {
    /// A file beside its final place `path`, which may be taken only if `replace`.
    pub(crate) fn new(path: &Path, replace: bool) -> Result<Self> {
        check(path, replace)?;
        Self::create(directory(path), path)
    }

    /// A file in a folder; what its name will be is not known yet.
    pub(crate) fn within(folder: &Path) -> Result<Self> {
        Self::create(folder, folder)
    }

    fn create(folder: &Path, place: &Path) -> Result<Self> {
        remove_leftovers(folder);
        let file = in_progress(&name_of(process::id()))
            .permissions(ordinary())
            .tempfile_in(folder)
            .map_err(|error| unwritable(place, &error))?;
        Ok(Self {
            place: place.to_owned(),
            file: io::BufWriter::with_capacity(BUFFER_BYTES, file),
        })
    }

    /// Writes bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self
            .write_all(bytes)
            .map_err(|error| unwritable(&self.place, &error))?)
    }

    /// Syncs the file.
    pub(crate) fn whole(self) -> Result<Whole> {
        let Self { place, file } = self;
        let file = file
            .into_inner()
            .map_err(|error| unwritable(&place, error.error()))?;
        let synced = file.as_file().sync_all();
        synced.map_err(|error| unwritable(&place, &error))?;
        Ok(Whole(file.into_temp_path()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// A file that is whole and synced, without its name yet. Dropped before it has one, it leaves nothing.
pub(crate) struct Whole(TempPath);

impl Whole {
    /// Takes over a whole file that lies on the disk of its final place.
    pub(crate) fn adopt(path: &Path) -> Result<Self> {
        let adopt = || {
            File::open(path)?.sync_all()?;
            TempPath::try_from_path(path.canonicalize()?)
        };
        let adopted = adopt().map_err(|error| unwritable(path, &error))?;
        Ok(Self(adopted))
    }

    /// Where it is until then.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Gives it its name, also in the place of a file that is there.
    pub(crate) fn name(self, path: &Path) -> Result<()> {
        self.0
            .persist(path)
            .map_err(|error| unwritable(path, &error.error))?;
        // The name, too, outlives a loss of power where the system can promise that.
        if let Ok(directory) = File::open(directory(path)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// How names of work in progress of a process begin.
fn name_of(process: u32) -> String {
    format!("{PREFIX}{process}-")
}

fn in_progress(prefix: &str) -> tempfile::Builder<'_, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX);
    builder
}

/// Removes what processes that have ended left in a folder.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_str().and_then(owner).is_some_and(has_ended) {
            continue;
        }
        // Another process may remove it at the same moment; what counts is that it is gone.
        let _ = match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
    }
}

/// The process whose work in progress has that name.
fn owner(name: &str) -> Option<Pid> {
    let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let (process, _) = rest.split_once('-')?;
    Pid::from_raw(process.parse().ok().filter(|process| *process > 0)?)
}

/// Whether no process has that id; one of another user has it as well.
fn has_ended(process: Pid) -> bool {
    test_kill_process(process) == Err(Errno::SRCH)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "before").unwrap();
        assert!(Output::new(&path, false).is_err());
        let mut output = Output::new(&path, true).unwrap();
        output.write(b"after").unwrap();
        let whole = output.whole().unwrap();
        assert_eq!(fs::read(whole.path()).unwrap(), b"after");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        whole.name(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        drop(Output::within(folder.path()).unwrap());
        drop(Output::within(folder.path()).unwrap().whole().unwrap());
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn a_file_that_is_there_is_moved() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "bytes").unwrap();
        Whole::adopt(&from).unwrap().name(&to).unwrap();
        assert_eq!(names(folder.path()), ["to"]);
        assert!(Whole::adopt(&from).is_err());
    }

    #[test]
    fn leftovers_of_ended_processes_are_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        // No system gives a process this id.
        let ended = i32::MAX as u32;
        let living = [
            format!("{}a{SUFFIX}", name_of(process::id())),
            format!("{}a", name_of(ended)),
            format!("{PREFIX}0-a{SUFFIX}"),
            format!("{PREFIX}-1-a{SUFFIX}"),
            format!("{PREFIX}a{SUFFIX}"),
            ".partial-a".to_owned(),
        ];
        for name in &living {
            fs::write(path(name), "").unwrap();
        }
        fs::write(path(&format!("{}a{SUFFIX}", name_of(ended))), "").unwrap();
        let left = path(&format!("{}b{SUFFIX}", name_of(ended)));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("part"), "").unwrap();
        drop(super::folder(folder.path()).unwrap());
        let mut living = living.to_vec();
        living.sort();
        assert_eq!(names(folder.path()), living);
    }
}
