//! The rows of a state as the store has them, in order, from any of them on.
use crate::{
    state::{ReplicatedState, SnapshotId},
    store::{self, Part},
};
use ic_principal::Principal;
use std::collections::{BTreeMap, btree_map::Range};

/// A row: its key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);
type Rows<'state> = Box<dyn Iterator<Item = Row> + 'state>;

/// The parts of a store whose rows are sent as they are.
pub(super) const PLAIN: [Part; 6] = [
    Part::State,
    Part::Canisters,
    Part::Snapshots,
    Part::Sessions,
    Part::Queue,
    Part::History,
];

/// The rows of one of the [`PLAIN`] parts, from that with the key `from` on, which is there; all when it is empty. The
/// first is found by search: a state is read chunk by chunk.
pub(super) fn from<'state>(
    state: &'state ReplicatedState,
    part: Part,
    from: &[u8],
) -> Rows<'state> {
    let number = |key: &u64| key.to_be_bytes().to_vec();
    let from_number = || from.try_into().ok().map(u64::from_be_bytes);
    match part {
        Part::State => Box::new(std::iter::once(store::state_row(state))),
        Part::Canisters => {
            let canisters = beginning_at(state.canisters(), Principal::try_from_slice(from).ok());
            Box::new(
                canisters
                    .map(|(id, canister)| (id.as_slice().to_vec(), store::canister_row(canister))),
            )
        }
        Part::Snapshots => {
            let first = SnapshotId::from_bytes(from);
            let canisters = beginning_at(state.canisters(), first.map(|id| id.canister()));
            // Their ids begin with those of their canisters, so that they follow each other.
            let snapshots = canisters
                .flat_map(move |(_, canister)| beginning_at(&canister.stored.snapshots, first));
            Box::new(
                snapshots.map(|(id, snapshot)| {
                    (id.as_bytes().to_vec(), store::cbor(&snapshot.record()))
                }),
            )
        }
        Part::Sessions => {
            let sessions = beginning_at(&state.sessions.sessions, from_number());
            Box::new(sessions.map(move |(id, session)| (number(id), store::cbor(&**session))))
        }
        Part::Queue => {
            let queue = beginning_at(&state.queue, from_number());
            Box::new(queue.map(move |(key, message)| (number(key), store::cbor(&**message))))
        }
        Part::History => {
            let answers = state.history.from(from);
            Box::new(answers.map(|(id, answer)| (id.to_vec(), store::cbor(answer))))
        }
        Part::Modules | Part::Chunks | Part::Pages => {
            unreachable!("rows that are sent in another way: {part:?}")
        }
    }
}

fn beginning_at<K: Ord, V>(map: &BTreeMap<K, V>, first: Option<K>) -> Range<'_, K, V> {
    match first {
        Some(first) => map.range(first..),
        None => map.range(..),
    }
}
