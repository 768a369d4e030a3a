//! Maps a model file into memory, read-only.
//!
//! # Safety
//! A mapping shows later changes of the file. Model files are content-addressed and are not
//! changed in place; a process that truncates one while it is mapped gets this process
//! killed by the system, as with any mapped file. Weights of a GGUF file are packed (copied) when a model is
//! opened, so the mapping lives only that long and the digest is taken of the same mapping. A prepared file stays mapped
//! as long as its model lives: it is replaced under its name, which leaves mapped ones as they are, and never written to.
#[cfg(unix)]
use memmap2::Advice;
use memmap2::Mmap;
#[cfg(unix)]
use std::thread;
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Maps the whole file at `path`.
///
/// # Errors
/// Whatever opening or mapping the file gives; an empty file cannot be mapped on every system and
/// may be refused.
#[allow(unsafe_code)]
pub fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: the mapping is read-only and private to this process; nobody changes model files in
    // place (see the module's Safety section), so the bytes behind the slice stay as they are.
    unsafe { Mmap::map(&file) }
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

/// The names and paths of the files in a folder of whose names `wanted` says yes, by name.
///
/// # Errors
/// Whatever reading the folder gives.
pub fn folder(path: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in path.read_dir()? {
        let entry = entry?;
        // A name that is no text is none of those.
        if let Ok(name) = entry.file_name().into_string()
            && wanted(&name)
        {
            files.insert(name, entry.path());
        }
    }
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
}
