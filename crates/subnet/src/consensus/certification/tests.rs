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
    Message::Share(Share {
        height,
        root,
        signature: signer(node).sign(&root),
        lacks,
    })
}

/// The certificate that three nodes make.
fn certificate(height: Height) -> Certificate {
    let root = root(height);
    let partials = [1, 2, 3].map(|node| {
        let signature = signer(node as usize).sign(&root);
        Signer::partial(node, &signature).expect("a point")
    });
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
    // Once a tick.
    collector.received(3, share(3, 5, root(5), true));
    assert_eq!(collector.actions(), []);
    collector.again();
    collector.received(3, share(3, 5, root(5), true));
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
    // Those that somebody needs are worth it, too, as long as they are needed.
    let wanted = |heights: std::ops::Range<Height>| heights.map(|height| (height, root(height)));
    collector.want(&wanted(3..23).collect());
    collector.executed(101, root(101));
    let _ = (collector.actions(), again(&mut collector));
    let expected: Vec<Height> = (3..18).chain([101]).collect();
    assert_eq!(again(&mut collector), expected);
    collector.received(2, share(2, 3, root(3), false));
    collector.received(3, share(3, 3, root(3), false));
    assert_eq!(collector.actions(), [Action::Deliver(certificate(3))]);
    collector.want(&BTreeMap::new());
    let lowest = Collector::lowest(101);
    let expected: Vec<Height> = (lowest..lowest + 15).chain([101]).collect();
    assert_eq!(again(&mut collector), expected);
    collector.received(2, share(2, 4, root(4), false));
    assert_eq!(collector.open_count(), 64);
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
    // Another node's, and what is no point.
    for height in [6, 7] {
        collector.executed(height, root(height));
        let _ = collector.actions();
        let Message::Share(mut forged) = share(2, height, root(height), false) else {
            unreachable!("a share");
        };
        if height == 7 {
            forged.signature = [0xff; 48];
        }
        collector.received(1, Message::Share(forged));
        collector.received(2, share(2, height, root(height), false));
        assert!(matches!(collector.actions()[..], [Action::Block(1, _)]));
    }
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
    for height in [1, 36, 165, 170, u64::MAX] {
        for node in [1, 2, 3] {
            collector.received(node, share(node as usize, height, root(height), true));
        }
        collector.received(1, Message::Certificate(certificate(height)));
    }
    assert_eq!((collector.actions(), collector.open_count()), (vec![], 1));
    for height in [37, 164] {
        collector.received(1, share(1, height, root(height), true));
    }
    assert_eq!(collector.open_count(), 3);
    collector.executed(170, root(170));
    assert_eq!(collector.actions().len(), 1);
    // 107 is the lowest now.
    assert_eq!(collector.open_count(), 2);
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

/// Three honest nodes of four and what is on its way between them.
struct Nodes {
    nodes: Vec<Collector>,
    next: [Height; 3],
    got: Vec<BTreeMap<Height, Certificate>>,
    wires: Vec<(u32, usize, Message)>,
}

impl Nodes {
    const HEIGHTS: Height = 6;

    fn execute(&mut self, node: usize) {
        if self.next[node] <= Self::HEIGHTS {
            self.nodes[node].executed(self.next[node], root(self.next[node]));
            self.next[node] += 1;
        }
    }

    /// It forgets everything and executes what it had executed.
    fn restart(&mut self, node: usize) {
        self.nodes[node] = collector(node);
        let executed = self.next[node];
        self.next[node] = 1;
        while self.next[node] < executed {
            self.execute(node);
        }
    }

    /// The fourth says what is not so: of any height, to anybody.
    fn lie(&mut self, choice: u16) {
        let (height, to) = (u64::from(choice) % 8, usize::from(choice / 8) % 3);
        let moved = Certificate {
            height,
            ..certificate(1 + u64::from(choice / 32) % Self::HEIGHTS)
        };
        let forged = Share {
            height,
            root: root(height),
            signature: moved.signature,
            lacks: false,
        };
        let message = match choice % 4 {
            0 => Message::Certificate(moved),
            3 => Message::Share(forged),
            1 => share(3, height, root(height + 1), true),
            _ => share(3, height, [7; 32], false),
        };
        self.wires.push((3, to, message));
    }

    fn act(&mut self) {
        for from in 0..3 {
            let number = u32::try_from(from).unwrap();
            for action in self.nodes[from].actions() {
                match action {
                    Action::Broadcast(message) => {
                        let others = (0..3).filter(|to| *to != from);
                        self.wires.extend(others.map(|to| (number, to, message)));
                    }
                    Action::Send(3, _) => {}
                    Action::Send(to, message) => self.wires.push((number, to as usize, message)),
                    Action::Deliver(certificate) => {
                        self.got[from].insert(certificate.height, certificate);
                    }
                    Action::Block(3, _) => {}
                    Action::Block(node, reason) => panic!("{node} is honest: {reason}"),
                }
            }
        }
    }

    fn are_done(&self) -> bool {
        self.got.iter().all(|got| got.len() as u64 == Self::HEIGHTS)
    }
}

proptest! {
    /// Any order, losses and repetitions of messages between three honest nodes of four, which are restarted now and
    /// then, while the fourth lies: when nothing is lost any more, all have every certificate.
    #[test]
    fn everybody_gets_every_certificate(steps in proptest::collection::vec((any::<u16>(), 0..12_u8), 0..200)) {
        let mut all = Nodes {
            nodes: (0..3).map(collector).collect(),
            next: [1; 3],
            got: vec![BTreeMap::new(); 3],
            wires: Vec::new(),
        };
        for (choice, kind) in steps {
            let node = usize::from(choice) % 3;
            let wire = usize::from(choice) % all.wires.len().max(1);
            match kind {
                0 | 1 => all.execute(node),
                2 => all.nodes[node].again(),
                3 => all.restart(node),
                4 => all.lie(choice),
                5 if !all.wires.is_empty() => drop(all.wires.remove(wire)),
                6 if !all.wires.is_empty() => all.wires.push(all.wires[wire]),
                _ if !all.wires.is_empty() => {
                    let (from, to, message) = all.wires.remove(wire);
                    all.nodes[to].received(from, message);
                }
                _ => {}
            }
            all.act();
        }
        // Two ticks without a loss after all have executed everything.
        for _ in 0..4 {
            for node in 0..3 {
                while all.next[node] <= Nodes::HEIGHTS {
                    all.execute(node);
                }
                all.nodes[node].again();
            }
            all.act();
            while !all.wires.is_empty() {
                let (from, to, message) = all.wires.remove(0);
                all.nodes[to].received(from, message);
                all.act();
            }
        }
        prop_assert!(all.are_done());
        for height in 1..=Nodes::HEIGHTS {
            prop_assert!(all.got.iter().all(|got| got[&height] == certificate(height)));
        }
    }

    #[test]
    fn arbitrary_bytes_decode_to_themselves_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::decode(Bytes::from(bytes.clone())) {
            prop_assert_eq!(message.encode(), bytes);
        }
    }

    #[test]
    fn changed_messages_decode_to_themselves_or_fail(node in 0..4_usize, at in 0..90_usize, by in 1..=255_u8) {
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
