//! Which blocks a replica votes for.
use crate::support::{START_NS, call, installation, open_stopped, signed_call, step};
use bytes::Bytes;
use lockstep_subnet::{
    application::{Application, Payload},
    replica::{NoRoom, Replica, SubmitError},
    tree::paths::Scope,
};

const SECOND_NS: u64 = 1_000_000_000;

fn votes(replica: &Replica, parent_ns: u64, time_ns: u64, messages: &[Bytes]) -> bool {
    let messages = messages.to_vec();
    let payload = Payload {
        time_ns,
        messages,
        ..Payload::default()
    };
    replica.verify(parent_ns, &payload)
}

#[test]
fn times_go_on_and_not_ahead() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let parent = START_NS - SECOND_NS;
    assert!(votes(&replica, parent, START_NS, &[]));
    assert!(votes(&replica, parent, parent + 1, &[]));
    assert!(!votes(&replica, parent, parent, &[]));
    assert!(votes(&replica, parent, START_NS + 10 * SECOND_NS, &[]));
    assert!(!votes(&replica, parent, START_NS + 10 * SECOND_NS + 1, &[]));
    // Whatever the block before it says: nobody leads the time away step by step.
    let ahead = START_NS + 10 * SECOND_NS;
    assert!(!votes(&replica, ahead, ahead + 1, &[]));
    assert!(!votes(&replica, parent, u64::MAX, &[]));
}

#[test]
fn calls_are_valid_and_there_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[8; 32]);
    let vote = |messages: &[Bytes]| votes(&replica, START_NS, START_NS + 1, messages);
    let expiry = START_NS + 5 * SECOND_NS;
    let envelope = signed_call(&key, id, expiry);
    let good: Bytes = envelope.encode_bytes().into();
    let mut forged = envelope;
    forged.sender_sig.as_mut().expect("signed")[5] ^= 1;
    let forged: Bytes = forged.encode_bytes().into();
    let anonymous = call(id, "increment", vec![], 2);
    assert!(vote(&[good.clone(), anonymous.clone()]));
    assert!(!vote(&[good.clone(), good.clone()]));
    assert!(!vote(std::slice::from_ref(&forged)));
    assert!(!vote(&[good.clone(), Bytes::from_static(b"junk")]));

    // A call that waits here is not authenticated again; one that only claims to be the same is.
    replica
        .submit(Scope::Canister(id), &good)
        .expect("taken in");
    assert!(vote(std::slice::from_ref(&good)));
    assert!(!vote(std::slice::from_ref(&forged)));
    let one = std::slice::from_ref(&good);
    assert!(votes(&replica, START_NS, expiry, one));
    assert!(!votes(&replica, START_NS, expiry + 1, one));
}

#[test]
fn a_sender_cannot_fill_the_pool() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let submit = |envelope: Bytes| replica.submit(Scope::Canister(id), &envelope);
    for nonce in 0..2_500 {
        submit(call(id, "increment", vec![], nonce)).expect("taken in");
    }
    let more = submit(call(id, "increment", vec![], 2_500));
    assert_eq!(more, Err(SubmitError::NoRoom(NoRoom::OfSender)));
    let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[8; 32]);
    let other = submit(
        signed_call(&key, id, START_NS + SECOND_NS)
            .encode_bytes()
            .into(),
    );
    other.expect("another sender has room");
}

#[test]
fn what_was_executed_does_not_wait_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let increment = call(id, "increment", vec![], 1);
    replica.gossip(increment.clone());
    assert_eq!(replica.status().mempool_calls, 1);
    step(&replica, vec![increment.clone()]);
    assert_eq!(replica.status().mempool_calls, 0);
    // Again from a peer, and from the client.
    replica.gossip(increment.clone());
    replica
        .submit(Scope::Canister(id), &increment)
        .expect("known");
    assert_eq!(replica.status().mempool_calls, 0);
}
