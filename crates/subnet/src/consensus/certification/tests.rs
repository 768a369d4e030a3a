use super::{
    Certificate, Root, Signer,
    collector::{Action, Collector},
    kept::Certificates,
    message::{Message, Share},
};
use crate::{application::Height, consensus::genesis::Genesis};
use bytes::Bytes;
use commonware_codec::{DecodeExt as _, Encode as _};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

static GENESIS: LazyLock<Genesis> = LazyLock::new(|| Genesis::deal(4, &[7; 32]).expect("a subnet"));

fn signer(node: usize) -> Signer {
    let share = GENESIS.nodes[node].share().clone();
    Signer::new(GENESIS.subnet.sharing().clone(), share)
}

fn collector(node: usize) -> Collector {
    Collector::new(
        signer(node),
        Arc::new(Certificates::new(*GENESIS.subnet.sharing().public())),
    )
}

fn root(height: Height) -> Root {
    *blake3::hash(&height.to_be_bytes()).as_bytes()
}

fn share(node: usize, height: Height, root: Root, lacks: bool) -> Message {
    let partial = signer(node).sign(&root);
    Message::Share(Share {
        height,
        root,
        lacks,
        partial,
    })
}

/// The certificate that three nodes make.
fn certificate(height: Height) -> Certificate {
    let root = root(height);
    let partials = [1, 2, 3].map(|node| signer(node).sign(&root));
    let signature = signer(0).recover(&root, &partials).expect("a quorum");
    Certificate {
        height,
        root,
        signature,
    }
}

#[test]
fn shares_of_a_quorum_make_the_one_signature_whoever_they_come_from() {
    let expected = certificate(5);
    for others in [[1, 2], [1, 3], [2, 3]] {
        let mut collector = collector(0);
        collector.executed(5, root(5));
        assert!(matches!(
            collector.actions()[..],
            [Action::Broadcast(Message::Share(Share {
                height: 5,
                lacks: false,
                ..
            }))]
        ));
        collector.received(others[0], share(others[0] as usize, 5, root(5), false));
        assert_eq!(collector.actions(), []);
        collector.received(others[1], share(others[1] as usize, 5, root(5), false));
        assert_eq!(collector.actions(), [Action::Deliver(expected)]);
    }
    let message = [b"\x0Dic-state-root".as_slice(), &expected.root].concat();
    let key = GENESIS.subnet.public_key();
    ic_verify_bls_signature::verify_bls_signature(&expected.signature, &message, &key)
        .expect("an implementation that is not ours verifies it");
}

#[test]
fn what_comes_before_execution_counts_after_it() {
    let mut collector = collector(0);
    for node in [1, 2, 3] {
        collector.received(node, share(node as usize, 9, root(9), false));
    }
    collector.received(2, Message::Certificate(certificate(10)));
    assert_eq!(collector.actions(), []);
    collector.executed(9, root(9));
    assert_eq!(
        collector.actions().pop(),
        Some(Action::Deliver(certificate(9)))
    );
    collector.executed(10, root(10));
    assert_eq!(
        collector.actions().pop(),
        Some(Action::Deliver(certificate(10)))
    );
}

#[test]
fn who_lacks_a_certificate_gets_it_and_who_is_late_does_not() {
    let mut collector = collector(0);
    collector.executed(5, root(5));
    collector.received(1, Message::Certificate(certificate(5)));
    assert_eq!(
        collector.actions().pop(),
        Some(Action::Deliver(certificate(5)))
    );
    collector.received(3, share(3, 5, root(5), false));
    assert_eq!(collector.actions(), []);
    collector.received(3, share(3, 5, root(5), true));
    let answer = Action::Send(3, Message::Certificate(certificate(5)));
    assert_eq!(collector.actions(), [answer]);
}

#[test]
fn shares_are_sent_again_until_there_is_a_certificate() {
    let again = |collector: &mut Collector| -> Vec<Height> {
        collector.again();
        let actions = collector.actions().into_iter();
        let sent = actions.map(|action| match action {
            Action::Broadcast(Message::Share(share)) => {
                assert!(share.lacks);
                share.height
            }
            other => panic!("not asked for: {other:?}"),
        });
        sent.collect()
    };
    let mut collector = collector(0);
    for height in 1..=100 {
        collector.executed(height, root(height));
    }
    let _ = collector.actions();
    assert!(again(&mut collector).is_empty());
    // The newest, and the oldest that is worth it.
    let lowest = Collector::lowest(100);
    let expected: Vec<Height> = (lowest..lowest + 15).chain([100]).collect();
    assert_eq!(again(&mut collector), expected);
    collector.received(1, Message::Certificate(certificate(lowest)));
    assert_eq!(collector.actions().len(), 1);
    let expected: Vec<Height> = (lowest + 1..lowest + 16).chain([100]).collect();
    assert_eq!(again(&mut collector), expected);
    // One that somebody needs is worth it, too, and stays.
    collector.want(3, root(3));
    collector.executed(101, root(101));
    let _ = (collector.actions(), again(&mut collector));
    assert_eq!(again(&mut collector)[0], 3);
    collector.received(2, share(2, 3, root(3), false));
    collector.received(3, share(3, 3, root(3), false));
    assert_eq!(collector.actions(), [Action::Deliver(certificate(3))]);
}

#[test]
fn forged_shares_are_dropped_and_their_nodes_named() {
    let mut collector = collector(0);
    collector.executed(5, root(5));
    let _ = collector.actions();
    // A signature of something else.
    let Message::Share(mut forged) = share(1, 6, root(6), false) else {
        unreachable!("a share");
    };
    (forged.height, forged.root) = (5, root(5));
    collector.received(1, Message::Share(forged));
    collector.received(2, share(2, 5, root(5), false));
    let [Action::Block(1, _)] = collector.actions()[..] else {
        panic!("the first is found out");
    };
    collector.received(3, share(3, 5, root(5), false));
    assert_eq!(collector.actions(), [Action::Deliver(certificate(5))]);
    // Another node's.
    collector.executed(6, root(6));
    let _ = collector.actions();
    collector.received(1, share(2, 6, root(6), false));
    assert!(matches!(collector.actions()[..], [Action::Block(1, _)]));
    // A certificate that is none.
    let forged = Certificate {
        height: 6,
        root: root(6),
        ..certificate(5)
    };
    collector.received(1, Message::Certificate(forged));
    assert!(matches!(collector.actions()[..], [Action::Block(1, _)]));
}

#[test]
fn a_certificate_of_another_height_changes_nothing() {
    let mut collector = collector(0);
    collector.executed(5, root(5));
    let moved = Certificate {
        height: 5,
        ..certificate(4)
    };
    let _ = collector.actions();
    collector.received(1, Message::Certificate(moved));
    // Before the height is executed, too.
    let moved = Certificate {
        height: 6,
        ..certificate(4)
    };
    collector.received(1, Message::Certificate(moved));
    assert_eq!(collector.actions(), []);
    collector.executed(6, root(6));
    assert_eq!(collector.actions().len(), 1);
    for height in [5, 6] {
        collector.received(2, share(2, height, root(height), false));
        collector.received(3, share(3, height, root(height), false));
        assert_eq!(collector.actions(), [Action::Deliver(certificate(height))]);
    }
}

#[test]
fn another_root_is_delivered_when_a_quorum_says_that_it_is_theirs() {
    let mut collector = collector(0);
    collector.executed(5, [9; 32]);
    let _ = collector.actions();
    collector.received(1, share(1, 5, root(5), false));
    collector.received(2, share(2, 5, root(5), false));
    collector.received(3, Message::Certificate(certificate(5)));
    assert_eq!(collector.actions(), []);
    collector.received(3, share(3, 5, root(5), false));
    assert_eq!(collector.actions(), [Action::Deliver(certificate(5))]);
}

#[test]
fn heights_far_from_what_is_executed_take_no_room() {
    let mut collector = collector(0);
    collector.executed(100, root(100));
    let _ = collector.actions();
    for height in [1, 30, 170, u64::MAX] {
        for node in [1, 2, 3] {
            collector.received(node, share(node as usize, height, root(height), true));
            let _ = collector.actions();
        }
    }
    collector.executed(170, root(170));
    assert_eq!(collector.actions().len(), 1);
}

#[test]
fn certificates_that_are_not_known_are_verified() {
    let certificates = Certificates::new(*GENESIS.subnet.sharing().public());
    let good = certificate(5);
    let forged = Certificate {
        signature: certificate(4).signature,
        ..good
    };
    let malformed = Certificate {
        signature: [0xff; 48],
        ..good
    };
    for known in [false, true] {
        assert!(certificates.is_certificate(&good));
        assert!(!certificates.is_certificate(&forged));
        assert!(!certificates.is_certificate(&malformed));
        if !known {
            certificates.insert(good);
        }
    }
}

proptest! {
    /// Any order, losses and repetitions of messages between four nodes, one of them silent: when nothing is
    /// lost any more, all have every certificate.
    #[test]
    fn everybody_gets_every_certificate(order in proptest::collection::vec((any::<u16>(), 0..10_u8), 0..200)) {
        let mut nodes: Vec<Collector> = (0..3).map(collector).collect();
        let mut got: Vec<BTreeMap<Height, Certificate>> = vec![BTreeMap::new(); 3];
        let mut wires: Vec<(u32, usize, Message)> = Vec::new();
        let mut next = [1; 3];
        let mut steps = order.into_iter();
        let mut rounds = 0;
        while got.iter().any(|got| got.len() < 6) {
            let (choice, kind) = steps.next().unwrap_or_else(|| {
                rounds += 1;
                (0, if rounds % 20 == 0 { 1 } else { 5 })
            });
            let node = usize::from(choice) % 3;
            match kind {
                0 if next[node] <= 6 => {
                    nodes[node].executed(next[node], root(next[node]));
                    next[node] += 1;
                }
                1 => (0..3).for_each(|node| {
                    if rounds > 0 && next[node] <= 6 {
                        nodes[node].executed(next[node], root(next[node]));
                        next[node] += 1;
                    }
                    nodes[node].again();
                }),
                2 if !wires.is_empty() => {
                    wires.remove(usize::from(choice) % wires.len());
                }
                _ if !wires.is_empty() => {
                    let (from, to, message) = wires.remove(usize::from(choice) % wires.len());
                    nodes[to].received(from, message);
                }
                _ => {}
            }
            for from in 0..3 {
                for action in nodes[from].actions() {
                    let number = u32::try_from(from).unwrap();
                    match action {
                        Action::Broadcast(message) => wires.extend(
                            (0..3).filter(|to| *to != from).map(|to| (number, to, message.clone())),
                        ),
                        Action::Send(to, message) => wires.push((number, to as usize, message)),
                        Action::Deliver(certificate) => {
                            prop_assert!(got[from].insert(certificate.height, certificate).is_none());
                        }
                        Action::Block(node, reason) => panic!("{node} is honest: {reason}"),
                    }
                }
            }
            prop_assert!(rounds < 10_000, "it goes on");
        }
        for height in 1..=6 {
            prop_assert!(got.iter().all(|got| got[&height] == certificate(height)));
        }
    }

    #[test]
    fn arbitrary_bytes_decode_to_themselves_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::decode(Bytes::from(bytes.clone())) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn changed_messages_decode_to_themselves_or_fail(node in 0..4_usize, at in 0..95_usize, by in 1..=255_u8) {
        for message in [share(node, 3, root(3), true), Message::Certificate(certificate(3))] {
            let mut bytes = message.encode().to_vec();
            prop_assert!(bytes.len() <= super::message::MESSAGE_BYTES_MAX);
            prop_assert_eq!(&Message::decode(Bytes::from(bytes.clone())).unwrap(), &message);
            let at = at % bytes.len();
            bytes[at] ^= by;
            if let Ok(message) = Message::decode(Bytes::from(bytes.clone())) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
