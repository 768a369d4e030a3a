//! A replica that stops in the middle of a generation, on the real model.

use super::*;
use crate::{
    client::{self, Llm},
    embedded, pull,
    run::open,
    store::Store,
};
use std::{
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(120);

/// Polls until `done`; fails after a generous limit, which guards the test run and judges nothing.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            PATIENCE.as_secs()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn generated(network: &Network, index: usize) -> usize {
    let executed = network.replica(index).unwrap().executed();
    executed
        .state
        .sessions
        .sessions
        .values()
        .next()
        .map_or(0, |session| session.progress.tokens.len())
}

#[test]
fn a_replica_killed_during_a_generation_catches_up_to_the_same_root() {
    pull::fetch(&Store::open().unwrap(), &pull::SMOLLM2, None).unwrap();
    let model = open(pull::SMOLLM2.alias).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let models = vec![("smollm2".to_owned(), Arc::clone(&model))];
    let options = Options {
        replicas: 4,
        port: 0,
        models,
        diverse: true,
    };
    let mut network = Network::start(Directory::take(directory.path()).unwrap(), options).unwrap();
    let url = network.url(0).unwrap().to_owned();
    let (llm, job) = network.runtime().block_on(async {
        let agent = client::connect(&url).await.unwrap();
        let llm = Llm::install(agent, embedded::LLM_WASM, "smollm2", 64)
            .await
            .unwrap();
        let job = llm.ask("Why is the sky blue?").await.unwrap();
        (llm, job)
    });

    wait("some tokens", || generated(&network, 3) >= 8);
    network.stop_replica(3).unwrap();
    let stopped_at = generated(&network, 0);
    assert!(
        stopped_at < 64,
        "the generation was over before the replica stopped"
    );
    wait("the others go on", || {
        generated(&network, 0) >= stopped_at + 8
    });
    network.start_replica(3).unwrap();

    let reading = network.runtime().block_on(llm.follow(job, |_| ())).unwrap();
    let (answer, _) = network.runtime().block_on(llm.result(job)).unwrap();
    assert_eq!(answer.text, reading.text);
    let height = network.replica(0).unwrap().executed().state.height;
    wait("all replicas get there, the restarted one too", || {
        (0..4).all(|index| network.replica(index).unwrap().executed().state.height >= height)
    });
    network.check().unwrap();
    let root = |index: usize| {
        use lockstep_subnet::application::Application;
        network.replica(index).unwrap().root(height)
    };
    assert!(root(0).is_some(), "the root at height {height} is known");
    for index in 1..4 {
        assert_eq!(root(index), root(0), "replica {index} at height {height}");
    }
    let executed = network.replica(3).unwrap().executed();
    let session = executed.state.sessions.sessions.values().next().unwrap();
    assert_eq!(session.progress.chain.as_slice(), answer.digest);
    wait("it is certified again", || {
        network.replica(3).unwrap().certified_height() >= height
    });

    // And the answer is the one of a single machine.
    let request = lockstep_canister::session::GenerationRequest {
        prompt: "Why is the sky blue?".to_owned(),
        seed: 0,
        temperature_milli: 0,
    };
    let alone =
        resident::transcript(&model, network.replica_kernels(0).unwrap(), &request, 64).unwrap();
    assert_eq!(alone.steps.last().unwrap().link.0.as_slice(), answer.digest);
}
