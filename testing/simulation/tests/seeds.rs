//! Thirty seeds, and that a seed replays.
use lockstep_simulation::{Plan, run, run_well};

fn check(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let plan = Plan::of_seed(seed);
        let report = run_well(&plan);
        assert!(report.height > 0 && report.answers > 0, "{plan}");
    }
}

#[test]
fn seeds_0_to_9() {
    check(0..10);
}

#[test]
fn seeds_10_to_19() {
    check(10..20);
}

#[test]
fn seeds_20_to_29() {
    check(20..30);
}

#[test]
fn a_seed_replays() {
    let plan = Plan::of_seed(5);
    let first = run(&plan);
    assert_eq!(first, run(&plan));
    assert_ne!(first.history, run(&Plan::of_seed(6)).history);
}
