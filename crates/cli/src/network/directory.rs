//! A directory of state that belongs to one process at a time.

use crate::error::Failure;
use anyhow::Result;
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

/// The file that is locked as long as a process uses the directory.
const LOCK_FILE: &str = "lock";

/// A directory that this process has for itself. The lock goes with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes a directory, which is made when missing.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let unusable = |error| {
            Failure::environment(format!("cannot use directory {}: {error}", path.display()))
        };
        fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join(LOCK_FILE))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(Failure::environment(format!(
                "another process uses directory {}",
                path.display()
            ))
            .hint("stop that one first, or choose another with --directory")
            .into()),
            Err(TryLockError::Error(error)) => Err(unusable(error).into()),
        }
    }

    /// Removes everything that is in it.
    pub(crate) fn clear(&self) -> Result<()> {
        let failed =
            |error| Failure::environment(format!("cannot empty {}: {error}", self.path.display()));
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == LOCK_FILE {
                continue;
            }
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            let removed = if is_directory {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            removed.map_err(failed)?;
        }
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_taken_once() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new");
        let first = Directory::take(&path).unwrap();
        let error = Directory::take(&path).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("another process uses directory {}", path.display())
        );
        fs::create_dir(path.join("keys")).unwrap();
        fs::write(path.join("keys/one"), "1").unwrap();
        first.clear().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        assert!(Directory::take(&path).is_err(), "the lock stays");
        drop(first);
        assert_eq!(Directory::take(&path).unwrap().path(), path);
    }
}
