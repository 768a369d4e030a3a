//! Makes a store of rows from elsewhere, and puts it in the place of another.
//!
//! # Design
//! The new store is made under another name and opened, which checks its digest; then it is renamed. A crash leaves
//! the old store or the new one.
use super::{
    FORMAT, Medium, MemoryDisk, Part, Store, StoreError, builder,
    record::MemoryKind,
    sync_folder,
    tables::{META, Table, block_key},
};
use crate::{application::Height, state::Genesis};
use lockstep_canister::{
    engine::Engine,
    memory::{PIECE_BYTES, Paged},
};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

const PARTS: Table = TableDefinition::new("parts");

/// Takes a row.
pub(crate) type Put<'import> = dyn FnMut(Part, &[u8], &[u8]) -> Result<(), StoreError> + 'import;

/// The name of what belongs to a store.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Store {
    /// A store of the rows that `fill` gives, beside the one on this medium.
    pub(crate) fn import(
        medium: &Medium,
        genesis: Arc<Genesis>,
        engine: &Engine,
        fill: impl FnOnce(&mut Put<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let place = match medium {
            Medium::File(path) => Medium::File(beside(path, ".import")),
            Medium::Memory(_) => Medium::Memory(MemoryDisk::default()),
        };
        let path = place.path();
        let failed = |error: redb::Error| StoreError::of(&path, error);
        let database = match &place {
            Medium::File(path) => {
                remove(path).map_err(|error| failed(redb::Error::Io(error)))?;
                builder().create(path)
            }
            Medium::Memory(disk) => builder().create_with_backend(disk.backend()),
        };
        let database = database.map_err(|error| failed(error.into()))?;
        let transaction = database
            .begin_write()
            .map_err(|error| failed(error.into()))?;
        let put = |table: Table, key: &[u8], value: &[u8]| -> Result<(), redb::Error> {
            transaction.open_table(table)?.insert(key, value)?;
            Ok(())
        };
        put(META, b"format", FORMAT).map_err(failed)?;
        put(META, b"genesis", &genesis.digest()).map_err(failed)?;
        for part in Part::ALL {
            let made = transaction.open_table(part.table());
            made.map_err(|error| failed(error.into()))?;
        }
        transaction
            .open_table(super::ROOTS)
            .map_err(|error| failed(error.into()))?;
        fill(&mut |part, key, value| put(part.table(), key, value).map_err(failed))?;
        transaction.commit().map_err(|error| failed(error.into()))?;
        drop(database);
        Self::open(place, genesis, engine)
    }

    /// Gives the rows of a piece of a memory.
    pub(crate) fn import_piece<M: Paged>(
        put: &mut Put<'_>,
        owner: &[u8],
        kind: MemoryKind,
        index: u64,
        piece: &[u8],
    ) -> Result<(), StoreError> {
        let first = index.saturating_mul((PIECE_BYTES / M::BLOCK_BYTES) as u64);
        for (block, bytes) in (first..).zip(piece.chunks_exact(M::BLOCK_BYTES)) {
            if bytes.iter().any(|byte| *byte != 0) {
                put(Part::Pages, &block_key(owner, kind as u8, block), bytes)?;
            }
        }
        Ok(())
    }

    /// Puts an imported store in the place of that on `medium`; of `aside`, that one is kept with the height in its
    /// name, on a disk in memory it is lost.
    pub(crate) fn install(
        mut self,
        medium: &Medium,
        aside: Option<Height>,
        genesis: Arc<Genesis>,
        engine: &Engine,
    ) -> Result<Self, StoreError> {
        match medium {
            Medium::File(path) => {
                let failed = |error| StoreError::of(path, redb::Error::Io(error));
                if let Some(height) = aside {
                    keep_aside(path, height).map_err(failed)?;
                }
                fs::rename(&self.path, path).map_err(failed)?;
                sync_folder(path).map_err(failed)?;
                self.path.clone_from(path);
                Ok(self)
            }
            Medium::Memory(disk) => {
                let Medium::Memory(imported) = &self.medium else {
                    unreachable!("it was imported for a disk in memory");
                };
                let imported = imported.clone();
                drop(self);
                disk.replace(&imported);
                Self::open(Medium::Memory(disk.clone()), genesis, engine)
            }
        }
    }
}

/// Gives a file another name, too.
fn keep_aside(path: &Path, height: Height) -> io::Result<()> {
    for number in 0.. {
        let suffix = match number {
            0 => format!(".diverged-{height}"),
            _ => format!(".diverged-{height}-{number}"),
        };
        match fs::hard_link(path, beside(path, &suffix)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result,
        }
    }
    unreachable!("some name is free")
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Parts of a state that are fetched, by their names.
#[derive(Debug)]
pub(crate) struct Parts {
    database: Database,
    medium: Medium,
}

impl Parts {
    /// What was fetched for the store on this medium; nothing, if that cannot be read. On a disk in memory it is kept
    /// as long as it is open.
    pub(crate) fn open(medium: &Medium) -> Result<Self, StoreError> {
        let medium = match medium {
            Medium::File(path) => Medium::File(beside(path, ".sync")),
            Medium::Memory(_) => Medium::Memory(MemoryDisk::default()),
        };
        let path = medium.path();
        let failed = |error: redb::Error| StoreError::of(&path, error);
        let database = match &medium {
            Medium::File(path) => builder().create(path).or_else(|_| {
                remove(path)?;
                builder().create(path)
            }),
            Medium::Memory(disk) => builder().create_with_backend(disk.backend()),
        };
        let parts = Self {
            database: database.map_err(|error| failed(error.into()))?,
            medium,
        };
        parts.put(&[])?;
        Ok(parts)
    }

    /// Keeps parts. Durable on return.
    pub(crate) fn put(&self, parts: &[(Vec<u8>, Vec<u8>)]) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            let mut table = transaction.open_table(PARTS)?;
            for (name, bytes) in parts {
                table.insert(name.as_slice(), bytes.as_slice())?;
            }
            drop(table);
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| StoreError::of(&self.medium.path(), error))
    }

    pub(crate) fn has(&self, name: &[u8]) -> Result<bool, StoreError> {
        self.read(name).map(|part| part.is_some())
    }

    /// A part that is there.
    pub(crate) fn get(&self, name: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.read(name)?
            .ok_or_else(|| self.damaged("a part is not there"))
    }

    pub(crate) fn damaged(&self, reason: &str) -> StoreError {
        StoreError::Damaged {
            path: self.medium.path(),
            reason: reason.to_owned(),
        }
    }

    fn read(&self, name: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PARTS)?;
            Ok(table.get(name)?.map(|part| part.value().to_vec()))
        };
        read().map_err(|error| StoreError::of(&self.medium.path(), error))
    }

    /// Deletes them.
    pub(crate) fn forget(self) -> Result<(), StoreError> {
        let Self { database, medium } = self;
        drop(database);
        if let Medium::File(path) = &medium {
            remove(path).map_err(|error| StoreError::of(path, redb::Error::Io(error)))?;
        }
        Ok(())
    }
}
