//! Tables of the store: their rows, and how they are brought from one state to the next.
use crate::state::History;
use lockstep_canister::memory::Paged;
use redb::{TableDefinition, WriteTransaction};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;
pub(super) const META: Table = TableDefinition::new("meta");
pub(super) const CANISTERS: Table = TableDefinition::new("canisters");
pub(super) const PAGES: Table = TableDefinition::new("pages");
pub(super) const MODULES: Table = TableDefinition::new("modules");
pub(super) const CHUNKS: Table = TableDefinition::new("chunks");
pub(super) const SNAPSHOTS: Table = TableDefinition::new("snapshots");
pub(super) const HISTORY: Table = TableDefinition::new("history");
pub(super) const SESSIONS: Table = TableDefinition::new("sessions");
pub(super) const QUEUE: Table = TableDefinition::new("queue");
pub(super) const ROOTS: Table = TableDefinition::new("roots");

/// A table of what a state has. The numbers are part of manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The fields that have no table: the row `state` of [`META`].
    State = 0,
    Canisters = 1,
    Snapshots = 2,
    Sessions = 3,
    Queue = 4,
    History = 5,
    Modules = 6,
    Chunks = 7,
    Pages = 8,
}

impl Part {
    /// All of them, by number.
    pub(super) const ALL: [Self; 9] = [
        Self::State,
        Self::Canisters,
        Self::Snapshots,
        Self::Sessions,
        Self::Queue,
        Self::History,
        Self::Modules,
        Self::Chunks,
        Self::Pages,
    ];

    /// The part with a number.
    pub(crate) fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    pub(super) fn table(self) -> Table {
        match self {
            Self::State => META,
            Self::Canisters => CANISTERS,
            Self::Snapshots => SNAPSHOTS,
            Self::Sessions => SESSIONS,
            Self::Queue => QUEUE,
            Self::History => HISTORY,
            Self::Modules => MODULES,
            Self::Chunks => CHUNKS,
            Self::Pages => PAGES,
        }
    }
}

/// A value in CBOR.
pub(crate) fn cbor<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
    bytes
}

/// Brings a table from one map to another, touching what is not shared.
pub(super) fn write_changes<K: Ord, V>(
    transaction: &WriteTransaction,
    table: Table,
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
    key: impl Fn(&K) -> Vec<u8>,
    value: impl Fn(&V) -> Vec<u8>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(table)?;
    for gone in old.keys().filter(|name| !new.contains_key(name)) {
        table.remove(key(gone).as_slice())?;
    }
    for (name, part) in new {
        if !old
            .get(name)
            .is_some_and(|before| Arc::ptr_eq(before, part))
        {
            table.insert(key(name).as_slice(), value(part).as_slice())?;
        }
    }
    Ok(())
}

/// Brings the table of answers from one history to another.
pub(super) fn write_history(
    transaction: &WriteTransaction,
    old: &History,
    new: &History,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(HISTORY)?;
    let mut result = Ok(());
    new.changes(old, |id, answer| {
        if result.is_ok() {
            result = match answer {
                Some(answer) => table.insert(id, cbor(answer).as_slice()).map(drop),
                None => table.remove(id).map(drop),
            };
        }
    });
    Ok(result?)
}

/// The memories of one kind, by the canister or the snapshot they belong to.
pub(crate) type Memories<'state, M> = BTreeMap<&'state [u8], &'state M>;

pub(super) fn write_blocks<M: Paged>(
    transaction: &WriteTransaction,
    kind: u8,
    old: &Memories<'_, M>,
    new: &Memories<'_, M>,
) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(PAGES)?;
    let nothing = M::default();
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    for id in names {
        let memory = new.get(id).copied().unwrap_or(&nothing);
        let before = old.get(id).copied().unwrap_or(&nothing);
        for index in memory.changed(before) {
            let key = block_key(id, kind, index);
            match memory.block(index) {
                Some(block) => table.insert(key.as_slice(), &*block)?,
                None => table.remove(key.as_slice())?,
            };
        }
    }
    Ok(())
}

/// The key of a block of a memory.
pub(super) fn block_key(id: &[u8], kind: u8, index: u64) -> Vec<u8> {
    [&[id.len() as u8], id, &[kind], &index.to_be_bytes()].concat()
}
