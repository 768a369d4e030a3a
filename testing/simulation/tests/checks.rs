//! Every check finds what it is for.
use ic_verify_bls_signature::PrivateKey;
use lockstep_simulation::{
    Event, Fault, Plan,
    checks::{Agreement, Certificates, Once, Outcome},
    run,
};
use lockstep_subnet::application::{FinalizedBlock, Payload};
use std::time::Duration;

fn block(height: u64, digest: u8, time_ns: u64) -> FinalizedBlock {
    FinalizedBlock {
        height,
        digest: [digest; 32],
        payload: Payload {
            time_ns,
            ..Payload::default()
        },
    }
}

#[test]
fn agreement_is_of_blocks_roots_and_times() {
    let mut agreement = Agreement::default();
    agreement.executed(0, &block(1, 1, 10), [1; 32]);
    agreement.executed(1, &block(1, 1, 10), [1; 32]);
    agreement.executed(0, &block(2, 2, 11), [2; 32]);
    agreement.executed(0, &block(1, 1, 10), [1; 32]);
    assert_eq!(agreement.violations.all(), [""; 0]);
    assert_eq!((agreement.height(), agreement.root(2)), (2, Some([2; 32])));
    for (height, digest, time_ns, root) in [(2, 3, 11, 2), (2, 2, 11, 3), (3, 3, 11, 3)] {
        let mut agreement = agreement.clone();
        agreement.executed(1, &block(height, digest, time_ns), [root; 32]);
        assert_eq!(
            agreement.violations.all().len(),
            1,
            "{height} {digest} {root}"
        );
    }
}

#[test]
fn certificates_are_of_agreed_roots_and_verify() {
    let mut bytes = [0; 32];
    bytes[31] = 3;
    let key = PrivateKey::deserialize(&bytes).unwrap();
    let sign = |root: [u8; 32]| {
        let message = [b"\x0Dic-state-root", &root[..]].concat();
        key.sign(&message).serialize()
    };
    let good = Certificates::new(key.public_key().serialize());
    let (root, other) = ([1; 32], [2; 32]);
    let mut certificates = good.clone();
    certificates.certified(1, root, sign(root), Some(root));
    certificates.certified(1, root, sign(root), Some(root));
    certificates.brought(1, sign(root), Some(root));
    assert_eq!(certificates.violations.all(), [""; 0]);
    assert_eq!(certificates.count, 2);
    for (signature, agreed) in [
        (sign(root), Some(other)),
        (sign(root), None),
        (sign(other), Some(root)),
    ] {
        let mut certificates = good.clone();
        certificates.certified(1, root, signature, agreed);
        assert_eq!(certificates.violations.all().len(), 1);
    }
    certificates.certified(1, root, sign(other), Some(root));
    assert_eq!(certificates.violations.all().len(), 1);
}

#[test]
fn calls_happen_once_as_their_answers_say() {
    let mut once = Once::default();
    for number in 1..=4 {
        once.sent(number);
    }
    once.answered(1, Outcome::Done { length: 1 });
    once.answered(3, Outcome::Done { length: 2 });
    once.answered(4, Outcome::Failed);
    once.answered(1, Outcome::Done { length: 1 });
    once.check(0, &[1, 3]);
    once.check(0, &[1, 3, 2]);
    assert_eq!(once.violations.all(), [""; 0]);
    assert_eq!(once.answers(), 3);
    for (list, found) in [
        // Lost, in another place, twice, never sent, left behind by one that failed.
        (&[1][..], 1),
        (&[3, 1], 2),
        (&[1, 3, 2, 2], 1),
        (&[1, 3, 9], 1),
        (&[1, 3, 4], 1),
    ] {
        let mut once = once.clone();
        once.check(0, list);
        assert_eq!(once.violations.all().len(), found, "{list:?}");
    }
    for (number, outcome) in [
        (1, Outcome::Done { length: 2 }),
        (1, Outcome::Failed),
        (7, Outcome::Failed),
    ] {
        let mut once = once.clone();
        once.answered(number, outcome);
        assert_eq!(once.violations.all().len(), 1, "{number}");
    }
}

/// Two of four are more than a subnet bears. That it does not is what shows that the checks see the nodes.
#[test]
fn more_faulty_nodes_than_tolerated_are_found_out() {
    let with = |seed: u64, fault: Fault| {
        let mut plan = Plan::of_size(seed, 4);
        // The honest two do not hear each other.
        plan.events = [(2, 3), (3, 2)]
            .map(|(from, to)| {
                let time = plan.time;
                (Duration::ZERO, Event::Cut { from, to, time })
            })
            .to_vec();
        plan.faulty = vec![(0, fault), (1, fault)];
        run(&plan)
    };
    let silent = with(0, Fault::Silent);
    assert!(
        silent.safety.is_empty() && !silent.liveness.is_empty(),
        "{silent:#?}"
    );
    // The others must be in touch with different twins, which a seed chooses.
    let reports: Vec<_> = (0..8).map(|seed| with(seed, Fault::Twins)).collect();
    let violations = reports.iter().flat_map(|report| &report.safety);
    assert!(
        violations
            .into_iter()
            .any(|violation| violation.contains("have other blocks")),
        "{reports:#?}"
    );
}
