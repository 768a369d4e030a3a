//! In virtual time, replayed from seeds.
use crate::toy::{Idle, Toy};
use bytes::Bytes;
use lockstep_subnet::consensus::{
    genesis::Genesis,
    simulation::{SimulatedLink, SimulationConfig, World, simulate},
};
use std::{sync::Arc, time::Duration};

const IDLE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);

pub(crate) fn config(seed: u64, node_count: u32, loss_percent: u8) -> SimulationConfig {
    SimulationConfig {
        seed,
        genesis: Genesis::deal(node_count, &[1; 32]).unwrap(),
        later: Vec::new(),
        link: SimulatedLink {
            latency: Duration::from_millis(20),
            jitter: Duration::from_millis(5),
            loss_percent,
        },
        time_max: Duration::from_secs(600),
        nodes_may_fail: false,
    }
}

pub(crate) fn toy(world: &World) -> Arc<Toy> {
    Arc::new(Toy::volatile(Idle::Simulated(world.clock(), IDLE)))
}

pub(crate) async fn wait_until(world: &World, reached: impl Fn() -> bool) {
    let clock = world.clock();
    while !reached() {
        clock.sleep(POLL).await;
    }
}

pub(crate) fn all_at(toys: &[Arc<Toy>], height: usize) -> bool {
    toys.iter()
        .all(|toy| toy.roots().len() >= height && toy.certified_height() >= height as u64)
}

pub(crate) fn assert_agreement(toys: &[Arc<Toy>]) {
    let first = toys[0].roots();
    for toy in toys {
        for (index, (own, other)) in first.iter().zip(toy.roots()).enumerate() {
            assert_eq!(*own, other, "root after height {}", index + 1);
        }
    }
}

/// Three of four nodes over links that lose a tenth: what they end with.
fn lossy_run(seed: u64) -> (Vec<Vec<[u8; 32]>>, String) {
    simulate(config(seed, 4, 10), async |mut world| {
        let mut toys = Vec::new();
        for index in 0..3 {
            toys.push(toy(&world));
            let handle = world.start_node(index, toys[index].clone()).await;
            handle
                .gossip()
                .send(Bytes::from(format!("message {index}")))
                .unwrap();
        }
        wait_until(&world, || all_at(&toys, 20)).await;
        assert_agreement(&toys);
        for toy in &toys {
            toy.check_certificates(&world.genesis().subnet.public_key());
        }
        (
            toys.iter().map(|toy| toy.roots()).collect(),
            world.history_checksum(),
        )
    })
}

#[test]
fn three_of_four_nodes_agree_over_lossy_links_and_a_seed_replays() {
    let first = lossy_run(1);
    assert_eq!(first, lossy_run(1));
    assert_ne!(first.0, lossy_run(2).0);
}

#[test]
fn gossiped_messages_are_ordered_everywhere() {
    simulate(config(3, 4, 0), async |mut world| {
        let mut toys = Vec::new();
        let mut handles = Vec::new();
        for index in 0..4 {
            toys.push(toy(&world));
            handles.push(world.start_node(index, toys[index].clone()).await);
        }
        for (index, handle) in handles.iter().enumerate() {
            handle
                .gossip()
                .send(Bytes::from(format!("message {index}")))
                .unwrap();
        }
        wait_until(&world, || toys.iter().all(|toy| toy.ordered().len() == 4)).await;
        for toy in &toys {
            assert_eq!(toy.ordered(), toys[0].ordered());
        }
    });
}

#[test]
fn a_stopped_node_catches_up_and_certifies_again() {
    simulate(config(4, 4, 5), async |mut world| {
        let mut toys = Vec::new();
        for index in 0..4 {
            toys.push(toy(&world));
            world.start_node(index, toys[index].clone()).await;
        }
        wait_until(&world, || all_at(&toys, 10)).await;
        world.stop_node(2).await;
        let stopped_at = toys[2].roots().len();
        let others = [toys[0].clone(), toys[1].clone(), toys[3].clone()];
        wait_until(&world, || all_at(&others, stopped_at + 40)).await;

        let before = toys[2].executions();
        world.start_node(2, toys[2].clone()).await;
        let target = toys[0].roots().len() + 10;
        wait_until(&world, || all_at(&toys, target)).await;
        assert_agreement(&toys);
        let grown = toys[2].roots().len() - stopped_at;
        assert_eq!(
            toys[2].executions() - before,
            grown as u64,
            "no block is executed twice"
        );
        let public_key = world.genesis().subnet.public_key();
        toys[2].check_certificates(&public_key);
        for toy in &toys {
            assert!(toy.check_beacons(&public_key) >= toy.roots().len() / 10 - 1);
        }
    });
}

#[test]
fn a_node_whose_state_is_lost_replays_its_archive() {
    simulate(config(5, 4, 0), async |mut world| {
        let mut toys = Vec::new();
        for index in 0..4 {
            toys.push(toy(&world));
            world.start_node(index, toys[index].clone()).await;
        }
        wait_until(&world, || all_at(&toys, 30)).await;
        world.stop_node(1).await;
        toys[1] = toy(&world);
        world.start_node(1, toys[1].clone()).await;
        let target = toys[0].roots().len() + 10;
        wait_until(&world, || all_at(&toys, target)).await;
        assert_agreement(&toys);
    });
}

#[test]
fn all_nodes_stop_and_go_on() {
    simulate(config(6, 4, 0), async |mut world| {
        let mut toys = Vec::new();
        for index in 0..4 {
            toys.push(toy(&world));
            world.start_node(index, toys[index].clone()).await;
        }
        wait_until(&world, || all_at(&toys, 12)).await;
        for index in 0..4 {
            world.stop_node(index).await;
        }
        let target = toys.iter().map(|toy| toy.roots().len()).max().unwrap() + 20;
        for (index, toy) in toys.iter().enumerate() {
            world.start_node(index, toy.clone()).await;
        }
        wait_until(&world, || all_at(&toys, target)).await;
        assert_agreement(&toys);
        for toy in &toys {
            toy.check_certificates(&world.genesis().subnet.public_key());
        }
    });
}

/// Three of four, so that every certificate needs a share of each; restarted in turn while messages are lost, so that
/// now and then one of them has a certificate that the others lack.
#[test]
fn certificates_go_on_after_restarts_over_lossy_links() {
    for seed in 20..28 {
        simulate(config(seed, 4, 10), async |mut world| {
            let mut toys = Vec::new();
            for index in 0..3 {
                toys.push(toy(&world));
                world.start_node(index, toys[index].clone()).await;
            }
            for turn in 0..12 {
                let target = toys[0].roots().len() + 3;
                wait_until(&world, || toys[0].roots().len() >= target).await;
                let index = turn % 3;
                world.stop_node(index).await;
                world.start_node(index, toys[index].clone()).await;
            }
            let target = toys[0].roots().len() + 25;
            wait_until(&world, || all_at(&toys, target)).await;
        });
    }
}

#[test]
fn one_node_is_a_subnet() {
    simulate(config(7, 1, 0), async |mut world| {
        let toys = [toy(&world)];
        world.start_node(0, toys[0].clone()).await;
        wait_until(&world, || all_at(&toys, 10)).await;
        toys[0].check_certificates(&world.genesis().subnet.public_key());
    });
}
