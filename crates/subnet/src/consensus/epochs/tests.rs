use super::{schedule::LAST_HEIGHT, *};
use crate::{
    application::{FinalizedBlock, Payload, Proposal},
    consensus::genesis::Genesis,
};
use bytes::Bytes;
use commonware_consensus::types::{self, Epocher as _};
use std::{sync::LazyLock, time::Duration};

const START: SystemTime = SystemTime::UNIX_EPOCH;

/// Four nodes; then one joins; then the first one leaves.
static EPOCHS: LazyLock<[Genesis; 3]> = LazyLock::new(|| {
    let first = Genesis::deal(4, &[1; 32]).unwrap();
    let second = first.next_epoch(&[0, 1, 2, 3], 1, &[2; 32]).unwrap();
    let third = second.next_epoch(&[1, 2, 3, 4], 0, &[3; 32]).unwrap();
    [first, second, third]
});

fn installed(epoch: &Genesis, node: &PublicKey) -> Installed {
    let position = epoch.subnet.participants().position(node);
    Installed {
        subnet: Arc::new(epoch.subnet.clone()),
        keys: position.map(|position| epoch.nodes[position].clone()),
    }
}

/// A node of the genesis, by its number there.
fn node(number: usize) -> PublicKey {
    EPOCHS[0].subnet.participants()[number].clone()
}

/// The node of one epoch that is none of another.
fn only_in(epoch: usize, other: usize) -> PublicKey {
    let other = EPOCHS[other].subnet.participants();
    let mut nodes = EPOCHS[epoch].subnet.participants().iter();
    let found = nodes.find(|node| other.position(node).is_none());
    found.unwrap().clone()
}

fn epochs(me: &PublicKey, later: &[usize], upgrade_to: Option<u64>) -> Epochs {
    let later = later.iter().map(|epoch| installed(&EPOCHS[*epoch], me));
    Epochs::new(installed(&EPOCHS[0], me), later.collect(), upgrade_to).unwrap()
}

/// Says which epochs were ordered.
struct Ordered(Arc<state::Epochs>, u64);

impl Ordered {
    /// Epochs that were ordered at heights.
    fn at(orders: &[(Height, Switch)]) -> Self {
        let mut epochs = state::Epochs::default();
        for (height, switch) in orders {
            let payload = Payload {
                switch: Some(Arc::new(switch.clone())),
                ..Payload::default()
            };
            let block = FinalizedBlock {
                height: *height,
                digest: [1; 32],
                payload,
            };
            epochs = epochs.after(&block).unwrap();
        }
        let version = epochs.last().map_or(1, |last| last.protocol_version);
        Self(Arc::new(epochs), version)
    }
}

impl Application for Ordered {
    fn propose(&self, _: u64) -> Proposal<'_> {
        Box::pin(std::future::pending())
    }

    fn verify(&self, _: u64, _: &Payload) -> bool {
        true
    }

    fn execute(&self, _: &FinalizedBlock) -> [u8; 32] {
        [0; 32]
    }

    fn executed_height(&self) -> Height {
        0
    }

    fn root(&self, _: Height) -> Option<[u8; 32]> {
        None
    }

    fn epochs(&self) -> Arc<state::Epochs> {
        self.0.clone()
    }

    fn protocol_version(&self) -> u64 {
        self.1
    }

    fn wanted_beacons(&self) -> Vec<Height> {
        Vec::new()
    }

    fn certified(&self, _: Height, _: [u8; 32], _: [u8; 48]) {}

    fn gossip(&self, _: Bytes) {}
}

fn switch(epoch: &Genesis, protocol_version: u64) -> Switch {
    Switch {
        epoch: epoch.subnet.epoch(),
        protocol_version,
        members: epoch.subnet.members(),
    }
}

#[test]
fn a_node_wants_what_is_installed_and_proposes_it_when_a_quorum_does() {
    let me = node(0);
    let epochs = epochs(&me, &[], None);
    epochs.follow(&Ordered::at(&[]));
    assert_eq!(epochs.wanted(5), None);
    epochs.install(installed(&EPOCHS[1], &me)).unwrap();
    let next = switch(&EPOCHS[1], 1);
    assert_eq!(epochs.wanted(5), Some(next.clone()));
    assert!(epochs.accepts(5, &next));
    let other = Switch {
        protocol_version: 2,
        ..next.clone()
    };
    assert!(!epochs.accepts(5, &other));

    // Three of the four of now: who joins has no say, and who wants another counts for nothing.
    let others = &EPOCHS[0].subnet.participants().as_ref()[1..];
    for node in [only_in(1, 0), others[0].clone()] {
        epochs.note_ready(&node, digest(&next), START);
        assert_eq!(epochs.proposal(5), None);
    }
    epochs.note_ready(&others[1], digest(&other), START);
    assert_eq!(epochs.proposal(5), None);
    epochs.note_ready(&others[1], digest(&next), START);
    assert_eq!(epochs.proposal(5), Some(next.clone()));
    // Three of the four of now are not enough of the five that will be, and what is old does not count.
    let later = START + Duration::from_secs(1);
    for node in others {
        epochs.note_ready(node, digest(&next), later);
    }
    assert!(epochs.proposal(5).is_some());
    epochs.note_ready(&others[2], digest(&other), later);
    epochs.forget_ready(later);
    assert_eq!(epochs.proposal(5), None);

    // When it is ordered it is wanted no more, and may stand in a block once more; then it begins.
    epochs.install(installed(&EPOCHS[2], &me)).unwrap();
    epochs.follow(&Ordered::at(&[(10, next.clone())]));
    let first = 10 + SWITCH_DELAY;
    assert_eq!(
        (epochs.wanted(10), epochs.proposal(first - 2)),
        (None, None)
    );
    assert!(epochs.accepts(11, &next) && !epochs.accepts(11, &other));
    assert!(!epochs.accepts(first - 1, &next), "it has begun");
    let genesis = switch(&EPOCHS[0], 1);
    assert!(!epochs.accepts(11, &genesis));
    assert_eq!(
        [1, 2, 3].map(|number| epochs.is_next(number)),
        [false, true, false]
    );
    assert_eq!(epochs.wanted(first - 1), Some(switch(&EPOCHS[2], 1)));
    assert_eq!((epochs.now(first - 2), epochs.now(first - 1)), (0, 1));
    assert_eq!(epochs.last_height(0), Some(first - 1));
}

#[test]
fn what_the_state_says_wins_over_files() {
    // With the files of another epoch 1 than the one that is ordered.
    let other = EPOCHS[0].next_epoch(&[0, 1, 2, 3], 1, &[9; 32]).unwrap();
    let member = node(1);
    let epochs = epochs(&member, &[], None);
    epochs.install(installed(&other, &member)).unwrap();
    epochs.follow(&Ordered::at(&[(10, switch(&EPOCHS[1], 1))]));
    assert_eq!(epochs.standing(10), Standing::Member);
    assert_eq!(epochs.standing(100), Standing::NoKeys { epoch: 1 });
    assert!(matches!(
        epochs.install(installed(&other, &member)),
        Err(InstallError::Ordered { epoch: 1 })
    ));
    // The right ones can be had later, also when an upgrade came in between.
    let upgrade = Switch {
        epoch: 2,
        ..switch(&EPOCHS[1], 2)
    };
    epochs.follow(&Ordered::at(&[(10, switch(&EPOCHS[1], 1)), (50, upgrade)]));
    assert_eq!(epochs.standing(100), Standing::NoKeys { epoch: 2 });
    epochs.install(installed(&EPOCHS[1], &member)).unwrap();
    assert_eq!(epochs.standing(40), Standing::Member);
    assert_eq!(epochs.standing(100), Standing::Member);
    assert!(epochs.peers(100).contains_key(&only_in(1, 0)));
}

#[test]
fn who_left_and_who_has_not_joined_yet_is_none_of_the_nodes() {
    let orders = [(10, switch(&EPOCHS[1], 1)), (40, switch(&EPOCHS[2], 1))];
    let standings = |node: &PublicKey| {
        let epochs = epochs(node, &[1, 2], None);
        epochs.follow(&Ordered::at(&orders));
        [10, 40, 100].map(|executed| epochs.standing(executed))
    };
    let [joined, left] = [only_in(1, 0), only_in(1, 2)];
    let outside = |epoch| Standing::Outside { epoch };
    assert_eq!(standings(&joined)[..2], [outside(0), Standing::Member]);
    assert_eq!(standings(&left)[1..], [Standing::Member, outside(2)]);
}

#[test]
fn an_upgrade_is_an_epoch_with_the_same_nodes_and_keys() {
    let me = node(2);
    let epochs = epochs(&me, &[], Some(2));
    epochs.follow(&Ordered::at(&[]));
    let wanted = epochs.wanted(5).unwrap();
    assert_eq!((wanted.epoch, wanted.protocol_version), (1, 2));
    assert_eq!(wanted.members, EPOCHS[0].subnet.members());
    epochs.follow(&Ordered::at(&[(6, wanted.clone())]));
    assert_eq!(epochs.standing(100), Standing::Member);
    assert!(epochs.get(1).unwrap().voter().is_some());
    assert_eq!(epochs.wanted(100), None);

    // After many of them the state has forgotten the first, and the key files are still those of the genesis.
    let many = (1..=5).map(|epoch| {
        (
            epoch * 100,
            Switch {
                epoch,
                ..wanted.clone()
            },
        )
    });
    let again = super::tests::epochs(&me, &[], None);
    again.follow(&Ordered::at(&many.collect::<Vec<_>>()));
    assert_eq!(again.standing(1_000), Standing::Member);
}

#[test]
fn files_must_be_of_one_node_of_one_subnet() {
    let me = node(0);
    let epochs = epochs(&me, &[], None);
    let foreign = Genesis::deal(4, &[7; 32]).unwrap();
    let foreign = foreign.next_epoch(&[0, 1, 2, 3], 0, &[7; 32]).unwrap();
    let error = |installed| epochs.install(installed).unwrap_err();
    let of_other = installed(&EPOCHS[1], &node(1));
    assert!(matches!(
        error(of_other),
        InstallError::OtherNode { epoch: 1 }
    ));
    assert!(matches!(
        error(installed(&foreign, &me)),
        InstallError::OtherSubnet { epoch: 1 }
    ));
    let exchanged = Installed {
        keys: installed(&EPOCHS[0], &me).keys,
        ..installed(&EPOCHS[1], &me)
    };
    assert!(matches!(
        error(exchanged),
        InstallError::UnknownIdentity { epoch: 1 }
    ));
    let many = EPOCHS[0].next_epoch(&[0, 1, 2, 3], 9, &[2; 32]).unwrap();
    assert!(matches!(
        error(installed(&many, &me)),
        InstallError::NoRoom { epoch: 1 }
    ));
    // Before it is ordered, the files for an epoch can be replaced, also by others without keys.
    let left = EPOCHS[0].next_epoch(&[1, 2, 3], 1, &[8; 32]).unwrap();
    let stays = EPOCHS[0].next_epoch(&[0, 1, 2, 3], 1, &[8; 32]).unwrap();
    for epoch in [&left, &stays, &left] {
        epochs.install(installed(epoch, &me)).unwrap();
        assert_eq!(epochs.wanted(0).unwrap().members, epoch.subnet.members());
    }
    // After a restart there is room.
    let genesis = installed(&EPOCHS[0], &me);
    Epochs::new(genesis.clone(), vec![installed(&many, &me)], None).unwrap();
    let nobody = Installed {
        keys: None,
        ..genesis
    };
    let none = Epochs::new(nobody, Vec::new(), None);
    assert!(matches!(none, Err(InstallError::NoKeys)));
}

#[test]
fn heights_of_epochs_that_are_forgotten_belong_to_none() {
    let me = node(1);
    let epochs = Arc::new(epochs(&me, &[], None));
    let same = |epoch| Switch {
        epoch,
        protocol_version: 1,
        members: EPOCHS[0].subnet.members(),
    };
    let orders: Vec<_> = (1..=5).map(|epoch| (epoch * 100, same(epoch))).collect();
    epochs.follow(&Ordered::at(&orders));
    let at = |height| epochs.at(height);
    let first = |epoch: u64| epoch * 100 + SWITCH_DELAY;
    assert_eq!((at(0), at(first(1)), at(first(3) - 1)), (None, None, None));
    assert_eq!((at(first(3)), at(first(4) - 1)), (Some(3), Some(3)));
    assert_eq!((at(first(4)), at(first(9))), (Some(4), Some(5)));
    // A node that takes over such a state has not raised its height yet.
    assert_eq!((epochs.now(0), epochs.now(first(4))), (0, 4));
    let schedule = Schedule(epochs.clone());
    let bounds = |epoch| {
        let epoch = types::Epoch::new(epoch);
        let height = |height: types::Height| height.get();
        (
            schedule.first(epoch).map(height),
            schedule.last(epoch).map(height),
        )
    };
    assert_eq!(bounds(3), (Some(first(3)), Some(first(4) - 1)));
    assert_eq!(bounds(5), (Some(first(5)), Some(LAST_HEIGHT)));
    assert!(schedule.containing(types::Height::new(0)).is_none());
    let info = schedule.containing(types::Height::new(first(4))).unwrap();
    assert_eq!((info.epoch().get(), info.first().get()), (4, first(4)));
}
