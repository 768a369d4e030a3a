//! Where models lie on this machine: under their BLAKE3 digest, with readable aliases.
//!
//! # Design
//! `models/<digest>.gguf` holds a file, `models/<digest>.packed` the same prepared, which may stand there alone;
//! `models/aliases/<name>` holds a digest as text. A model of several files lies in
//! `models/<digest>-00001-of-00003.gguf` and so on, as the loader looks for them; its digest is that of all its bytes. A
//! file gets its final name only when it is whole, checked and synced, the first of several last.

mod contents;

use crate::{
    error::Failure,
    output::{Folder, Output, Whole},
};
use anyhow::Result;
pub(crate) use contents::{Origin, Stored, alias_of, check_alias};
use etcetera::BaseStrategy;
use lockstep_model::prepared::EXTENSION;
use std::{
    env, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Overrides the platform's data directory.
pub(crate) const DATA_VARIABLE: &str = "LOCKSTEP_DATA";

/// The model store.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    models: PathBuf,
}

/// The platform's data directory for Lockstep, or `LOCKSTEP_DATA`.
pub(crate) fn data_directory() -> Result<PathBuf> {
    if let Some(directory) = env::var_os(DATA_VARIABLE) {
        return Ok(directory.into());
    }
    let directories = etcetera::choose_base_strategy().map_err(|error| {
        Failure::environment(format!("no data directory: {error}")).hint(format!(
            "set {DATA_VARIABLE} to a directory for models and state"
        ))
    })?;
    Ok(directories.data_dir().join("lockstep"))
}

impl Store {
    /// The store in the data directory. It need not be there: then it has no models, and is made for the first.
    pub(crate) fn open() -> Result<Self> {
        let models = data_directory()?.join("models");
        Ok(Self { models })
    }

    /// Makes the store's folders where they are missing.
    fn create(&self) -> Result<()> {
        let created = fs::create_dir_all(self.aliases_folder());
        Ok(created.map_err(|error| {
            Failure::environment(format!("cannot create {}: {error}", self.models.display())).hint(
                format!("set {DATA_VARIABLE} to a directory that may be written"),
            )
        })?)
    }

    /// The file of a model given as a path, which may be that of a checkpoint's directory, an alias, or a digest.
    pub(crate) fn resolve(&self, name: &str) -> Result<PathBuf> {
        let path = Path::new(name);
        let is_checkpoint = || path.join("config.json").is_file();
        if path.is_file() || is_checkpoint() {
            return Ok(path.to_owned());
        }
        if let Some(file) = self.find(name) {
            return Ok(file);
        }
        Err(Failure::user(format!("no such model: {name}"))
            .hint("give a .gguf file, or fetch one first: lockstep pull smollm2")
            .into())
    }

    /// As [`Self::resolve`], for what works on files only.
    pub(crate) fn resolve_file(&self, name: &str) -> Result<PathBuf> {
        let path = self.resolve(name)?;
        if path.is_dir() {
            return Err(Failure::user(format!("a directory, not a file: {name}"))
                .hint(format!(
                    "bring it into the store first: lockstep pull {name}"
                ))
                .into());
        }
        Ok(path)
    }

    /// As [`Self::resolve_file`], for what reads a model's own file, not a prepared one.
    pub(crate) fn resolve_gguf(&self, name: &str) -> Result<PathBuf> {
        let path = self.resolve_file(name)?;
        if path.extension().is_some_and(|found| found == EXTENSION) {
            return Err(
                Failure::user(format!("prepared, to be run only: {}", path.display()))
                    .hint("give the .gguf file that it was made of")
                    .into(),
            );
        }
        Ok(path)
    }

    /// The stored file under an alias or digest.
    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let plain = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !plain || name.starts_with('.') {
            return None;
        }
        let digest = fs::read_to_string(self.aliases_folder().join(name))
            .unwrap_or_else(|_| name.to_owned());
        let digest = digest.trim();
        let prepared = self.file(digest).with_extension(EXTENSION);
        self.first_file(digest)
            .or_else(|| Some(prepared).filter(|file| file.is_file()))
    }

    /// An empty directory beside the models for work in progress, removed when dropped.
    pub(crate) fn partial(&self) -> Result<Folder> {
        self.create()?;
        Folder::new(&self.models)
    }

    /// Copies `source` into the store, checking size and digest on the way; `report` hears the bytes
    /// so far.
    pub(crate) fn admit(
        &self,
        source: impl Read,
        expected: &Expected<'_>,
        mut report: impl FnMut(u64),
    ) -> Result<PathBuf> {
        self.create()?;
        let mut file = Output::within(&self.models)?;
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        let take = |bytes: &[u8]| {
            hasher.update(bytes);
            size += bytes.len() as u64;
            report(size);
            file.write(bytes)
        };
        read_all(
            source,
            |error| anyhow::Error::new(error).context("reading the model"),
            take,
        )?;
        let digest = hasher.finalize().to_hex();
        if size != expected.bytes || digest.as_str() != expected.digest {
            return Err(Failure::user(format!(
                "not the expected model: {size} bytes with digest {digest}, expected {} bytes with digest {}",
                expected.bytes, expected.digest
            ))
            .hint("the download may be damaged; try again")
            .into());
        }
        let (file, alias) = (file.whole()?, self.alias(expected.digest)?);
        let stored = self.file(expected.digest);
        file.name(&stored)?;
        alias.name(&self.aliases_folder().join(expected.alias))?;
        Ok(stored)
    }

    /// Writes an alias of a model, before that is there: a disk may be full.
    fn alias(&self, digest: &str) -> Result<Whole> {
        let mut alias = Output::within(&self.models)?;
        alias.write(digest.as_bytes())?;
        alias.whole()
    }

    /// The file of a model, or the first of several.
    fn first_file(&self, digest: &str) -> Option<PathBuf> {
        let whole = self.file(digest);
        if whole.is_file() {
            return Some(whole);
        }
        let first = format!("{digest}-00001-of-");
        let files = fs::read_dir(&self.models).ok()?.flatten();
        files.map(|entry| entry.path()).find(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(&first) && name.ends_with(".gguf"))
        })
    }

    fn aliases_folder(&self) -> PathBuf {
        self.models.join("aliases")
    }

    fn file(&self, digest: &str) -> PathBuf {
        self.models.join(format!("{digest}.gguf"))
    }
}

/// Hands over all bytes of a source; `unreadable` says what it is if they cannot be read.
fn read_all(
    mut source: impl Read,
    unreadable: impl Fn(io::Error) -> anyhow::Error,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read(&mut buffer).map_err(&unreadable)? {
            0 => return Ok(()),
            count => take(&buffer[..count])?,
        }
    }
}

/// What a fetched model must be.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) alias: &'a str,
    pub(crate) bytes: u64,
    pub(crate) digest: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn store() -> (TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("aliases")).unwrap();
        let store = Store {
            models: directory.path().to_owned(),
        };
        (directory, store)
    }

    #[test]
    fn a_checked_file_is_found_by_alias_and_digest() {
        let (_directory, store) = store();
        let digest = blake3::hash(b"weights").to_hex();
        let expected = Expected {
            alias: "tiny",
            bytes: 7,
            digest: &digest,
        };
        let stored = store.admit(&b"weights"[..], &expected, |_| ()).unwrap();
        assert_eq!(fs::read(&stored).unwrap(), b"weights");
        assert_eq!(store.find("tiny"), Some(stored.clone()));
        assert_eq!(store.find(&digest), Some(stored));
        assert_eq!(store.find("../tiny"), None);
    }

    #[test]
    fn a_damaged_file_leaves_nothing() {
        let (directory, store) = store();
        let digest = blake3::hash(b"weights").to_hex();
        let expected = Expected {
            alias: "tiny",
            bytes: 7,
            digest: &digest,
        };
        for damaged in [&b"weight"[..], b"weighty", b"weights!"] {
            let error = store
                .admit(damaged, &expected, |_| ())
                .unwrap_err()
                .to_string();
            assert!(error.contains("not the expected model"), "{error}");
        }
        assert_eq!(store.find("tiny"), None);
        let left: Vec<_> = fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["aliases"]);
    }
}
