use super::*;
use crate::consensus::{
    certification::IcVariant,
    genesis::{Genesis, NodeKeys, Subnet},
};
use commonware_codec::DecodeExt as _;
use commonware_cryptography::bls12381::{
    dkg::feldman_desmedt::PlayerAck, primitives::ops::threshold,
};
use commonware_parallel::Sequential;
use commonware_utils::N3f1;
use std::collections::BTreeMap;

/// Candidates in the order of their numbers, and their plan.
fn gathered(count: usize) -> (Vec<Candidate>, Plan) {
    let mut candidates: Vec<_> = (0..count)
        .map(|index| Candidate::generate(format!("10.0.0.1:{}", 4_900 + index).parse().unwrap()))
        .collect();
    let entries = candidates.iter().map(Candidate::entry).collect();
    let plan = Plan::new(entries, BTreeMap::from([("small".to_owned(), [1; 32])])).unwrap();
    candidates.sort_by_key(|candidate| plan.roles(candidate).unwrap().player);
    (candidates, plan)
}

/// All dealings, by receiver.
fn dealt(candidates: &[Candidate], plan: &Plan) -> Vec<Vec<Dealing>> {
    let all: Vec<Dealing> = candidates
        .iter()
        .flat_map(|candidate| plan.deal(candidate).unwrap())
        .collect();
    let to = |node| {
        all.iter()
            .filter(|dealing| dealing.receiver() == node)
            .cloned()
            .collect()
    };
    (0..candidates.len()).map(to).collect()
}

fn acknowledged(
    candidates: &[Candidate],
    plan: &Plan,
    dealt: &[Vec<Dealing>],
) -> Vec<Acknowledgements> {
    let pairs = candidates.iter().zip(dealt);
    pairs
        .map(|(candidate, dealings)| plan.acknowledge(candidate, dealings).unwrap())
        .collect()
}

fn held(count: usize) -> Vec<(Subnet, NodeKeys)> {
    let (candidates, plan) = gathered(count);
    let dealt = dealt(&candidates, &plan);
    let acknowledged = acknowledged(&candidates, &plan, &dealt);
    let logs: Vec<Log> = candidates
        .iter()
        .map(|candidate| plan.conclude(candidate, &acknowledged).unwrap())
        .collect();
    let pairs = candidates.iter().zip(&dealt);
    pairs
        .map(|(candidate, dealings)| {
            let (subnet, keys) = plan.finish(candidate, dealings, &logs).unwrap();
            (subnet, keys.unwrap())
        })
        .collect()
}

#[test]
fn all_nodes_get_one_subnet_and_every_quorum_signs_for_it() {
    for count in [1, 4, 7] {
        let nodes = held(count);
        let subnet = &nodes[0].0;
        assert!(nodes.iter().all(|(other, _)| other == subnet));
        assert_eq!(subnet.models()["small"], [1; 32]);
        let required = subnet.sharing().required() as usize;
        assert_eq!(required, count - (count - 1) / 3);
        let keys: Vec<&NodeKeys> = nodes.iter().map(|(_, keys)| keys).collect();
        for first in 0..=count - required {
            signs(&keys[first..], subnet, &subnet.public_key());
        }
    }
}

/// A signature of the first shares that make one, which an implementation that is not ours verifies.
fn signs(nodes: &[&NodeKeys], subnet: &Subnet, key: &[u8; 96]) {
    let root = [3; 32];
    let required = subnet.sharing().required() as usize;
    let partials: Vec<_> = nodes[..required]
        .iter()
        .map(|keys| threshold::sign_message::<IcVariant>(keys.share(), b"ic-state-root", &root))
        .collect();
    let signature =
        threshold::recover::<IcVariant, _>(subnet.sharing(), partials.iter(), &Sequential)
            .unwrap()
            .encode();
    let message = [b"\x0Dic-state-root".as_slice(), &root].concat();
    ic_verify_bls_signature::verify_bls_signature(&signature, &message, key).unwrap();
}

#[test]
fn the_key_stays_when_nodes_come_and_go() {
    let genesis = Genesis::deal(4, &[5; 32]).unwrap();
    let key = genesis.subnet.public_key();
    let mut epoch = genesis.clone();
    // All stay; one joins; two are replaced; as many leave as can.
    let steps: [(&[usize], u16); 4] = [
        (&[0, 1, 2, 3], 0),
        (&[0, 1, 2, 3], 3),
        (&[0, 2, 3, 5, 6], 2),
        (&[1], 0),
    ];
    for (number, (stay, joining)) in (1..).zip(steps) {
        let next = epoch.next_epoch(stay, joining, &[number; 32]).unwrap();
        let (subnet, count) = (&next.subnet, stay.len() + usize::from(joining));
        assert_eq!(
            (subnet.epoch(), subnet.node_count()),
            (u64::from(number), count)
        );
        assert_eq!(subnet.public_key(), key);
        assert_ne!(subnet.sharing(), epoch.subnet.sharing());
        for index in stay {
            let identity = epoch.subnet.node_identity(*index).unwrap();
            let new = (0..count).find(|new| subnet.node_identity(*new) == Some(identity));
            let (old, new) = (&epoch.nodes[*index], &next.nodes[new.unwrap()]);
            assert_eq!(new.query_key(), old.query_key());
            assert_ne!(new.share().private, old.share().private);
        }
        let nodes: Vec<&NodeKeys> = next.nodes.iter().collect();
        signs(&nodes, subnet, &key);
        signs(
            &nodes.iter().rev().copied().collect::<Vec<_>>(),
            subnet,
            &key,
        );
        // What blocks and the state have of it is all of it but the models.
        let members = subnet.members();
        let again = genesis
            .subnet
            .with_members(subnet.epoch(), &members)
            .unwrap();
        assert_eq!((&again, again.digest()), (subnet, subnet.digest()));
        epoch = next;
    }
}

#[test]
fn nodes_that_were_away_are_replaced_by_a_quorum() {
    let genesis = Genesis::deal(4, &[5; 32]).unwrap();
    let address = |port: u16| Some(format!("10.0.0.2:{port}").parse().unwrap());
    let stay: Vec<Candidate> = (0..3)
        .map(|index| Candidate::of(&genesis.nodes[usize::from(index)], address(1 + index)))
        .collect();
    let new = Candidate::generate(address(9).unwrap());
    let entries: Vec<Entry> = stay.iter().chain([&new]).map(Candidate::entry).collect();
    let plan = Plan::next(&genesis.subnet, 1, entries.clone()).unwrap();
    assert_eq!(plan.roles(&new).unwrap().dealer, None);
    assert!(matches!(plan.deal(&new), Err(CeremonyError::NoDealer)));
    let refused = |entries: &[Entry], epoch| {
        let plan = Plan::next(&genesis.subnet, epoch, entries.to_vec());
        plan.unwrap_err().to_string()
    };
    let few = refused(&entries[1..], 1);
    assert!(
        few.contains("2 of the nodes before take part, and 3 are needed"),
        "{few}"
    );
    assert!(refused(&entries, 0).contains("in epoch 0 already"));
    let mut stranger = entries.clone();
    stranger[3].leaves = true;
    assert!(refused(&stranger, 1).contains("leaves that is not there"));
    // A subnet that is made has nobody who leaves, and another epoch has another plan.
    assert!(Plan::new(stranger, BTreeMap::new()).is_err());
    assert_ne!(
        Plan::next(&genesis.subnet, 2, entries).unwrap().digest(),
        plan.digest()
    );

    // A dealing of another share than the dealer has is not acknowledged.
    let mut liar = stay[0].clone();
    liar.share = stay[1].share.clone();
    let all = [&liar, &stay[1], &stay[2]];
    let dealings = all
        .iter()
        .flat_map(|candidate| plan.deal(candidate).unwrap());
    let player = plan.roles(&new).unwrap().player.unwrap();
    let own: Vec<Dealing> = dealings.filter(|dealing| dealing.to == player).collect();
    let number = plan.roles(&liar).unwrap().dealer.unwrap();
    let acknowledged = plan.acknowledge(&new, &own);
    assert!(matches!(acknowledged, Err(CeremonyError::Wrong { node, .. }) if node == number));
}

#[test]
fn who_leaves_knows_who_stays() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = Genesis::deal(4, &[5; 32]).unwrap();
    let leaver = Candidate::of(&genesis.nodes[2], None);
    let file = directory.path().join("secret.json");
    leaver.write(&file).unwrap();
    let read = Candidate::read(&file).unwrap();
    assert_eq!(read.entry(), leaver.entry());
    assert!(read.entry().leaves && !format!("{read:?}").contains("share"));
    let next = genesis.next_epoch(&[0, 1, 3], 0, &[1; 32]).unwrap();
    next.subnet.write(directory.path()).unwrap();
    assert_eq!(Subnet::read(directory.path()).unwrap(), next.subnet);
    assert!(NodeKeys::read_file(&file, &next.subnet).is_err());
}

#[test]
fn what_a_ceremony_makes_survives_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for (subnet, keys) in held(4) {
        subnet.write(path).unwrap();
        keys.write(path).unwrap();
        assert_eq!(Subnet::read(path).unwrap(), subnet);
        let read = NodeKeys::read(path, &subnet, keys.index()).unwrap();
        assert_eq!(read.share().encode(), keys.share().encode());
    }
    let candidate = Candidate::generate("a.example:1".parse().unwrap());
    let file = path.join("secret.json");
    candidate.write(&file).unwrap();
    assert_eq!(Candidate::read(&file).unwrap().entry(), candidate.entry());
}

#[test]
fn a_step_can_be_repeated_and_another_plan_deals_otherwise() {
    let (candidates, plan) = gathered(4);
    let shares = |plan: &Plan| {
        let dealings = plan.deal(&candidates[0]).unwrap();
        dealings
            .into_iter()
            .map(|dealing| dealing.share)
            .collect::<Vec<_>>()
    };
    assert_eq!(shares(&plan), shares(&plan));
    let entries = candidates.iter().map(Candidate::entry).collect();
    let other = Plan::new(entries, BTreeMap::new()).unwrap();
    assert_ne!(plan.digest(), other.digest());
    assert!(
        shares(&plan)
            .iter()
            .all(|share| !shares(&other).contains(share))
    );
}

#[test]
fn entries_that_make_no_subnet_are_refused() {
    let (candidates, _) = gathered(4);
    let entries: Vec<Entry> = candidates.iter().map(Candidate::entry).collect();
    let refused = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut changed = entries.clone();
        change(&mut changed);
        Plan::new(changed, BTreeMap::new()).unwrap_err().to_string()
    };
    assert!(refused(&|entries| entries.clear()).contains("1 to 128 nodes"));
    assert!(refused(&|entries| entries[1] = entries[0].clone()).contains("one address"));
    let address = entries[0].address.clone();
    assert!(refused(&|entries| entries[1].address.clone_from(&address)).contains("one address"));
    assert!(refused(&|entries| entries[1].address = "nowhere".into()).contains("not an address"));
    let query_key = entries[0].query_key.clone();
    assert!(refused(&|entries| entries[1].query_key.clone_from(&query_key)).contains("one key"));
    let no_point = format!("02{}", "0".repeat(62));
    assert!(refused(&|entries| entries[1].query_key.clone_from(&no_point)).contains("no subnet"));
    assert!(refused(&|entries| entries[1].identity.push('0')).contains("make no subnet"));
    assert!(refused(&|entries| entries[1].query_key.truncate(6)).contains("make no subnet"));
    let again = entries[0].identity.clone();
    assert!(refused(&|entries| entries[1].identity.clone_from(&again)).contains("twice"));
}

#[test]
fn files_that_lack_or_do_not_fit_are_named() {
    let (candidates, plan) = gathered(4);
    let dealt = dealt(&candidates, &plan);
    let acknowledge = |dealings: &[Dealing]| {
        plan.acknowledge(&candidates[1], dealings)
            .map(|_| ())
            .unwrap_err()
    };
    let lacks = acknowledge(&dealt[1][..3]).to_string();
    assert!(lacks.contains("there is none of node 3"), "{lacks}");
    let twice = [&dealt[1][..], &dealt[1][2..3]].concat();
    let twice = acknowledge(&twice).to_string();
    assert!(twice.contains("there are two of node 2"), "{twice}");
    assert!(matches!(
        acknowledge(&dealt[2]),
        CeremonyError::Wrong { node: 0, .. }
    ));
    let mut changed = dealt[1].clone();
    changed[3].share.clone_from(&dealt[2][3].share);
    assert!(matches!(
        acknowledge(&changed),
        CeremonyError::Wrong { node: 3, .. }
    ));
    changed[3].share = "no".to_owned();
    assert!(matches!(
        acknowledge(&changed),
        CeremonyError::Wrong { node: 3, .. }
    ));
    changed[3].plan = "other".to_owned();
    assert!(matches!(
        acknowledge(&changed),
        CeremonyError::OtherPlan { node: 3, .. }
    ));

    let acknowledged = acknowledged(&candidates, &plan, &dealt);
    let mut changed = acknowledged.clone();
    changed[2].signatures.swap(0, 1);
    let concluded = plan.conclude(&candidates[0], &changed);
    assert!(matches!(
        concluded,
        Err(CeremonyError::Wrong { node: 2, .. })
    ));
    changed[2].signatures.clear();
    let concluded = plan.conclude(&candidates[0], &changed);
    assert!(matches!(
        concluded,
        Err(CeremonyError::Wrong { node: 2, .. })
    ));

    let mut logs: Vec<Log> = candidates
        .iter()
        .map(|candidate| plan.conclude(candidate, &acknowledged).unwrap())
        .collect();
    let exchanged = logs[1].log.clone();
    logs[3].log = exchanged;
    let finished = plan.finish(&candidates[0], &dealt[0], &logs);
    assert!(matches!(
        finished,
        Err(CeremonyError::Wrong { node: 3, .. })
    ));

    let stranger = Candidate::generate("10.0.0.9:1".parse().unwrap());
    assert!(matches!(plan.deal(&stranger), Err(CeremonyError::Stranger)));
}

/// A log of the first node in which `count` acknowledgements are.
fn log_with(
    (candidates, plan): &(Vec<Candidate>, Plan),
    acknowledged: &[Acknowledgements],
    count: usize,
) -> Log {
    let (mut dealer, _, _) = plan.dealer(&candidates[0]).unwrap();
    for acknowledgement in &acknowledged[..count] {
        let node = candidates[acknowledgement.from].identity.public_key();
        let signature = hex::decode(&acknowledgement.signatures[0]).unwrap();
        let signature = PlayerAck::decode(bytes::Bytes::from(signature)).unwrap();
        dealer.receive_player_ack(node, signature).unwrap();
    }
    Log {
        plan: plan.digest().to_owned(),
        from: 0,
        log: hex::encode(dealer.finalize::<N3f1>().encode()),
    }
}

#[test]
fn logs_that_are_not_acknowledged_by_all_are_refused() {
    let gathered = gathered(4);
    let (candidates, plan) = &gathered;
    let dealt = dealt(candidates, plan);
    let acknowledged = acknowledged(candidates, plan, &dealt);
    let mut logs: Vec<Log> = candidates
        .iter()
        .map(|candidate| plan.conclude(candidate, &acknowledged).unwrap())
        .collect();
    // Without one a share is revealed; without more the log says that it is of no use.
    for count in [0, 2, 3] {
        logs[0] = log_with(&gathered, &acknowledged, count);
        let refused = plan.finish(&candidates[1], &dealt[1], &logs).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("not acknowledged by all"), "{count}: {text}");
    }
    logs[0] = log_with(&gathered, &acknowledged, 4);
    plan.finish(&candidates[1], &dealt[1], &logs).unwrap();
}

#[test]
fn the_digest_covers_all_but_the_addresses() {
    let parts = held(4);
    let subnet = &parts[0].0;
    let moved = (0..4).map(|index| format!("10.1.0.1:{}", 1 + index).parse().unwrap());
    let moved = subnet.clone().with_addresses(moved.collect()).unwrap();
    assert_eq!(moved.digest(), subnet.digest());
    let other = subnet.clone().with_models(BTreeMap::new());
    assert_ne!(other.digest(), subnet.digest());
    // The same keys for queries and the same models, but other identities and another sharing.
    assert_ne!(held(4)[0].0.digest(), subnet.digest());
}

#[test]
fn secrets_are_not_in_debug_output() {
    let (candidates, plan) = gathered(1);
    let dealing = &plan.deal(&candidates[0]).unwrap()[0];
    assert!(!format!("{dealing:?}").contains(&dealing.share));
    let text = format!("{:?}", candidates[0]);
    for seed in [candidates[0].dealing_seed, candidates[0].query_seed] {
        assert!(!text.contains(&hex::encode(seed)) && !text.contains(&format!("{seed:?}")));
    }
}
