//! Seven nodes, two of them Byzantine: each of these has a twin, and both lie. Then the five honest ones alone.
use crate::{
    fleet::{Fleet, wait},
    load::{Ledger, alone, ledger_wasm},
    twins::Twins,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::runtime::Runtime;

const NODES: usize = 7;
const HONEST: usize = 5;
/// With these halves of the honest nodes, one after the other; the others make the other half.
const HALVES: [&[usize]; 3] = [&[0, 1, 2], &[2, 3], &[0, 1, 2, 3]];
/// Transfers that must succeed with each.
const TRANSFERS: u64 = 25;
/// Transfers that must succeed when the Byzantine nodes have gone.
const TRANSFERS_AFTER: u64 = 20;
/// Transfers between two looks at the nodes.
const STEP: u64 = 10;
/// Looks after which all lies must have been told.
const STEPS_MAX: usize = 20;

/// Blocks and roots that honest nodes have told of, by height.
#[derive(Debug, Default)]
struct Seen {
    blocks: BTreeMap<u64, (Value, Value)>,
    nodes: BTreeMap<u64, BTreeSet<usize>>,
}

impl Seen {
    /// Compares the last blocks of all honest nodes.
    fn look(&mut self, fleet: &Fleet) {
        for node in 0..HONEST {
            let blocks = wait("it answers", || fleet.ask(node, "blocks?limit=128"));
            for block in blocks.as_array().expect("an array") {
                let height = block["height"].as_u64().expect("a number");
                let told = (block["digest"].clone(), block["root"].clone());
                let known = self.blocks.entry(height).or_insert_with(|| told.clone());
                assert_eq!(known, &told, "node {node} at height {height}");
                self.nodes.entry(height).or_default().insert(node);
            }
        }
    }

    /// How many heights all of them have told of.
    fn common(&self) -> usize {
        let nodes = self.nodes.values();
        nodes.filter(|nodes| nodes.len() == HONEST).count()
    }
}

#[test]
fn two_of_seven_lie_to_each_half_of_the_others() {
    let Some(wasm) = ledger_wasm() else { return };
    let _alone = alone();
    let runtime = Runtime::new().expect("a runtime");
    let fleet = Arc::new(Fleet::deal(NODES, HONEST));
    let mut twins = Twins::of(&fleet);
    let mut seen = Seen::default();
    twins.part(HALVES[0]);
    fleet.start_all();
    let ledger = runtime.block_on(Ledger::install(&fleet, &wasm));
    let clients = runtime.block_on(ledger.load());
    for (phase, left) in HALVES.into_iter().enumerate() {
        if phase > 0 {
            twins.part(left);
        }
        let goal = ledger.acknowledged() + TRANSFERS;
        while ledger.acknowledged() < goal {
            runtime.block_on(ledger.progress(STEP));
            seen.look(&fleet);
        }
        eprintln!(
            "{} transfers, height {}; {}; twins at {:?}",
            ledger.acknowledged(),
            fleet.assert_one_root(),
            twins.lies(),
            twins.heights()
        );
        seen.look(&fleet);
    }
    // What they do is chance in part: a run in which they have not lied in every way proves less.
    for _ in 0..STEPS_MAX {
        if twins.lies().all_told() {
            break;
        }
        runtime.block_on(ledger.progress(STEP));
        seen.look(&fleet);
    }
    let byzantine = ledger.acknowledged();
    twins.stop();
    runtime.block_on(ledger.progress(TRANSFERS_AFTER));
    runtime.block_on(ledger.finish(clients));
    runtime.block_on(ledger.check());
    fleet.assert_all_run();

    let height = fleet.assert_one_root();
    seen.look(&fleet);
    assert!(seen.common() > 0);
    wait("all honest nodes have certificates", || {
        let mut nodes = 0..HONEST;
        let is_certified = |node| fleet.ask(node, "status")?["certified_height"].as_u64();
        nodes
            .all(|node| is_certified(node).is_some_and(|certified| certified >= height))
            .then_some(())
    });
    for node in 0..HONEST {
        let status = wait("it answers", || fleet.ask(node, "status"));
        assert_eq!(status["divergence"], Value::Null, "node {node}");
    }
    let lies = twins.lies();
    assert!(lies.all_told(), "{lies}");
    eprintln!(
        "{byzantine} transfers with Byzantine nodes and {} without, one root at each of {} heights of {height}; {lies}",
        ledger.acknowledged() - byzantine,
        seen.common()
    );
}
