//! Nodes come and go under load, by the files of a ceremony; then the protocol is upgraded.
use crate::{
    fleet::{Fleet, free_port, lockstep, wait},
    load::{Ledger, alone, ledger_wasm},
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::runtime::Runtime;

/// Who leaves, and who joins in its place.
const LEAVES: usize = 3;
const JOINS: usize = 4;
/// The nodes of the second epoch.
const AFTER: [usize; 4] = [0, 1, 2, JOINS];
const OLD_PROTOCOL: &str = "5";
const NEW_PROTOCOL: &str = "6";

/// The operators of a ceremony, each with a directory.
struct Operators(Vec<PathBuf>);

impl Operators {
    fn step<A: AsRef<OsStr>>(&self, operator: usize, arguments: &[A]) -> String {
        let output = lockstep(&self.0[operator])
            .arg("ceremony")
            .args(arguments)
            .current_dir(&self.0[operator])
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "operator {operator}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Carries the files whose names begin so from everybody to all others.
    fn carry(&self, begin: &str) {
        for from in &self.0 {
            let files = fs::read_dir(from.join("ceremony")).expect("it has begun");
            for file in files.map(|file| file.expect("a file").path()) {
                let name = file.file_name().expect("it has a name");
                if !name.to_string_lossy().starts_with(begin) {
                    continue;
                }
                for to in self.0.iter().filter(|to| *to != from) {
                    fs::copy(&file, to.join("ceremony").join(name)).expect("it is copied");
                }
            }
        }
    }
}

/// Everything up to the folders that operators install.
fn hold(fleet: &Fleet, directory: &Path) -> Operators {
    let operators = (0..fleet.count()).map(|index| directory.join(index.to_string()));
    let operators = Operators(operators.collect());
    let genesis = fleet.genesis();
    let before = genesis.join("subnet.json");
    let before = before.to_str().expect("text");
    for index in 0..fleet.count() {
        fs::create_dir(&operators.0[index]).expect("it is new");
        let keys = genesis.join(format!("node-{index}.json"));
        let keys = keys.to_str().expect("text");
        match index {
            JOINS => {
                let address = format!("127.0.0.1:{}", free_port());
                operators.step(index, &["join", "--address", &address])
            }
            LEAVES => operators.step(index, &["leave", "--keys", keys, "--before", before]),
            _ => operators.step(index, &["stay", "--keys", keys, "--before", before]),
        };
    }
    operators.carry("entry-");
    for index in 0..fleet.count() {
        operators.step(index, &["deal", "--before", before]);
    }
    operators.carry("dealing-");
    for index in AFTER {
        operators.step(index, &["acknowledge"]);
    }
    operators.carry("acknowledgement-");
    for index in 0..JOINS {
        operators.step(index, &["conclude"]);
    }
    operators.carry("log-");
    let said = (0..fleet.count()).map(|index| operators.step(index, &["finish"]));
    let said: Vec<String> = said.collect();
    assert!(said[0].starts_with("epoch    1\nmembers  "), "{}", said[0]);
    assert!(said.iter().all(|other| *other == said[0]));
    operators
}

/// Moves what an operator has made to where its node looks for it.
fn install(fleet: &Fleet, operators: &Operators, index: usize) {
    let epochs = fleet.directory(index).join("epochs");
    fs::create_dir_all(&epochs).expect("it is made");
    let made = operators.0[index].join("ceremony/epochs/1");
    fs::rename(made, epochs.join("1")).expect("it is moved");
}

/// What the nodes say of something.
fn all_say(fleet: &Fleet, nodes: &[usize], what: &str, expected: u64) {
    wait(&format!("{what} {expected} at nodes {nodes:?}"), || {
        let mut nodes = nodes.iter();
        let said = |node| fleet.ask(node, "status")?[what].as_u64();
        nodes
            .all(|node| said(*node) == Some(expected))
            .then_some(())
    });
}

#[test]
fn a_node_is_replaced_and_the_protocol_upgraded_under_load() {
    let Some(wasm) = ledger_wasm() else { return };
    let _alone = alone();
    let runtime = Runtime::new().expect("a runtime");
    let options = ["--protocol-version", OLD_PROTOCOL];
    let fleet = Arc::new(Fleet::deal_with(4, 5, &options));
    for index in 0..4 {
        fleet.launch(index);
    }
    for index in 0..4 {
        fleet.wait_until_ready(index);
    }
    let ledger = runtime.block_on(Ledger::install(&fleet, &wasm));
    let clients = runtime.block_on(ledger.load());
    let directory = tempfile::tempdir().expect("a directory");
    let operators = hold(&fleet, directory.path());

    // It fetches the state as soon as the others know of it.
    install(&fleet, &operators, JOINS);
    fleet.launch(JOINS);
    install(&fleet, &operators, 0);
    install(&fleet, &operators, 1);
    wait("a node votes for the epoch", || {
        fleet.log(1).contains("epoch 1 is installed").then_some(())
    });
    runtime.block_on(ledger.progress(10));
    all_say(&fleet, &[0, 1, 2, 3], "epoch", 0);
    install(&fleet, &operators, 2);
    install(&fleet, &operators, LEAVES);
    all_say(&fleet, &[0, 1, 2], "epoch", 1);
    fleet.wait_until_ready(JOINS);
    all_say(&fleet, &AFTER, "epoch", 1);
    wait("who left says so", || {
        let log = fleet.log(LEAVES);
        log.contains("is none of those of epoch 1").then_some(())
    });
    assert!(fleet.terminate(LEAVES).success());
    runtime.block_on(ledger.progress(10));
    // The new one is needed now.
    fleet.kill(0);
    runtime.block_on(ledger.progress(10));
    fleet.launch(0);
    fleet.wait_until_ready(0);

    for index in AFTER {
        all_say(
            &fleet,
            &AFTER,
            "protocol_version",
            OLD_PROTOCOL.parse().expect("a number"),
        );
        assert!(fleet.terminate(index).success());
        fleet.launch_with(index, &["--upgrade-to", NEW_PROTOCOL]);
        fleet.wait_until_ready(index);
        if index == AFTER[2] {
            break;
        }
    }
    all_say(
        &fleet,
        &AFTER,
        "protocol_version",
        NEW_PROTOCOL.parse().expect("a number"),
    );
    all_say(&fleet, &AFTER, "epoch", 2);
    runtime.block_on(ledger.progress(10));

    runtime.block_on(ledger.finish(clients));
    runtime.block_on(ledger.check_at_all(&AFTER));
    eprintln!("{} transfers", ledger.acknowledged());
}
