//! Nodes come and go, in virtual time.
use crate::{
    simulation::{all_at, assert_agreement, config, toy, wait_until},
    toy::Toy,
};
use lockstep_subnet::{
    application::{Application as _, SWITCH_DELAY},
    consensus::{
        Standing,
        genesis::Genesis,
        simulation::{SimulationConfig, World, simulate},
    },
};
use std::{sync::Arc, time::Duration};

/// Four nodes at first; each further epoch keeps some of the one before and has some new ones.
fn changing(seed: u64, steps: &[(&[usize], u16)]) -> SimulationConfig {
    let base = config(seed, 4, 3);
    let mut later: Vec<Genesis> = Vec::new();
    for (number, (stay, joining)) in (1..).zip(steps) {
        let before = later.last().unwrap_or(&base.genesis);
        later.push(before.next_epoch(stay, *joining, &[number; 32]).unwrap());
    }
    SimulationConfig { later, ..base }
}

async fn start(world: &mut World, toys: &mut Vec<Arc<Toy>>, nodes: std::ops::Range<usize>) {
    for index in nodes {
        toys.push(toy(world));
        world.start_node(index, toys[index].clone()).await;
    }
}

/// The first height of the last epoch that is ordered.
fn begins(toy: &Toy) -> Option<u64> {
    toy.epochs().last().map(|epoch| epoch.first_height)
}

#[test]
fn nodes_join_and_leave_and_the_key_stays() {
    // One of four leaves, two join.
    simulate(changing(1, &[(&[0, 1, 2], 2)]), async |mut world| {
        let mut toys = Vec::new();
        start(&mut world, &mut toys, 0..4).await;
        wait_until(&world, || all_at(&toys, 10)).await;
        assert!(
            toys.iter().all(|toy| begins(toy).is_none()),
            "nobody wants another epoch yet"
        );
        world.install_next();
        start(&mut world, &mut toys, 4..6).await;
        wait_until(&world, || begins(&toys[0]).is_some()).await;
        let first = begins(&toys[0]).unwrap();
        let staying: Vec<_> = [0, 1, 2, 4, 5]
            .map(|index: usize| toys[index].clone())
            .into();
        wait_until(&world, || all_at(&staying, first as usize + 30)).await;
        assert_agreement(&toys);
        assert!(toys.iter().all(|toy| begins(toy) == Some(first)));
        for toy in &staying {
            toy.check_certificates(&world.genesis().subnet.public_key());
        }
        // Who has left knows all blocks that it had a part in.
        assert!(toys[3].roots().len() as u64 >= first - 1);
        let standing = |index| world.node(index).unwrap().standing();
        assert_eq!(standing(3), Standing::Outside { epoch: 1 });
        assert_eq!([0, 4].map(standing), [Standing::Member; 2]);
        // Without it the new nodes are needed: three of five are no quorum.
        world.stop_node(3).await;
        world.stop_node(0).await;
        let others = staying[1..].to_vec();
        let height = toys[1].roots().len() + 10;
        wait_until(&world, || all_at(&others, height)).await;
        assert_agreement(&toys);
    });
}

#[test]
fn a_node_that_was_away_when_an_epoch_ended_comes_back() {
    simulate(changing(2, &[(&[0, 1, 2, 3], 0)]), async |mut world| {
        let mut toys = Vec::new();
        start(&mut world, &mut toys, 0..4).await;
        wait_until(&world, || all_at(&toys, 10)).await;
        world.stop_node(2).await;
        world.install_next();
        let others = [0, 1, 3].map(|index: usize| toys[index].clone());
        wait_until(&world, || begins(&toys[0]).is_some()).await;
        let first = begins(&toys[0]).unwrap() as usize;
        wait_until(&world, || all_at(&others, first + 30)).await;
        // It knows nothing of the epoch but the files.
        assert!(toys[2].roots().len() < first - SWITCH_DELAY as usize);
        world.start_node(2, toys[2].clone()).await;
        wait_until(&world, || all_at(&toys, first + 60)).await;
        assert_agreement(&toys);
        // And takes part: the others are too few without it.
        world.stop_node(1).await;
        let height = toys[0].roots().len() + 10;
        let others = [0, 2, 3].map(|index: usize| toys[index].clone());
        wait_until(&world, || all_at(&others, height)).await;
    });
}

#[test]
fn one_node_after_the_other_is_replaced() {
    let keep: &[usize] = &[1, 2, 3];
    let steps = [(keep, 1), (&[0, 2, 3], 1), (&[0, 1, 2], 1), (&[0, 1, 3], 1)];
    simulate(changing(3, &steps), async |mut world| {
        let mut toys = Vec::new();
        start(&mut world, &mut toys, 0..4).await;
        for epoch in 1..=4 {
            world.install_next();
            start(&mut world, &mut toys, epoch + 3..epoch + 4).await;
            let last = toys.len() - 1;
            let has_begun = |toy: &Toy| {
                let height = toy.roots().len() as u64;
                let epochs = toy.epochs();
                epochs
                    .at(height)
                    .is_some_and(|now| now.number == epoch as u64)
            };
            wait_until(&world, || has_begun(&toys[last])).await;
            let height = toys[last].roots().len() as u64 + 5;
            wait_until(&world, || toys[last].certified_height() > height).await;
        }
        assert_agreement(&toys);
        for toy in &toys {
            toy.check_certificates(&world.genesis().subnet.public_key());
        }
    });
}

#[test]
fn a_new_version_begins_when_a_quorum_wants_it() {
    simulate(changing(4, &[]), async |mut world| {
        let mut toys = Vec::new();
        start(&mut world, &mut toys, 0..4).await;
        world.upgrade_to(2);
        for index in 0..3 {
            wait_until(&world, || all_at(&toys, 10 * (index + 1))).await;
            assert!(
                toys.iter().all(|toy| begins(toy).is_none()),
                "{index} want it"
            );
            world.stop_node(index).await;
            world.start_node(index, toys[index].clone()).await;
        }
        wait_until(&world, || begins(&toys[3]).is_some()).await;
        let first = begins(&toys[3]).unwrap() as usize;
        wait_until(&world, || all_at(&toys, first + 20)).await;
        assert_agreement(&toys);
        assert!(toys.iter().all(|toy| toy.protocol_version() == 2));
    });
}

#[test]
fn an_epoch_that_is_ordered_while_nothing_becomes_final_stops_nothing() {
    simulate(changing(5, &[(&[0, 1, 2, 3], 0)]), async |mut world| {
        let mut toys = Vec::new();
        world.withhold_finality(false);
        start(&mut world, &mut toys, 0..4).await;
        wait_until(&world, || all_at(&toys, 10)).await;
        world.withhold_finality(true);
        world.install_next();
        // Long enough that blocks are notarized up to the last one that may be.
        world.clock().sleep(Duration::from_secs(30)).await;
        let stopped_at = toys[0].roots().len();
        assert!(toys.iter().all(|toy| begins(toy).is_none()));
        world.withhold_finality(false);
        wait_until(&world, || all_at(&toys, stopped_at + 50)).await;
        assert_agreement(&toys);
        let first = begins(&toys[0]).unwrap();
        assert!(
            first as usize > stopped_at + SWITCH_DELAY as usize,
            "it was ordered by a block that was not final for long"
        );
    });
}
