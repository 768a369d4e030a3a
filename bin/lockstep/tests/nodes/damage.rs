//! Files of a stopped node in which bits have changed.
use crate::{
    fleet::{Fleet, wait},
    load::{Ledger, alone, ledger_wasm, memo},
};
use std::{fs, path::Path, sync::Arc};
use tokio::runtime::Runtime;

/// Changes a bit wherever `pattern` stands in the files below `path`; says how often it did.
fn flip(path: &Path, pattern: &[u8]) -> usize {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("it can be read");
        return entries
            .map(|entry| flip(&entry.expect("it can be read").path(), pattern))
            .sum();
    }
    let mut bytes = fs::read(path).expect("it can be read");
    let places: Vec<usize> = bytes
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, window)| *window == pattern)
        .map(|(place, _)| place)
        .collect();
    for place in &places {
        bytes[place + pattern.len() / 2] ^= 1;
    }
    if !places.is_empty() {
        fs::write(path, bytes).expect("it can be written");
    }
    places.len()
}

#[test]
fn a_damaged_node_says_so_and_is_repaired_by_its_peers() {
    let Some(wasm) = ledger_wasm() else { return };
    let _alone = alone();
    let runtime = Runtime::new().expect("a runtime");
    let fleet = Arc::new(Fleet::start());
    let ledger = runtime.block_on(Ledger::install(&fleet, &wasm));
    let clients = runtime.block_on(ledger.load());
    runtime.block_on(ledger.progress(20));

    // The state: the node does not start with it.
    let node = 2;
    assert!(fleet.terminate(node).success());
    assert!(fleet.log(node).contains("stopping at height"));
    let state = fleet.directory(node).join("state.redb");
    let middle = wasm.len() / 2;
    assert!(flip(&state, &wasm[middle..middle + 64]) > 0);
    fleet.launch(node);
    assert_eq!(fleet.wait_for_end(node).code(), Some(3));
    let log = fleet.log(node);
    assert!(log.contains("error: state store "), "{log}");
    assert!(log.contains("hint: if the file is damaged, move "), "{log}");
    runtime.block_on(ledger.progress(5));
    // Without it, it executes its chain again.
    fs::rename(&state, state.with_extension("damaged")).expect("it is there");
    fleet.launch(node);
    fleet.wait_until_ready(node);

    // The chain, and the state too, so that the node needs what is damaged. Depending on where it is, the engine ends
    // when it reads it, or takes it for what a crash has torn and does without.
    let node = 3;
    fleet.kill(node);
    assert!(flip(&fleet.directory(node).join("chain"), &memo(1, 3)) > 0);
    fs::remove_file(fleet.directory(node).join("state.redb")).expect("it is there");
    fleet.launch(node);
    wait("the damage is found", || {
        let log = fleet.log(node);
        let told = ["failed to get block", "the chain lacks block"];
        told.iter().any(|told| log.contains(told)).then_some(())
    });
    fleet.kill(node);
    runtime.block_on(ledger.progress(5));
    // Without both it fetches the chain.
    fs::remove_dir_all(fleet.directory(node)).expect("it is there");
    fleet.launch(node);
    fleet.wait_until_ready(node);

    runtime.block_on(ledger.finish(clients));
    fleet.assert_one_root();
    runtime.block_on(ledger.check());
}
