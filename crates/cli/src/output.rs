//! Files that appear when they are whole.
//!
//! # Design
//! An [`Output`] is written beside its final place; synced it is [`Whole`], and then it is renamed. Nobody sees half of a
//! file under its final name. Work in progress is locked as long as somebody works on it, so what a process that was ended
//! has left is removed by the next one that writes into the same folder. Where files cannot be locked, it stays.

use crate::error::Failure;
use anyhow::Result;
use std::{
    fmt,
    fs::{self, DirEntry, File, Permissions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};
use tempfile::{NamedTempFile, TempDir, TempPath};

/// Bytes written together.
const BUFFER_BYTES: usize = 1 << 20;
/// Names of work in progress are this, something random, and [`SUFFIX`].
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

/// A folder for work in progress, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
    _lock: Option<File>,
}

impl Folder {
    /// An empty one in `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let made = in_progress(parent, |names| names.tempdir_in(parent));
        let (folder, _lock) = made.map_err(|error| unwritable(parent, &error))?;
        Ok(Self { folder, _lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A file on its way. Dropped before it is [`Whole`], it leaves nothing.
pub(crate) struct Output {
    /// What is named where it cannot be written.
    place: PathBuf,
    file: io::BufWriter<NamedTempFile>,
    lock: Option<File>,
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
        let made = in_progress(folder, |names| {
            names.permissions(ordinary()).tempfile_in(folder)
        });
        let (file, lock) = made.map_err(|error| unwritable(place, &error))?;
        Ok(Self {
            place: place.to_owned(),
            file: io::BufWriter::with_capacity(BUFFER_BYTES, file),
            lock,
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
        let Self { place, file, lock } = self;
        let file = file
            .into_inner()
            .map_err(|error| unwritable(&place, error.error()))?;
        let synced = file.as_file().sync_all();
        synced.map_err(|error| unwritable(&place, &error))?;
        Ok(Whole {
            path: file.into_temp_path(),
            _lock: lock,
        })
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
pub(crate) struct Whole {
    path: TempPath,
    _lock: Option<File>,
}

impl Whole {
    /// Takes over a whole file out of a [`Folder`] on the disk of its final place.
    pub(crate) fn adopt(path: &Path) -> Result<Self> {
        let adopt = || {
            File::open(path)?.sync_all()?;
            Ok(Self {
                path: TempPath::try_from_path(path.canonicalize()?)?,
                // The folder of work in progress that it lies in is locked.
                _lock: None,
            })
        };
        Ok(adopt().map_err(|error: io::Error| unwritable(path, &error))?)
    }

    /// Where it is until then.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, also in the place of a file that is there.
    pub(crate) fn name(self, path: &Path) -> Result<()> {
        self.path
            .persist(path)
            .map_err(|error| unwritable(path, &error.error))?;
        // The name, too, outlives a loss of power where the system can promise that.
        if let Ok(directory) = File::open(directory(path)) {
            let _ = directory.sync_all();
        }
        Ok(())
    }
}

/// Makes work in progress in a folder, and locks it by the handle it gives with it.
fn in_progress<T: AsRef<Path>>(
    folder: &Path,
    make: impl Fn(&mut tempfile::Builder<'_, '_>) -> io::Result<T>,
) -> io::Result<(T, Option<File>)> {
    remove_leftovers(folder);
    loop {
        let mut names = tempfile::Builder::new();
        let made = make(names.prefix(PREFIX).suffix(SUFFIX))?;
        // Where it cannot be locked, nobody takes it for left behind either.
        let lock = File::open(made.as_ref()).ok();
        let lock = lock.filter(|file| file.lock().is_ok());
        // Somebody may have, before it was locked.
        if made.as_ref().exists() {
            return Ok((made, lock));
        }
    }
}

/// Removes what processes that have ended left in a folder.
fn remove_leftovers(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if name.is_some_and(|name| name.ends_with(SUFFIX)) {
            // What stays is tried again by the next.
            let _ = remove_unused(&entry);
        }
    }
}

fn remove_unused(entry: &DirEntry) -> io::Result<()> {
    let (path, kind) = (entry.path(), entry.file_type()?);
    if !kind.is_file() && !kind.is_dir() {
        return Ok(());
    }
    // Locked until it is gone: whoever has just made it waits for that, and makes another.
    let file = File::open(&path)?;
    file.try_lock()?;
    match kind.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
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
    fn leftovers_are_removed_unless_somebody_works_on_them() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let mut file = Output::within(parent.path()).unwrap();
        let whole = Output::within(parent.path()).unwrap().whole().unwrap();
        let folder = Folder::new(parent.path()).unwrap();
        let others = [".lockstep-a", ".partial", "a.partial", ".partial-a"];
        for name in others {
            fs::write(path(name), "").unwrap();
        }
        let before = names(parent.path());
        assert_eq!(before.len(), 3 + others.len());
        fs::write(path(".lockstep-a.partial"), "").unwrap();
        let left = path(".lockstep-b.partial");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("part"), "").unwrap();
        drop(Folder::new(parent.path()).unwrap());
        assert_eq!(names(parent.path()), before);
        file.write(b"one").unwrap();
        file.whole().unwrap().name(&path("one")).unwrap();
        whole.name(&path("two")).unwrap();
        drop(folder);
        let mut after = others.to_vec();
        after.extend(["one", "two"]);
        after.sort_unstable();
        assert_eq!(names(parent.path()), after);
    }

    #[test]
    fn those_who_write_into_a_folder_at_once_do_not_disturb_each_other() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let parent = parent.path();
                scope.spawn(move || {
                    for index in 0..50 {
                        let mut file = Output::within(parent).unwrap();
                        file.write(b"whole").unwrap();
                        let name = parent.join(format!("{thread}-{index}"));
                        file.whole().unwrap().name(&name).unwrap();
                    }
                });
            }
        });
        let found = names(parent.path());
        assert_eq!(found.len(), 8 * 50);
        for name in found {
            assert_eq!(fs::read(parent.path().join(name)).unwrap(), b"whole");
        }
    }
}
