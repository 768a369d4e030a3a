//! Where two states part, for people.
use super::piece::{self, PAGE_BYTES};
use crate::{
    state::{Canister, ReplicatedState, Snapshot, SnapshotCode},
    store::cbor,
};
use ic_principal::Principal;
use lockstep_canister::memory::{PIECE_BYTES, Paged};
use std::{collections::BTreeMap, fmt};

/// Where a part differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Only one of the two has it.
    Existence,
    /// The Wasm heap, first at this page of 4 KiB.
    Heap(u64),
    /// Stable memory, first at this page of 4 KiB.
    Stable(u64),
    /// The module of a snapshot that is being uploaded, first at this page of 4 KiB.
    Module(u64),
    /// What is neither: code, settings, balances, calls under way.
    Record,
}

/// The first difference of two states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// In a canister.
    Canister {
        /// Which.
        id: Principal,
        /// Where in it.
        place: Place,
    },
    /// In a snapshot of a canister.
    Snapshot {
        /// Its id, in hexadecimal.
        id: String,
        /// Where in it.
        place: Place,
    },
    /// In the generation sessions.
    Sessions,
    /// In the messages that wait.
    Queue,
    /// In calls and their answers.
    History,
    /// In what the state has besides.
    Record,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Existence => formatter.write_str("which only one of the states has"),
            Self::Heap(page) => write!(formatter, "page {page} of its heap"),
            Self::Stable(page) => write!(formatter, "page {page} of its stable memory"),
            Self::Module(page) => write!(formatter, "page {page} of its module"),
            Self::Record => formatter.write_str("outside of its memories"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Canister { id, place } => write!(formatter, "canister {id}, {place}"),
            Self::Snapshot { id, place } => write!(formatter, "snapshot {id}, {place}"),
            Self::Sessions => formatter.write_str("the sessions"),
            Self::Queue => formatter.write_str("the messages that wait"),
            Self::History => formatter.write_str("the history of calls"),
            Self::Record => formatter.write_str("what the state has besides canisters and calls"),
        }
    }
}

/// The first difference: canisters come first, by id, each with its memories before the rest; `None` when the states
/// are equal.
#[must_use]
pub fn first_difference(one: &ReplicatedState, other: &ReplicatedState) -> Option<Difference> {
    let found = first_key(one.canisters(), other.canisters(), |one, other| {
        one.digest() != other.digest()
    });
    if let Some(id) = found {
        let canisters = [one, other].map(|state| state.canisters().get(id));
        return Some(match canisters {
            [Some(one), Some(other)] => in_canister(*id, one, other),
            _ => Difference::Canister {
                id: *id,
                place: Place::Existence,
            },
        });
    }
    if one.sessions.digest() != other.sessions.digest() {
        return Some(Difference::Sessions);
    }
    let waiting = first_key(&one.queue, &other.queue, |one, other| {
        cbor(&**one) != cbor(&**other)
    });
    if waiting.is_some() {
        return Some(Difference::Queue);
    }
    if one.history.digest() != other.history.digest() {
        return Some(Difference::History);
    }
    (one.digest() != other.digest()).then_some(Difference::Record)
}

/// The first key that only one of two maps has, or whose values differ.
fn first_key<'map, K: Ord, V>(
    one: &'map BTreeMap<K, V>,
    other: &'map BTreeMap<K, V>,
    differ: impl Fn(&V, &V) -> bool,
) -> Option<&'map K> {
    let differs = |key: &&K| match (one.get(*key), other.get(*key)) {
        (Some(one), Some(other)) => differ(one, other),
        _ => true,
    };
    let firsts = [one.keys().find(differs), other.keys().find(differs)];
    firsts.into_iter().flatten().min()
}

fn in_canister(id: Principal, one: &Canister, other: &Canister) -> Difference {
    let heaps = [one, other].map(|canister| {
        let installed = canister.state.installed.as_ref();
        installed
            .map(|installed| installed.heap.clone())
            .unwrap_or_default()
    });
    let place = if let Some(page) = first_page(&heaps[0], &heaps[1]) {
        Place::Heap(page)
    } else if let Some(page) = first_page(&one.state.stable, &other.state.stable) {
        Place::Stable(page)
    } else {
        Place::Record
    };
    let snapshots = [one, other].map(|canister| &canister.stored.snapshots);
    let snapshot = first_key(snapshots[0], snapshots[1], |one, other| {
        one.digest() != other.digest()
    });
    match snapshot {
        Some(snapshot) if place == Place::Record => Difference::Snapshot {
            id: snapshot.to_string(),
            place: match snapshots.map(|all| all.get(snapshot)) {
                [Some(one), Some(other)] => in_snapshot(one, other),
                _ => Place::Existence,
            },
        },
        _ => Difference::Canister { id, place },
    }
}

fn in_snapshot(one: &Snapshot, other: &Snapshot) -> Place {
    if let Some(page) = first_page(&one.heap, &other.heap) {
        return Place::Heap(page);
    }
    if let Some(page) = first_page(&one.stable, &other.stable) {
        return Place::Stable(page);
    }
    match (&one.code, &other.code) {
        (SnapshotCode::Upload { bytes: one, .. }, SnapshotCode::Upload { bytes: other, .. }) => {
            first_page(one, other).map_or(Place::Record, Place::Module)
        }
        _ => Place::Record,
    }
}

/// The first page of 4 KiB whose bytes differ, or that only one of the memories has.
fn first_page<M: Paged>(one: &M, other: &M) -> Option<u64> {
    let pieces = [one, other].map(|memory| memory.pieces().into_iter().collect::<BTreeMap<_, _>>());
    let mut firsts = Vec::new();
    if let Some(piece) = first_key(&pieces[0], &pieces[1], |one, other| one != other) {
        let bytes = [one, other].map(|memory| piece::read(memory, *piece));
        let pages = bytes[0]
            .chunks_exact(PAGE_BYTES)
            .zip(bytes[1].chunks_exact(PAGE_BYTES));
        let page = pages.into_iter().position(|(one, other)| one != other);
        firsts.extend(page.map(|page| piece * (PIECE_BYTES / PAGE_BYTES) as u64 + page as u64));
    }
    if one.size_pages() != other.size_pages() {
        let pages_per_wasm_page = (lockstep_canister::heap::PAGE_BYTES / PAGE_BYTES) as u64;
        firsts.push(one.size_pages().min(other.size_pages()) * pages_per_wasm_page);
    }
    firsts.into_iter().min()
}

#[cfg(test)]
mod tests;
