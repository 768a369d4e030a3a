use super::*;
use crate::state::{Answer, Genesis, Status, canister_id};
use lockstep_canister::{memory::PagedMemory, state::CanisterState};
use std::{collections::BTreeSet, sync::Arc};

fn state() -> ReplicatedState {
    let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[3; 32]);
    let node = key.public_key().serialize_raw();
    let genesis = Genesis::new(&[0; 96], &[node], BTreeMap::new()).expect("the keys are valid");
    let mut state = ReplicatedState::new(Arc::new(genesis));
    for index in 0..3 {
        let canister = CanisterState::new(canister_id(index), BTreeSet::new(), 1_000);
        state.insert_canister(Canister::new(canister, 0, 0));
    }
    state
}

fn memory(size_pages: u64, pages: &[(u64, u8)]) -> PagedMemory {
    let blocks = pages.iter().map(|(index, byte)| {
        let bytes: Box<[u8]> = vec![*byte; PAGE_BYTES].into();
        (*index, bytes)
    });
    PagedMemory::from_blocks(size_pages, blocks.collect())
}

fn changed(change: impl FnOnce(&mut Canister)) -> ReplicatedState {
    let mut state = state();
    change(state.canister_mut(&canister_id(1)).expect("it is there"));
    state
}

fn with_memory(memory: PagedMemory) -> ReplicatedState {
    changed(|canister| canister.state.stable = memory)
}

fn in_second(place: Place) -> Option<Difference> {
    let id = canister_id(1);
    Some(Difference::Canister { id, place })
}

#[test]
fn equal_states_differ_nowhere() {
    assert_eq!(first_difference(&state(), &state()), None);
}

#[test]
fn the_first_page_is_named() {
    let pages = [(3, 1), (700, 2), (9_000, 3)];
    let one = with_memory(memory(1_000, &pages));
    for (others, expected) in [
        (vec![(3, 1), (700, 2), (9_000, 4)], 9_000),
        (vec![(3, 1), (700, 9), (9_000, 4)], 700),
        (vec![(3, 1), (9_000, 3)], 700),
        (vec![(3, 1), (4, 1), (700, 2), (9_000, 3)], 4),
        (vec![], 3),
    ] {
        let other = with_memory(memory(1_000, &others));
        let expected = in_second(Place::Stable(expected));
        assert_eq!(first_difference(&one, &other), expected);
        assert_eq!(first_difference(&other, &one), expected);
    }
    let larger = with_memory(memory(1_001, &pages));
    let expected = in_second(Place::Stable(16_000));
    assert_eq!(first_difference(&one, &larger), expected);
}

#[test]
fn what_is_no_memory_is_named_by_its_kind() {
    let one = state();
    let poorer = changed(|canister| canister.state.cycles -= 1);
    assert_eq!(first_difference(&one, &poorer), in_second(Place::Record));
    let mut without = state();
    without.remove_canister(&canister_id(1));
    assert_eq!(
        first_difference(&one, &without),
        in_second(Place::Existence)
    );
    let mut later = state();
    later.time_ns += 1;
    assert_eq!(first_difference(&one, &later), Some(Difference::Record));
    let mut called = state();
    let answer = Answer::new(Principal::anonymous(), canister_id(0), 1, Status::Received);
    called.history.insert([1; 32], answer);
    assert_eq!(first_difference(&one, &called), Some(Difference::History));
    let mut generating = state();
    generating.sessions.next_id += 1;
    assert_eq!(
        first_difference(&one, &generating),
        Some(Difference::Sessions)
    );
    // Canisters come first.
    called.remove_canister(&canister_id(2));
    let expected = Difference::Canister {
        id: canister_id(2),
        place: Place::Existence,
    };
    assert_eq!(first_difference(&one, &called), Some(expected));
}
