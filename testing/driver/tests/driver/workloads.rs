//! A block's result is a function of the state and the block, on every number of threads.
use crate::support::wasm;
use lockstep_canister::engine::Engine;
use lockstep_driver::workload::{Outcome, Size, run};
use lockstep_subnet::execution::management::DEFAULT_CYCLES;
use std::num::{NonZeroU64, NonZeroUsize};

/// Runs workloads on 1, 2, 3 and 8 threads, some of which forget what they need not know.
fn compare(seeds: std::ops::Range<u64>, slice_instructions: Option<u64>) -> Option<Vec<Outcome>> {
    let wasm = wasm()?;
    let engine = Engine::new();
    let size = Size {
        canisters: 10..60,
        blocks: 4..9,
        messages: 5..40,
        slice_instructions: slice_instructions.and_then(NonZeroU64::new),
    };
    let outcomes = seeds.map(|seed| {
        let on = |threads, forgetful| {
            let threads = NonZeroUsize::new(threads).expect("not zero");
            run(seed, &size, engine.on_threads(threads), forgetful, wasm)
        };
        let expected = on(1, false);
        for (threads, forgetful) in [(2, true), (3, false), (8, true)] {
            let outcome = on(threads, forgetful);
            assert_eq!(outcome, expected, "seed {seed}, {threads} threads");
        }
        // Every canister is made with as many cycles, and none are made or lost later.
        let cycles = &expected.cycles;
        assert!(
            cycles.iter().all(|each| *each == DEFAULT_CYCLES),
            "seed {seed}: {cycles:?}"
        );
        expected
    });
    Some(outcomes.collect())
}

#[test]
fn every_number_of_threads_gives_the_same_roots() {
    let Some(outcomes) = compare(0..20, None) else {
        return;
    };
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let replied = sum(|outcome| outcome.replied);
    let rejected = sum(|outcome| outcome.rejected);
    let deployed = sum(|outcome| outcome.deployed);
    // Work that only fails, or never does, shows little.
    assert!(
        replied > 200 && rejected > 200 && deployed > 100,
        "{replied} {rejected} {deployed}"
    );
}

#[test]
fn long_messages_do_so_too() {
    let Some(outcomes) = compare(100..104, Some(30_000)) else {
        return;
    };
    let blocks: usize = outcomes.iter().map(|outcome| outcome.roots.len()).sum();
    let replied: usize = outcomes.iter().map(|outcome| outcome.replied).sum();
    // Most messages take many blocks.
    assert!(blocks > 200 && replied > 40, "{blocks} {replied}");
}
