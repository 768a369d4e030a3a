//! Nodes that lost their state, or have a wrong one, take over that of others.
use lockstep_simulation::{Event, Fault, Plan, Report, run_well};
use lockstep_subnet::consensus::simulation::SimulatedLink;
use std::time::Duration;

/// Four nodes over links that lose nothing.
fn run_with(seed: u64, faulty: Vec<(usize, Fault)>, events: Vec<(u64, Event)>) -> Report {
    let events = events.into_iter();
    let plan = Plan {
        seed,
        nodes: 4,
        faulty,
        skew_ms: vec![0; 4],
        link: SimulatedLink {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(2),
            loss_percent: 0,
        },
        clients: 3,
        time: Duration::from_secs(40),
        events: events
            .map(|(second, event)| (Duration::from_secs(second), event))
            .collect(),
    };
    run_well(&plan)
}

/// A liar serves changed parts.
#[test]
fn a_node_without_anything_takes_over_a_checkpoint_when_the_chain_is_pruned() {
    let restart_after = Duration::from_secs(3);
    let wipe = Event::Wipe {
        node: 2,
        restart_after,
    };
    let report = run_with(1, vec![(0, Fault::Liar)], vec![(25, wipe)]);
    assert!(report.height > 100, "{}", report.height);
    assert!(report.incidents.restored >= 1);
    assert_eq!(report.divergences, [""; 0]);
}

#[test]
fn a_node_that_was_away_for_long_takes_over_a_checkpoint() {
    let restart_after = Duration::from_secs(25);
    let crash = Event::Crash {
        node: 1,
        restart_after,
    };
    let report = run_with(2, vec![], vec![(4, crash)]);
    assert!(report.incidents.restored >= 1);
}

#[test]
fn a_node_with_another_state_says_where_it_differs_and_goes_on_with_the_right_one() {
    let report = run_with(3, vec![], vec![(20, Event::Upset { node: 3 })]);
    assert!(report.incidents.restored >= 1);
    assert_eq!(report.divergences.len(), 1);
    let text = &report.divergences[0];
    assert!(text.contains("they differ first in "), "{text}");
}
