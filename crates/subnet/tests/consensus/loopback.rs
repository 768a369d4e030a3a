//! In real time, over authenticated connections between runtimes in this process.
use crate::toy::{Idle, Toy};
use bytes::Bytes;
use lockstep_subnet::consensus::{
    genesis::Genesis,
    loopback::{Cluster, ClusterError},
};
use std::{path::Path, sync::Arc, thread, time::Duration};

const NODE_COUNT: usize = 4;
const IDLE: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(20);
/// Generous: a busy machine must not fail the test.
const POLL_COUNT_MAX: u32 = 9_000;

fn toy(directory: &Path, index: usize) -> Arc<Toy> {
    Arc::new(Toy::durable(
        Idle::Real(IDLE),
        &directory.join(format!("toy-{index}")),
    ))
}

fn wait_until(what: &str, reached: impl Fn() -> bool) {
    for _ in 0..POLL_COUNT_MAX {
        if reached() {
            return;
        }
        thread::sleep(POLL);
    }
    panic!("not reached in time: {what}");
}

fn all_at(toys: &[Arc<Toy>], height: usize) -> bool {
    toys.iter()
        .all(|toy| toy.roots().len() >= height && toy.certified_height() >= height as u64)
}

fn assert_agreement(toys: &[Arc<Toy>]) {
    let first = toys[0].roots();
    for toy in toys {
        for (index, (own, other)) in first.iter().zip(toy.roots()).enumerate() {
            assert_eq!(*own, other, "root after height {}", index + 1);
        }
    }
}

#[test]
fn nodes_stop_restart_and_keep_their_chain_and_key() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Genesis::deal_random(NODE_COUNT as u32)
        .unwrap()
        .write(&path.join("keys"))
        .unwrap();
    let genesis = Genesis::read(&path.join("keys")).unwrap();
    let public_key = genesis.subnet.public_key();
    let mut toys: Vec<_> = (0..NODE_COUNT).map(|index| toy(path, index)).collect();
    let mut cluster = Cluster::start(genesis, path, toys.clone()).unwrap();
    wait_until("all certify", || all_at(&toys, 10));
    let message = Bytes::from_static(b"from node 0");
    cluster
        .node(0)
        .unwrap()
        .gossip()
        .send(message.clone())
        .unwrap();
    wait_until("the message is ordered", || {
        toys.iter().all(|toy| toy.ordered().contains(&message))
    });

    // One node stops; the others go on without it.
    cluster.stop_node(2).unwrap();
    assert!(!cluster.is_running(2) && cluster.is_running(1));
    assert!(matches!(
        cluster.stop_node(2),
        Err(ClusterError::UnknownNode { index: 2 })
    ));
    assert_eq!(
        Arc::strong_count(&toys[2]),
        1,
        "the stopped node released its application"
    );
    let stopped_at = toys[2].roots().len();
    let others = [toys[0].clone(), toys[1].clone(), toys[3].clone()];
    wait_until("three go on", || all_at(&others, stopped_at + 20));
    assert_eq!(toys[2].roots().len(), stopped_at);

    // It comes back from its disk, catches up and certifies with the others.
    toys[2] = toy(path, 2);
    assert!(toys[2].roots().len() >= stopped_at);
    cluster.start_node(2, toys[2].clone()).unwrap();
    let target = toys[0].roots().len() + 10;
    wait_until("the node catches up", || all_at(&toys, target));
    assert_agreement(&toys);
    for toy in &toys {
        toy.check_certificates(&public_key);
    }

    // All stop; from their disks they go on with the same key.
    cluster.shutdown().unwrap();
    let reached = toys.iter().map(|toy| toy.roots().len()).max().unwrap();
    drop(others);
    toys = (0..NODE_COUNT).map(|index| toy(path, index)).collect();
    let genesis = Genesis::read(&path.join("keys")).unwrap();
    assert_eq!(genesis.subnet.public_key(), public_key);
    let cluster = Cluster::start(genesis, path, toys.clone()).unwrap();
    wait_until("all go on", || all_at(&toys, reached + 20));
    assert_agreement(&toys);
    for toy in &toys {
        toy.check_certificates(&public_key);
    }
    cluster.shutdown().unwrap();
}

#[test]
fn starting_wrongly_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let genesis = Genesis::deal(1, &[2; 32]).unwrap();
    let mut cluster = Cluster::new(genesis.clone(), directory.path()).unwrap();
    let only = toy(directory.path(), 0);
    let started = cluster.start_node(1, only.clone());
    assert!(matches!(
        started,
        Err(ClusterError::UnknownNode { index: 1 })
    ));
    cluster.start_node(0, only.clone()).unwrap();
    let again = cluster.start_node(0, only.clone());
    assert!(matches!(again, Err(ClusterError::Running { index: 0 })));
    let two = Cluster::start(genesis, directory.path(), vec![only.clone(), only.clone()]);
    assert!(matches!(
        two,
        Err(ClusterError::ApplicationCount {
            expected: 1,
            actual: 2
        })
    ));
    wait_until("one node is a subnet", || {
        all_at(std::slice::from_ref(&only), 3)
    });
    cluster.shutdown().unwrap();
}
