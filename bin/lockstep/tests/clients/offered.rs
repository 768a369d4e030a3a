//! Calls as the benchmark offers them: at a rate, whatever became of those before.
use crate::support::counter;
use lockstep_bench_subnet::{
    counter::Counter,
    load::{Offer, step},
    process::Subnet,
};
use std::{fs, path::Path, time::Duration};
use tokio::runtime::Runtime;

#[test]
fn every_accepted_call_is_executed_once_and_none_is_lost() {
    let Some(wasm) = counter() else { return };
    let wasm = fs::read(wasm).expect("it was just built");
    let directory = tempfile::tempdir().expect("a folder can be made");
    let program = Path::new(env!("CARGO_BIN_EXE_lockstep"));
    let runtime = Runtime::new().expect("a runtime");
    let step = runtime.block_on(async {
        let subnet = Subnet::up(program, directory.path(), 4).expect("a network");
        let counter = Counter::install(&subnet, &wasm).await.expect("a counter");
        let offer = Offer {
            rate: 50.0,
            duration: Duration::from_secs(2),
            connections: 100,
        };
        step(&subnet, &counter, offer)
            .await
            .expect("it is answered")
    });
    assert_eq!((step.sent, step.refused, step.lost), (100, 0, 0));
    assert_eq!((step.accepted, step.executed), (100, 100));
}
