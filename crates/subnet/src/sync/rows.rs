//! The rows of a state as the store has them, in order, from any of them on.
use crate::{
    state::ReplicatedState,
    store::{self, Part},
};

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

/// The rows of one of the [`PLAIN`] parts, from that with the key `from` on; all when it is empty.
pub(super) fn from<'state>(
    state: &'state ReplicatedState,
    part: Part,
    from: &[u8],
) -> Rows<'state> {
    let number = |key: &u64| key.to_be_bytes().to_vec();
    match part {
        Part::State => Box::new(std::iter::once(store::state_row(state))),
        Part::Canisters => {
            let canisters = skip_to(state.canisters().iter(), from, |id| id.as_slice().to_vec());
            Box::new(canisters.map(|(id, canister)| (id, store::canister_row(canister))))
        }
        Part::Snapshots => {
            let snapshots = store::snapshots(state).into_iter();
            let snapshots = skip_to(snapshots, from, |id| id.as_bytes().to_vec());
            Box::new(snapshots.map(|(id, snapshot)| (id, store::cbor(&snapshot.record()))))
        }
        Part::Sessions => {
            let sessions = skip_to(state.sessions.sessions.iter(), from, move |id| number(id));
            Box::new(sessions.map(|(id, session)| (id, store::cbor(&**session))))
        }
        Part::Queue => {
            let queue = skip_to(state.queue.iter(), from, move |key| number(key));
            Box::new(queue.map(|(key, message)| (key, store::cbor(&**message))))
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

fn skip_to<'state, K: 'state, V: 'state>(
    rows: impl Iterator<Item = (K, V)> + 'state,
    from: &[u8],
    key: impl Fn(&K) -> Vec<u8> + 'state,
) -> Box<dyn Iterator<Item = (Vec<u8>, V)> + 'state> {
    let from = from.to_vec();
    let rows = rows.map(move |(name, value)| (key(&name), value));
    Box::new(rows.skip_while(move |(key, _)| !from.is_empty() && *key != from))
}
