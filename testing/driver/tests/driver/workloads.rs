//! A block's result is a function of the state and the block, on every number of threads.
use crate::support::wasm;
use lockstep_canister::engine::Engine;
use lockstep_driver::workload::{Size, run};
use lockstep_subnet::execution::management::DEFAULT_CYCLES;
use std::num::NonZeroUsize;

#[test]
fn every_number_of_threads_gives_the_same_roots() {
    let Some(wasm) = wasm() else { return };
    let engine = Engine::new();
    let size = Size {
        canisters: 10..60,
        blocks: 4..9,
        messages: 5..40,
    };
    let (mut replied, mut rejected, mut deployed) = (0, 0, 0);
    for seed in 0..20 {
        let on = |threads| {
            let threads = NonZeroUsize::new(threads).expect("not zero");
            run(seed, &size, engine.on_threads(threads), wasm)
        };
        let expected = on(1);
        for threads in [2, 3, 8] {
            assert_eq!(on(threads), expected, "seed {seed}, {threads} threads");
        }
        // Every canister is made with as many cycles, and none are made or lost later.
        let cycles = &expected.cycles;
        assert!(
            cycles.iter().all(|each| *each == DEFAULT_CYCLES),
            "seed {seed}: {cycles:?}"
        );
        replied += expected.replied;
        rejected += expected.rejected;
        deployed += expected.deployed;
    }
    // Work that only fails, or never does, shows little.
    assert!(
        replied > 200 && rejected > 200 && deployed > 100,
        "{replied} {rejected} {deployed}"
    );
}
