//! Nodes that are killed where they stand, and one that loses its disk.
use crate::{
    fleet::{Fleet, NODES},
    load::{Ledger, alone, ledger_wasm},
};
use lockstep_simulation::Random;
use std::{fs, sync::Arc};
use tokio::runtime::Runtime;

const SEED: u64 = 20_261_126;
const KILLS: usize = 4;

#[test]
fn nothing_acknowledged_is_lost_or_done_twice() {
    let Some(wasm) = ledger_wasm() else { return };
    let _alone = alone();
    let runtime = Runtime::new().expect("a runtime");
    let fleet = Arc::new(Fleet::start());
    let ledger = runtime.block_on(Ledger::install(&fleet, &wasm));
    let clients = runtime.block_on(ledger.load());
    // Which node falls, and how much is done before it does.
    let mut choices = Random::new(SEED, 0);

    for _ in 0..KILLS {
        runtime.block_on(ledger.progress(choices.below(20) as u64));
        let node = choices.below(NODES);
        fleet.kill(node);
        // Three of four go on without it.
        runtime.block_on(ledger.progress(1 + choices.below(20) as u64));
        fleet.launch(node);
        fleet.wait_until_ready(node);
    }

    // All that a node had is gone but its keys: it fetches the chain and executes it.
    let node = choices.below(NODES);
    fleet.kill(node);
    fs::remove_dir_all(fleet.directory(node)).expect("it is there");
    runtime.block_on(ledger.progress(10));
    fleet.launch(node);
    fleet.wait_until_ready(node);
    runtime.block_on(ledger.progress(10));

    // All at once.
    for node in 0..NODES {
        fleet.kill(node);
    }
    for node in 0..NODES {
        fleet.launch(node);
    }
    for node in 0..NODES {
        fleet.wait_until_ready(node);
    }
    runtime.block_on(ledger.progress(10));

    runtime.block_on(ledger.finish(clients));
    let height = fleet.assert_one_root();
    runtime.block_on(ledger.check());
    eprintln!(
        "{} transfers, one root at height {height}",
        ledger.acknowledged()
    );
}
