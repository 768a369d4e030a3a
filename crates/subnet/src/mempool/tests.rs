use super::*;
use crate::state::{Answer, Genesis, Status};

const TIME_NS: u64 = 1_000_000_000_000;

fn insert(mempool: &mut Mempool, call: Ingress) -> Result<(), NoRoom> {
    let target = call.canister;
    mempool.insert(call, target)
}

fn call(number: u64, sender: u8, canister: u8) -> Ingress {
    Ingress {
        bytes: Bytes::from(vec![0; 100]),
        id: RequestId::new(blake3::hash(&number.to_le_bytes()).as_bytes()),
        sender: Principal::from_slice(&[sender]),
        canister: Principal::from_slice(&[canister, 1, 1]),
        method: String::new(),
        argument: Vec::new(),
        caller_info: None,
        expiry_ns: TIME_NS + number,
        authority_until_ns: u64::MAX,
    }
}

fn numbers(mempool: &Mempool, time_ns: u64) -> Vec<u64> {
    let calls = mempool.select(time_ns).into_iter();
    let numbers: Vec<u64> = calls.map(|call| call.expiry_ns - TIME_NS).collect();
    assert_eq!(mempool.has_calls(time_ns), !numbers.is_empty());
    numbers
}

fn state(time_ns: u64) -> ReplicatedState {
    let mut state = ReplicatedState::new(Arc::new(genesis()));
    state.time_ns = time_ns;
    state
}

fn genesis() -> Genesis {
    let mut root = [0; 32];
    root[31] = 5;
    let root = ic_verify_bls_signature::PrivateKey::deserialize(&root).expect("a scalar");
    let node = ic_ed25519::PrivateKey::deserialize_raw_32(&[3; 32]).public_key();
    let models = BTreeMap::new();
    Genesis::new(
        &root.public_key().serialize(),
        &[node.serialize_raw()],
        models,
    )
    .expect("valid")
}

fn is_empty(mempool: &Mempool) -> bool {
    mempool.calls.is_empty()
        && mempool.by_id.is_empty()
        && mempool.by_end.is_empty()
        && mempool.by_sender.is_empty()
        && mempool.by_target.is_empty()
        && mempool.ready.is_empty()
        && mempool.offers.is_empty()
        && mempool.offered.is_empty()
        && mempool.taken == Room::default()
}

#[test]
fn calls_are_offered_once_and_again_when_their_block_came_to_nothing() {
    let mut mempool = Mempool::default();
    for number in 1..=4 {
        insert(&mut mempool, call(number, 1, 1)).expect("room");
        insert(&mut mempool, call(number, 1, 1)).expect("known");
    }
    assert_eq!(numbers(&mempool, TIME_NS), [1, 2, 3, 4]);
    let id = |number| *call(number, 1, 1).id;
    // In two blocks, of which one comes to nothing; and a call that comes after its block.
    mempool.offer(TIME_NS - 20, TIME_NS - 10, vec![id(1), id(2)]);
    mempool.offer(TIME_NS - 10, TIME_NS - 5, vec![id(2), id(5)]);
    insert(&mut mempool, call(5, 1, 1)).expect("room");
    assert_eq!(numbers(&mempool, TIME_NS), [3, 4]);
    assert_eq!(mempool.unexecuted(TIME_NS - 6), 1);
    let before = state(TIME_NS - 10);
    mempool.executed(&before, &History::default());
    assert_eq!(numbers(&mempool, TIME_NS), [1, 3, 4]);
    let mut after = state(TIME_NS - 5);
    let nobody = Principal::anonymous();
    let answer = Answer::new(nobody, nobody, TIME_NS, Status::Received);
    after.history.insert(id(2), answer.clone());
    mempool.executed(&after, &before.history);
    assert_eq!(numbers(&mempool, TIME_NS), [1, 3, 4, 5]);
    // A block that is far ahead comes to nothing when another one takes its place.
    mempool.offer(TIME_NS - 5, TIME_NS + 1_000, vec![id(1), id(3)]);
    assert_eq!(numbers(&mempool, TIME_NS), [4, 5]);
    let mut other = after.clone();
    other.time_ns = TIME_NS - 4;
    mempool.executed(&other, &after.history);
    assert_eq!(numbers(&mempool, TIME_NS), [1, 3, 4, 5]);
    // Too late, and executed elsewhere.
    assert_eq!(numbers(&mempool, TIME_NS + 4), [4, 5]);
    let mut end = after.clone();
    end.time_ns = TIME_NS + 5;
    end.history.insert(id(5), answer);
    mempool.executed(&end, &after.history);
    assert!(is_empty(&mempool), "{mempool:?}");
}

#[test]
fn calls_whose_signers_lose_their_authority_do_not_stay() {
    let mut mempool = Mempool::default();
    let until = |authority_until_ns, bytes| Ingress {
        authority_until_ns,
        bytes: Bytes::from(vec![0; bytes]),
        ..call(100, 1, 1)
    };
    insert(&mut mempool, until(TIME_NS, 100)).expect("room");
    assert_eq!(numbers(&mempool, TIME_NS), [100]);
    assert!(numbers(&mempool, TIME_NS + 1).is_empty());
    // One with more authority takes its place, one with less or more bytes does not.
    let kept = |mempool: &Mempool| {
        let call = mempool.get(&call(100, 1, 1).id).expect("it waits");
        (call.authority_until_ns, call.bytes.len())
    };
    for (more, expected) in [
        (until(TIME_NS + 5, 100), (TIME_NS + 5, 100)),
        (until(TIME_NS + 4, 90), (TIME_NS + 5, 100)),
        (until(TIME_NS + 5, 101), (TIME_NS + 5, 100)),
        (until(TIME_NS + 5, 90), (TIME_NS + 5, 90)),
    ] {
        insert(&mut mempool, more).expect("room");
        assert_eq!(kept(&mempool), expected);
        assert_eq!(mempool.len(), 1);
    }
    mempool.executed(&state(TIME_NS + 6), &History::default());
    assert!(is_empty(&mempool), "{mempool:?}");
}

#[test]
fn nobody_takes_all_the_room() {
    let mut mempool = Mempool::default();
    let mut number = 0;
    let mut fill = |sender, canister, most: usize| {
        let mut refusal = None;
        for _ in 0..most {
            number += 1;
            refusal = insert(&mut mempool, call(number, sender, canister)).err();
            if refusal.is_some() {
                break;
            }
        }
        (refusal, mempool.len())
    };
    assert_eq!(
        fill(1, 1, 3000),
        (Some(NoRoom::OfSender), CALLS_MAX / SENDER_PART)
    );
    assert_eq!(
        fill(1, 2, 1),
        (Some(NoRoom::OfSender), CALLS_MAX / SENDER_PART)
    );
    assert_eq!(fill(2, 1, 2500), (None, CALLS_MAX / TARGET_PART));
    assert_eq!(
        fill(3, 1, 1),
        (Some(NoRoom::ForCanister), CALLS_MAX / TARGET_PART)
    );
    assert_eq!(fill(3, 2, 2500), (None, 7500));
    assert_eq!(fill(4, 3, 2501), (Some(NoRoom::Full), CALLS_MAX));
    mempool.executed(&state(u64::MAX), &History::default());
    assert!(is_empty(&mempool));
    let large = |number, sender, canister| Ingress {
        bytes: Bytes::from(vec![0; BYTES_MAX / SENDER_PART]),
        ..call(number, sender, canister)
    };
    insert(&mut mempool, large(1, 1, 1)).expect("room");
    assert_eq!(insert(&mut mempool, large(2, 1, 2)), Err(NoRoom::OfSender));
    insert(&mut mempool, large(3, 2, 1)).expect("room");
    assert_eq!(
        insert(&mut mempool, large(4, 3, 1)),
        Err(NoRoom::ForCanister)
    );
    insert(&mut mempool, large(5, 3, 2)).expect("room");
    insert(&mut mempool, large(6, 4, 2)).expect("room");
    assert_eq!(insert(&mut mempool, large(7, 5, 3)), Err(NoRoom::Full));
}

#[test]
fn blocks_are_bounded() {
    let mut mempool = Mempool::default();
    for number in 0..1_500 {
        insert(&mut mempool, call(number, 1, 1)).expect("room");
    }
    assert_eq!(mempool.select(TIME_NS).len(), BLOCK_CALLS_MAX);
    let mut mempool = Mempool::default();
    for number in 0..3 {
        let large = Ingress {
            bytes: Bytes::from(vec![0; BLOCK_BYTES_MAX / 2]),
            ..call(number, 1, 1)
        };
        insert(&mut mempool, large).expect("room");
    }
    assert_eq!(numbers(&mempool, TIME_NS), [0, 1]);
}
