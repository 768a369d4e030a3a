//! Maps the files of models into memory, read-only.
//!
//! # Design
//! A model is one GGUF file, several of them side by side ([`parts`]), or a folder with a checkpoint. [`Mapped`] has the
//! bytes of all of its files; those of an empty file are none, and it is for whoever reads them to say what is missing.
//!
//! # Safety
//! A mapping shows later changes of the file. Model files are content-addressed and are not
//! changed in place; a process that truncates one while it is mapped gets this process
//! killed by the system, as with any mapped file. Weights of a GGUF file are packed (copied) when a model is
//! opened, so the mapping lives only that long and the digest is taken of the same mapping. A prepared file stays mapped
//! as long as its model lives: it is replaced under its name, which leaves mapped ones as they are, and never written to.
use crate::checkpoint;
#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
#[cfg(unix)]
use std::thread;
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A file or folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {path}")]
#[allow(missing_docs)]
pub struct ReadError {
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Maps the whole file at `path`.
///
/// # Errors
/// Whatever opening or mapping the file gives.
#[allow(unsafe_code)]
pub fn map(path: &Path) -> Result<Mmap, ReadError> {
    let map = || {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to this process; nobody changes model files in
        // place (see the module's Safety section), so the bytes behind the slice stay as they are.
        unsafe { Mmap::map(&file) }
    };
    map().map_err(|source| ReadError {
        path: path.to_owned(),
        source,
    })
}

/// The files of one model, mapped, in their order.
#[derive(Debug)]
pub struct Mapped(Vec<(PathBuf, Mmap)>);

impl Mapped {
    /// The GGUF files of the model whose first one is at `path`.
    ///
    /// # Errors
    /// The first that cannot be read.
    pub fn model(path: &Path) -> Result<Self, ReadError> {
        Self::files(parts(path))
    }

    /// The files of the checkpoint in a folder, by name.
    ///
    /// # Errors
    /// The folder or the first file that cannot be read.
    pub fn checkpoint(folder: &Path) -> Result<Self, ReadError> {
        let files = checkpoint_files(folder).map_err(|source| ReadError {
            path: folder.to_owned(),
            source,
        });
        Self::files(files?)
    }

    /// These files.
    ///
    /// # Errors
    /// The first that cannot be read.
    pub fn files(paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, ReadError> {
        let mapped = paths.into_iter().map(|path| {
            let map = map(&path)?;
            Ok((path, map))
        });
        mapped.collect::<Result<_, _>>().map(Self)
    }

    /// Where they are.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.0.iter().map(|(path, _)| path.as_path())
    }

    /// The bytes of each.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        self.0.iter().map(|(_, map)| &**map).collect()
    }

    /// The bytes of each by its name, as [`Checkpoint::open`](crate::checkpoint::Checkpoint::open) takes them.
    #[must_use]
    pub fn by_name(&self) -> checkpoint::Files<'_> {
        let named = self.0.iter().filter_map(|(path, map)| {
            let name = path.file_name()?.to_str()?;
            Some((name.to_owned(), &**map))
        });
        named.collect()
    }

    /// How many bytes they have together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, map)| map.len() as u64).sum()
    }
}

/// Bytes that the system is asked for at a time: of larger pieces Linux reads no more than it reads ahead of itself.
#[cfg(unix)]
const AHEAD_BYTES: usize = 128 << 10;

/// Asks the system to read a mapped file from beginning to end, in the background, as long as somebody has the mapping:
/// several threads that meet pages for the first time at several places would have them read in no order. Where the system
/// cannot, pages are read when they are met.
pub fn read_ahead(map: &Arc<Mmap>) {
    #[cfg(unix)]
    {
        let (length, map) = (map.len(), Arc::downgrade(map));
        let ask = move || {
            for start in (0..length).step_by(AHEAD_BYTES) {
                let Some(map) = map.upgrade() else { return };
                let count = AHEAD_BYTES.min(length - start);
                if map.advise_range(Advice::WillNeed, start, count).is_err() {
                    return;
                }
            }
        };
        // Without a thread it goes without.
        let _ = thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(ask);
    }
    #[cfg(not(unix))]
    let _ = map;
}

/// The files of the model whose first one is `path`: those whose names have its number, `00001`, counted on up to the number
/// that its name says, as in `…-00001-of-00003.gguf`; or it alone, if its name is not such a one.
pub fn parts(path: &Path) -> Vec<PathBuf> {
    const DIGITS: usize = 5;
    let parts = || {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number =
            |text: &str| text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(count) || number != "00001" {
            return None;
        }
        let names = (1..=count.parse::<usize>().ok()?)
            .map(|number| path.with_file_name(format!("{stem}-{number:05}-of-{count}.gguf")));
        Some(names.collect::<Vec<_>>()).filter(|names| !names.is_empty())
    };
    parts().unwrap_or_else(|| vec![path.to_owned()])
}

/// The files in a folder of whose names [`checkpoint::wanted`] says yes, by name.
///
/// # Errors
/// Whatever reading the folder gives.
pub fn checkpoint_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in folder.read_dir()? {
        let entry = entry?;
        // A name that is no text is none of those.
        if entry.file_name().to_str().is_some_and(checkpoint::wanted) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_how_many_files_there_are() {
        let names = |path: &str| {
            let parts = parts(Path::new(path)).into_iter();
            let names = parts.map(|path| path.to_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            names("a/b-00001-of-00002.gguf"),
            ["a/b-00001-of-00002.gguf", "a/b-00002-of-00002.gguf"]
        );
        for alone in [
            "b.gguf",
            "b-00002-of-00002.gguf",
            "b-00001-of-00000.gguf",
            "b-00001-of-2.gguf",
            "b-00001-of-00002.bin",
            "-of-.gguf",
        ] {
            assert_eq!(names(alone), [alone]);
        }
    }

    #[test]
    fn files_are_mapped_in_their_order_and_empty_ones_have_no_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("m-00001-of-00003.gguf");
        for (path, bytes) in parts(&first).iter().zip(["one", "", "three"]) {
            std::fs::write(path, bytes).unwrap();
        }
        let mapped = Mapped::model(&first).unwrap();
        assert_eq!(mapped.parts(), [&b"one"[..], b"", b"three"]);
        assert_eq!(mapped.bytes(), 8);
        assert_eq!(mapped.paths().collect::<Vec<_>>(), parts(&first));
        let missing = &parts(&first)[1];
        std::fs::remove_file(missing).unwrap();
        let error = Mapped::model(&first).unwrap_err();
        assert_eq!(&error.path, missing);
        assert_eq!(
            error.to_string(),
            format!("cannot read {}", missing.display())
        );
    }

    #[test]
    fn a_checkpoint_is_the_files_it_has_use_for() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["model.safetensors", "config.json", "readme.md"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let mapped = Mapped::checkpoint(folder.path()).unwrap();
        let files = mapped.by_name();
        let names: Vec<_> = files.keys().collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
        assert_eq!(files["config.json"], b"config.json");
        let none = folder.path().join("none");
        assert_eq!(Mapped::checkpoint(&none).unwrap_err().path, none);
    }
}
