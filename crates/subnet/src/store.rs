//! Keeps the replicated state on disk: one transaction per height.
//!
//! # Design
//! Canisters, snapshots, blocks of memories, modules, chunks, answers, sessions and waiting calls have a table each,
//! so that a height writes what it changed: parts that the new state shares with the last one are
//! recognised by identity. Blocks are named by the canister or the snapshot they belong to; those of
//! zeros are not written. Modules and chunks are named by their hash. The rest is one CBOR record, which
//! also holds the state's digest: what is read back must hash to it.
//!
//! # Errors
//! [`StoreError`]: a file that is damaged, of another program or of another subnet is refused.
mod disk;
mod import;
mod record;
mod tables;

pub use disk::{DiskFault, MemoryDisk};
pub(crate) use import::Parts;
pub(crate) use record::{MemoryKind, canister_row, chunks, memories, modules, state_row};
pub(crate) use tables::{Memories, Part, cbor};

use crate::{
    application::Height,
    state::{Genesis, ReplicatedState, SnapshotId, SnapshotRecord},
};
use lockstep_canister::{engine::Engine, heap::PAGE_BYTES, memory::Paged};
use record::{CanisterRecord, Named, StateRecord};
use redb::{Database, ReadableDatabase, ReadableTable};
use serde::de::DeserializeOwned;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tables::{
    CANISTERS, CHUNKS, HISTORY, META, MODULES, PAGES, QUEUE, ROOTS, SESSIONS, SNAPSHOTS, Table,
    block_key, write_blocks, write_changes, write_history,
};

/// What a file of this layout says it is.
const FORMAT: &[u8] = b"lockstep state store 8";
/// How many roots of past heights are kept.
pub(crate) const ROOTS_MAX: u64 = 65_536;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("state store {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What the database says.
        source: Box<redb::Error>,
    },
    /// Not written by this program.
    #[error("state store {} was not written by this version of lockstep", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Of another subnet.
    #[error("state store {} belongs to a subnet with another genesis", path.display())]
    OtherGenesis {
        /// The file.
        path: PathBuf,
    },
    /// What it holds is not what was written.
    #[error("state store {} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl StoreError {
    fn of(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::Corrupted(reason) => Self::Damaged { path, reason },
            error => Self::Database {
                path,
                source: Box::new(error),
            },
        }
    }
}

/// Where a store's bytes are.
#[derive(Debug, Clone)]
pub enum Medium {
    /// A file, made when there is none.
    File(PathBuf),
    /// A disk in memory.
    Memory(MemoryDisk),
}

impl Medium {
    /// What it is called in messages.
    fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(_) => PathBuf::from("in memory"),
        }
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Medium {
    fn from(path: &P) -> Self {
        Self::File(path.as_ref().to_owned())
    }
}

impl From<MemoryDisk> for Medium {
    fn from(disk: MemoryDisk) -> Self {
        Self::Memory(disk)
    }
}

/// An open store and the state that it holds.
#[derive(Debug)]
pub(crate) struct Store {
    database: Arc<Database>,
    path: PathBuf,
    medium: Medium,
    /// What the file holds.
    written: ReplicatedState,
}

impl Store {
    /// Opens a store, creating it with the state before the first block.
    pub(crate) fn open(
        medium: Medium,
        genesis: Arc<Genesis>,
        engine: &Engine,
    ) -> Result<Self, StoreError> {
        let path = medium.path();
        let failed = |error: redb::Error| StoreError::of(&path, error);
        let database = match &medium {
            Medium::File(path) => database(path),
            Medium::Memory(disk) => builder()
                .create_with_backend(disk.backend())
                .map_err(Into::into),
        };
        let database = database.map_err(failed)?;
        let empty = ReplicatedState::new(Arc::clone(&genesis));
        let mut store = Self {
            database: Arc::new(database),
            path: path.clone(),
            medium,
            written: empty,
        };
        if store.is_new().map_err(failed)? {
            let initial = store.written.clone();
            store.commit(&initial, None)?;
        } else {
            store.written = store.load(genesis, engine)?;
        }
        Ok(store)
    }

    /// The state it holds.
    pub(crate) fn state(&self) -> &ReplicatedState {
        &self.written
    }

    /// Writes a state and, for heights after the first, its root. Durable on return.
    pub(crate) fn commit(
        &mut self,
        state: &ReplicatedState,
        root: Option<[u8; 32]>,
    ) -> Result<(), StoreError> {
        self.write(state, root)
            .map_err(|error| self.failed(error))?;
        self.written = state.clone();
        Ok(())
    }

    /// The roots it keeps, to be read while heights are written.
    pub(crate) fn roots(&self) -> Roots {
        Roots {
            database: Arc::clone(&self.database),
            path: self.path.clone(),
        }
    }

    fn failed(&self, error: redb::Error) -> StoreError {
        StoreError::Database {
            path: self.path.clone(),
            source: Box::new(error),
        }
    }

    fn damaged(&self, reason: impl ToString) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn is_new(&self) -> Result<bool, redb::Error> {
        Ok(self.database.begin_read()?.list_tables()?.next().is_none())
    }

    fn write(&self, state: &ReplicatedState, root: Option<[u8; 32]>) -> Result<(), redb::Error> {
        let old = &self.written;
        let transaction = self.database.begin_write()?;
        write_history(&transaction, &old.history, &state.history)?;
        let key = |key: &u64| key.to_be_bytes().to_vec();
        write_changes(
            &transaction,
            SESSIONS,
            &old.sessions.sessions,
            &state.sessions.sessions,
            key,
            cbor,
        )?;
        write_changes(&transaction, QUEUE, &old.queue, &state.queue, key, cbor)?;
        write_changes(
            &transaction,
            CANISTERS,
            old.canisters(),
            state.canisters(),
            |id| id.as_slice().to_vec(),
            |canister| cbor(&CanisterRecord::of(canister)),
        )?;
        let (old_modules, modules) = (record::modules(old), record::modules(state));
        write_changes(
            &transaction,
            MODULES,
            &old_modules,
            &modules,
            |hash| hash.to_vec(),
            |module| module.wasm().to_vec(),
        )?;
        write_changes(
            &transaction,
            CHUNKS,
            &record::chunks(old),
            &record::chunks(state),
            |hash| hash.to_vec(),
            Vec::clone,
        )?;
        write_changes(
            &transaction,
            SNAPSHOTS,
            &record::snapshots(old),
            &record::snapshots(state),
            |id| id.as_bytes().to_vec(),
            |snapshot| cbor(&snapshot.record()),
        )?;
        let (before, after) = (record::memories(old), record::memories(state));
        write_blocks(&transaction, record::HEAP, &before.heaps, &after.heaps)?;
        write_blocks(&transaction, record::STABLE, &before.stable, &after.stable)?;
        write_blocks(
            &transaction,
            record::MODULE,
            &before.modules,
            &after.modules,
        )?;
        let mut roots = transaction.open_table(ROOTS)?;
        if let Some(root) = root {
            roots.insert(&state.height.to_be_bytes()[..], &root[..])?;
            if let Some(oldest) = state.height.checked_sub(ROOTS_MAX) {
                roots.remove(&oldest.to_be_bytes()[..])?;
            }
        }
        drop(roots);
        let mut meta = transaction.open_table(META)?;
        meta.insert(&b"format"[..], FORMAT)?;
        meta.insert(&b"genesis"[..], &state.genesis.digest()[..])?;
        meta.insert(&b"state"[..], cbor(&StateRecord::of(state)).as_slice())?;
        drop(meta);
        transaction.commit()?;
        Ok(())
    }

    fn load(&self, genesis: Arc<Genesis>, engine: &Engine) -> Result<ReplicatedState, StoreError> {
        let Ok(meta) = self.rows(META) else {
            return Err(StoreError::Foreign {
                path: self.path.clone(),
            });
        };
        if meta.get(&b"format"[..]).map(Vec::as_slice) != Some(FORMAT) {
            return Err(StoreError::Foreign {
                path: self.path.clone(),
            });
        }
        if meta.get(&b"genesis"[..]).map(Vec::as_slice) != Some(&genesis.digest()[..]) {
            return Err(StoreError::OtherGenesis {
                path: self.path.clone(),
            });
        }
        let record = meta
            .get(&b"state"[..])
            .ok_or_else(|| self.damaged("it has no state record"))?;
        let record: StateRecord = self.decode(record)?;
        let mut state = ReplicatedState::new(genesis);
        let digest = record.restore(&mut state);
        for (id, bytes) in self.rows(HISTORY)? {
            let id = <[u8; 32]>::try_from(id.as_slice()).map_err(|error| self.damaged(error))?;
            state.history.insert(id, self.decode(&bytes)?);
        }
        for (key, bytes) in self.rows(SESSIONS)? {
            state
                .sessions
                .sessions
                .insert(self.number(&key)?, Arc::new(self.decode(&bytes)?));
        }
        for (key, bytes) in self.rows(QUEUE)? {
            let message = self.decode(&bytes)?;
            state.queue.insert(self.number(&key)?, Arc::new(message));
        }
        let mut modules = BTreeMap::new();
        for (hash, wasm) in self.rows(MODULES)? {
            let module = engine.compile(&wasm).map_err(|error| self.damaged(error))?;
            modules.insert(hash, Arc::new(module));
        }
        let chunks = self.rows(CHUNKS)?.into_iter();
        let parts = Named {
            modules,
            chunks: chunks
                .map(|(hash, chunk)| (hash, Arc::new(chunk)))
                .collect(),
        };
        for (id, bytes) in self.rows(CANISTERS)? {
            let record: CanisterRecord = self.decode(&bytes)?;
            let heap = |pages| self.memory(&id, record::HEAP, pages);
            let stable = |pages| self.memory(&id, record::STABLE, pages);
            let canister = record.restore(&id, &parts, heap, stable)?;
            state.insert_canister(
                canister
                    .ok_or_else(|| self.damaged("a part or the id of a canister is missing"))?,
            );
        }
        for (id, bytes) in self.rows(SNAPSHOTS)? {
            self.load_snapshot(&mut state, &id, &bytes, &parts)?;
        }
        if state.digest() != digest {
            return Err(self.damaged("its content does not have the digest that was written"));
        }
        Ok(state)
    }

    fn load_snapshot(
        &self,
        state: &mut ReplicatedState,
        id: &[u8],
        bytes: &[u8],
        parts: &Named,
    ) -> Result<(), StoreError> {
        let record: SnapshotRecord = self.decode(bytes)?;
        let heap = self.memory(id, record::HEAP, record.heap_pages)?;
        let stable = self.memory(id, record::STABLE, record.stable_pages)?;
        let module = self.memory(
            id,
            record::MODULE,
            record.upload_size.div_ceil(PAGE_BYTES as u64),
        )?;
        let id = SnapshotId::from_bytes(id);
        let id = id.ok_or_else(|| self.damaged("a snapshot has no id"))?;
        let snapshot = record::restore_snapshot(record, parts, heap, stable, module);
        let snapshot = snapshot.ok_or_else(|| self.damaged("a part of a snapshot is missing"))?;
        let canister = state.canister_mut(&id.canister());
        let canister = canister.ok_or_else(|| self.damaged("a snapshot has no canister"))?;
        canister.stored.snapshots.insert(id, Arc::new(snapshot));
        Ok(())
    }

    /// A whole table.
    fn rows(&self, table: Table) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(table)?;
            let mut rows = BTreeMap::new();
            for row in table.iter()? {
                let (key, value) = row?;
                rows.insert(key.value().to_vec(), value.value().to_vec());
            }
            Ok(rows)
        };
        read().map_err(|error| self.failed(error))
    }

    fn memory<M: Paged>(&self, id: &[u8], kind: u8, size_pages: u64) -> Result<M, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(PAGES)?;
            let [first, last] = [0, u64::MAX].map(|index| block_key(id, kind, index));
            let mut rows = Vec::new();
            for row in table.range(first.as_slice()..=last.as_slice())? {
                let (key, bytes) = row?;
                let index = key.value().last_chunk().copied();
                let index = u64::from_be_bytes(index.expect("keys end with an index"));
                rows.push((index, Box::<[u8]>::from(bytes.value())));
            }
            Ok(rows)
        };
        let blocks = read().map_err(|error| self.failed(error))?;
        if size_pages > M::PAGES_MAX {
            return Err(self.damaged(format!("a memory has {size_pages} pages")));
        }
        let end = size_pages * (PAGE_BYTES / M::BLOCK_BYTES) as u64;
        for (index, block) in &blocks {
            if *index >= end {
                return Err(self.damaged(format!("a block is outside of its memory: {index}")));
            }
            if block.len() != M::BLOCK_BYTES {
                return Err(self.damaged(format!("a block has {} bytes", block.len())));
            }
        }
        Ok(M::from_blocks(size_pages, blocks))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, StoreError> {
        ciborium::from_reader(bytes).map_err(|error| self.damaged(error))
    }

    fn number(&self, key: &[u8]) -> Result<u64, StoreError> {
        key.try_into()
            .map(u64::from_be_bytes)
            .map_err(|error| self.damaged(error))
    }
}

/// Opens a database, making it when there is none. A new one has another name until it is whole: a file that a
/// crash leaves half made would be no database.
fn database(path: &Path) -> Result<Database, redb::Error> {
    if !path.exists() {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        if Path::new(&partial).exists() {
            fs::remove_file(&partial).map_err(redb::Error::Io)?;
        }
        drop(Database::create(&partial)?);
        fs::rename(&partial, path).map_err(redb::Error::Io)?;
        sync_folder(path).map_err(redb::Error::Io)?;
    }
    Ok(builder().create(path)?)
}

/// Lets the name of a file outlive a loss of power, as what is written under it does.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Everything is read when a store is opened; that all of it is as it was written is checked before.
fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_check_integrity_on_open(true);
    builder
}

/// Roots of executed heights.
#[derive(Debug)]
pub(crate) struct Roots {
    database: Arc<Database>,
    path: PathBuf,
}

impl Roots {
    /// The root after a height, if it is kept.
    pub(crate) fn get(&self, height: Height) -> Result<Option<[u8; 32]>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let table = self.database.begin_read()?.open_table(ROOTS)?;
            Ok(table
                .get(&height.to_be_bytes()[..])?
                .and_then(|root| root.value().try_into().ok()))
        };
        read().map_err(|error| StoreError::Database {
            path: self.path.clone(),
            source: Box::new(error),
        })
    }
}
