//! What people put into the store, see in it, and take out of it.

use super::{Store, read_all};
use crate::{
    error::{Failure, chain},
    output::{Output, Whole},
};
use anyhow::Result;
use lockstep_model::{
    file::{self, Mapped, ReadError},
    gguf::Gguf,
    prepared::EXTENSION,
};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// A stored model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) digest: String,
    pub(crate) aliases: Vec<String>,
    /// Its files in their order, a prepared one behind them.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) bytes: u64,
}

/// What becomes of the files that a model is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// They stay where they are.
    Copied,
    /// They lie on the store's own disk and are not needed there any more.
    Moved,
}

impl Store {
    /// Takes in the files of a model, in their order, under an alias; `report` hears the bytes so far.
    pub(crate) fn add(
        &self,
        files: &[PathBuf],
        alias: &str,
        origin: Origin,
        mut report: impl FnMut(u64),
    ) -> Result<PathBuf> {
        check_alias(alias)?;
        check_files(files)?;
        self.create()?;
        let mut hasher = blake3::Hasher::new();
        let mut total = 0;
        let mut ready = Vec::new();
        for source in files {
            ready.push(self.take(source, origin, |bytes| {
                hasher.update(bytes);
                total += bytes.len() as u64;
                report(total);
            })?);
        }
        let digest = hasher.finalize().to_hex();
        self.check_taken(alias, &digest)?;
        let named = self.alias(&digest)?;
        let names: Vec<PathBuf> = match ready.len() {
            1 => vec![self.file(&digest)],
            count => (1..=count)
                .map(|number| {
                    let name = format!("{digest}-{number:05}-of-{count:05}.gguf");
                    self.models.join(name)
                })
                .collect(),
        };
        for (file, name) in ready.into_iter().zip(&names).rev() {
            file.name(name)?;
        }
        named.name(&self.aliases_folder().join(alias))?;
        Ok(names[0].clone())
    }

    /// Brings a file into the store, without a name yet; `hear` hears its bytes.
    fn take(&self, source: &Path, origin: Origin, mut hear: impl FnMut(&[u8])) -> Result<Whole> {
        let unreadable = |error: io::Error| {
            Failure::user(format!("cannot read {}: {error}", source.display())).into()
        };
        let from = fs::File::open(source).map_err(unreadable)?;
        if origin == Origin::Moved {
            read_all(from, unreadable, |bytes| {
                hear(bytes);
                Ok(())
            })?;
            return Whole::adopt(source);
        }
        let mut to = Output::within(&self.models)?;
        read_all(from, unreadable, |bytes| {
            hear(bytes);
            to.write(bytes)
        })?;
        to.whole()
    }

    /// All models, by digest.
    pub(crate) fn list(&self) -> Result<Vec<Stored>> {
        let mut models: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        for path in entries(&self.models)? {
            let extension = path.extension();
            if ![Some(OsStr::new("gguf")), Some(OsStr::new(EXTENSION))].contains(&extension) {
                continue;
            }
            let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
            let digest = stem.split('-').next().unwrap_or_default().to_owned();
            models.entry(digest).or_default().push(path);
        }
        let aliases = self.aliases()?;
        let stored = models.into_iter().map(|(digest, mut files)| {
            files.sort();
            let bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
            let names = aliases.iter().filter(|(_, named)| **named == digest);
            Stored {
                aliases: names.map(|(name, _)| name.clone()).collect(),
                bytes: files.iter().map(bytes).sum(),
                digest,
                files,
            }
        });
        Ok(stored.collect())
    }

    /// Takes away an alias, and the files with the last one; or, by its digest, a model with all of them. Says how many
    /// bytes are free again.
    pub(crate) fn remove(&self, name: &str) -> Result<u64> {
        let aliases = self.aliases()?;
        let digest = aliases.get(name).map_or(name, String::as_str);
        let models = self.list()?;
        let model = models.iter().find(|model| model.digest == digest);
        if model.is_none() && !aliases.contains_key(name) {
            return Err(Failure::user(format!("no such model in the store: {name}"))
                .hint("`lockstep models` lists them")
                .into());
        }
        let folder = self.aliases_folder();
        let gone = |path: &Path| fs::remove_file(path).map_err(|error| unremovable(path, &error));
        let by_digest = !aliases.contains_key(name);
        for (alias, named) in &aliases {
            if alias == name || by_digest && named == digest {
                gone(&folder.join(alias))?;
            }
        }
        let others = aliases
            .iter()
            .any(|(alias, named)| alias != name && named == digest);
        match model {
            Some(model) if by_digest || !others => {
                // The first of several goes first, so that no half of a model is found.
                for file in &model.files {
                    gone(file)?;
                }
                Ok(model.bytes)
            }
            _ => Ok(0),
        }
    }

    /// Digests by alias.
    fn aliases(&self) -> Result<BTreeMap<String, String>> {
        let mut aliases = BTreeMap::new();
        for path in entries(&self.aliases_folder())? {
            let name = path.file_name().and_then(OsStr::to_str);
            if let (Some(name), Ok(digest)) = (name, fs::read_to_string(&path)) {
                aliases.insert(name.to_owned(), digest.trim().to_owned());
            }
        }
        Ok(aliases)
    }

    /// Refuses an alias that another model has.
    fn check_taken(&self, alias: &str, digest: &str) -> Result<()> {
        match self.aliases()?.get(alias) {
            Some(other) if other != digest => Err(Failure::user(format!(
                "another model has that alias already: {alias}"
            ))
            .hint(format!(
                "give it another one with --alias, or `lockstep models remove {alias}` first"
            ))
            .into()),
            _ => Ok(()),
        }
    }
}

/// What is in a folder of the store: nothing, where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    };
    read().or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(Vec::new()),
        _ => {
            let message = format!("cannot read {}: {error}", folder.display());
            Err(Failure::environment(message).into())
        }
    })
}

/// An alias for a model whose file has this name.
pub(crate) fn alias_of(path: &Path) -> String {
    let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or("model");
    let parts = file::parts(path).len();
    let stem = match parts {
        1 => stem,
        _ => stem.split("-00001-of-").next().unwrap_or(stem),
    };
    let plain = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => character,
        _ => '-',
    };
    let alias: String = stem.chars().map(plain).collect();
    match alias.trim_start_matches(['.', '-']) {
        "" => "model".to_owned(),
        alias => alias.to_owned(),
    }
}

pub(crate) fn check_alias(alias: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if alias.is_empty() || alias.starts_with(['.', '-']) || !alias.bytes().all(plain) {
        return Err(Failure::user(format!("not an alias: {alias}"))
            .hint("letters, digits, '-', '_' and '.', beginning with a letter or digit")
            .into());
    }
    Ok(())
}

/// Checks that the files are those of a model, before any is copied.
fn check_files(files: &[PathBuf]) -> Result<()> {
    let unreadable = |error: ReadError| match files.len() {
        1 => Failure::from(error),
        count => Failure::from(error).hint(format!("the model has {count} files, side by side")),
    };
    let mapped = Mapped::files(files.iter().cloned()).map_err(unreadable)?;
    match Gguf::parse_parts(&mapped.parts()) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::user(format!(
            "not a model: {}: {}",
            files[0].display(),
            chain(error)
        ))
        .into()),
    }
}

fn unremovable(path: &Path, error: &std::io::Error) -> anyhow::Error {
    Failure::environment(format!("cannot remove {}: {error}", path.display())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::{Model, fixture};
    use tempfile::TempDir;

    fn store() -> (TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("store/aliases")).unwrap();
        let models = directory.path().join("store");
        (directory, Store { models })
    }

    fn left(store: &Store) -> usize {
        fs::read_dir(&store.models).unwrap().count()
    }

    #[test]
    fn a_store_is_made_for_its_first_model() {
        let directory = tempfile::tempdir().unwrap();
        let models = directory.path().join("data/models");
        let store = Store {
            models: models.clone(),
        };
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(store.find("tiny"), None);
        let error = store.remove("tiny").unwrap_err().to_string();
        assert_eq!(error, "no such model in the store: tiny");
        assert!(!models.exists());
        let path = directory.path().join("a.gguf");
        fs::write(&path, fixture::tiny_llama(3).build()).unwrap();
        let added = store.add(&[path], "tiny", Origin::Copied, |_| ());
        assert_eq!(store.find("tiny"), Some(added.unwrap()));
    }

    #[test]
    fn a_split_model_is_stored_as_the_loader_wants_it() {
        let (directory, store) = store();
        let parts = fixture::tiny_llama(3).split(3);
        let first = directory.path().join("tiny llama-00001-of-00003.gguf");
        let files = file::parts(&first);
        for (path, bytes) in files.iter().zip(&parts) {
            fs::write(path, bytes).unwrap();
        }
        assert_eq!(alias_of(&first), "tiny-llama");
        let stored = store.add(&files, "tiny", Origin::Copied, |_| ()).unwrap();
        let model = Model::open(&stored).unwrap();
        assert_eq!(store.find("tiny"), Some(stored.clone()));
        assert_eq!(store.find(&model.digest().to_string()), Some(stored));
        let [entry] = &store.list().unwrap()[..] else {
            panic!("one model is stored");
        };
        assert_eq!(entry.digest, model.digest().to_string());
        assert_eq!(entry.aliases, ["tiny"]);
        assert_eq!(entry.files.len(), 3);
        assert_eq!(
            entry.bytes,
            parts.iter().map(|part| part.len() as u64).sum::<u64>()
        );
        assert_eq!(store.remove("tiny").unwrap(), entry.bytes);
        assert_eq!(left(&store), 1, "only the folder of aliases");
    }

    #[test]
    fn files_go_with_their_last_alias() {
        let (directory, store) = store();
        let path = directory.path().join("a.gguf");
        fs::write(&path, fixture::tiny_llama(3).build()).unwrap();
        let add = |alias: &str| {
            let files = [path.clone()];
            store.add(&files, alias, Origin::Copied, |_| ())
        };
        add("one").unwrap();
        add("one").unwrap();
        add("two").unwrap();
        assert_eq!(store.list().unwrap()[0].aliases, ["one", "two"]);
        assert_eq!(store.remove("one").unwrap(), 0);
        assert!(store.find("two").is_some());
        assert!(store.remove("one").is_err());
        let digest = store.list().unwrap()[0].digest.clone();
        assert!(store.remove(&digest).unwrap() > 0);
        assert_eq!(store.find("two"), None);

        add("one").unwrap();
        fs::write(&path, fixture::tiny_llama(4).build()).unwrap();
        let error = add("one").unwrap_err().to_string();
        assert_eq!(error, "another model has that alias already: one");
        for alias in ["", ".x", "-x", "a/b", "a b"] {
            assert!(
                add(alias)
                    .unwrap_err()
                    .to_string()
                    .starts_with("not an alias")
            );
        }
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn what_is_no_model_is_not_taken_in() {
        let (directory, store) = store();
        let add = |name: &str, bytes: Option<&[u8]>| {
            let path = directory.path().join(name);
            if let Some(bytes) = bytes {
                fs::write(&path, bytes).unwrap();
            }
            let added = store.add(&file::parts(&path), "x", Origin::Copied, |_| ());
            added.unwrap_err().to_string()
        };
        assert!(add("missing.gguf", None).contains("cannot read"));
        assert!(add("empty.gguf", Some(b"")).contains("not a model"));
        assert!(add("text.gguf", Some(b"hello, hello")).contains("not a model"));
        let whole = fixture::tiny_llama(3).build();
        assert!(add("cut.gguf", Some(&whole[..whole.len() / 2])).contains("not a model"));
        let parts = fixture::tiny_llama(3).split(2);
        assert!(add("m-00001-of-00002.gguf", Some(&parts[0])).contains("cannot read"));
        assert!(store.list().unwrap().is_empty());
        assert_eq!(left(&store), 1);
    }
}
