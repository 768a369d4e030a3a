//! Runs random workloads with hundreds of canisters on 1, 2, 3 and 8 threads and compares their roots.
//!
//! `workloads MODULE [FIRST [COUNT]]`: MODULE is the Wasm of `lockstep-hostile`, FIRST the first seed (0),
//! COUNT how many (1,000).
// How long it takes is shown while it runs.
#![allow(clippy::disallowed_methods)]

use lockstep_canister::engine::Engine;
use lockstep_driver::workload::{Size, run};
use std::{num::NonZeroUsize, process::ExitCode, time::Instant};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let wasm = arguments.next().map(std::fs::read);
    let Some(Ok(wasm)) = wasm else {
        eprintln!("usage: workloads MODULE [FIRST [COUNT]]");
        return ExitCode::from(2);
    };
    let mut number = |otherwise| {
        arguments
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(otherwise)
    };
    let (first, count): (u64, u64) = (number(0), number(1_000));
    let size = Size {
        canisters: 100..300,
        blocks: 5..10,
        messages: 20..120,
        slice_instructions: None,
    };
    let engine = Engine::new();
    let begun = Instant::now();
    let (mut blocks, mut replied, mut rejected, mut deployed) = (0, 0, 0, 0);
    for seed in first..first + count {
        let mut expected = None;
        for threads in [1, 2, 3, 8] {
            let threads = NonZeroUsize::new(threads).expect("not zero");
            let outcome = run(seed, &size, engine.on_threads(threads), false, &wasm);
            match &expected {
                None => expected = Some(outcome),
                Some(expected) if *expected == outcome => {}
                Some(_) => {
                    println!("seed {seed}: {threads} threads give other roots than one");
                    return ExitCode::FAILURE;
                }
            }
        }
        let outcome = expected.expect("it ran on one thread");
        blocks += outcome.roots.len();
        replied += outcome.replied;
        rejected += outcome.rejected;
        deployed += outcome.deployed;
        if (seed + 1 - first).is_multiple_of(10) {
            eprintln!(
                "{} workloads, {:.0} s",
                seed + 1 - first,
                begun.elapsed().as_secs_f64()
            );
        }
    }
    println!(
        "{count} workloads from seed {first}: {blocks} blocks, {replied} calls replied to ({deployed} of them deploy code) and {rejected} rejected; equal roots on 1, 2, 3 and 8 threads"
    );
    ExitCode::SUCCESS
}
