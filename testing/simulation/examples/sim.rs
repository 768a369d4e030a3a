//! `sim [FIRST [COUNT [NODES]]]`: lets the plans of COUNT seeds from FIRST on happen (1, 0), each a line; the last
//! line adds up. With COUNT 1 the plan is printed, too, and what nodes say: when they fail, and the events that `RUST_LOG`
//! chooses.
// How long it takes is shown while it runs.
#![allow(clippy::disallowed_methods)]

use lockstep_simulation::{Plan, run};
use std::{process::ExitCode, time::Instant};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise: u64| {
        let argument = arguments.next();
        argument.map_or(Some(otherwise), |text| text.parse().ok())
    };
    let (Some(first), Some(count), Some(nodes)) = (number(0), number(1), number(0)) else {
        eprintln!("usage: sim [FIRST [COUNT [NODES]]]");
        return ExitCode::from(2);
    };
    // Nodes whose disks fail panic, and are started again.
    if count > 1 {
        std::panic::set_hook(Box::new(|_| {}));
    } else {
        let events = tracing_subscriber::fmt().without_time();
        events.with_env_filter(EnvFilter::from_default_env()).init();
    }
    let begun = Instant::now();
    let (mut heights, mut certificates, mut answers, mut epochs) = (0, 0, 0, 0);
    let (mut stops, mut damaged, mut restored, mut bad) = (0, 0, 0, 0);
    let mut slowest = std::time::Duration::ZERO;
    for seed in first..first + count {
        let plan = match nodes {
            0 => Plan::of_seed(seed),
            nodes => Plan::of_size(seed, nodes as usize),
        };
        if count == 1 {
            println!("{plan}");
        }
        let report = run(&plan);
        println!(
            "seed {seed}: {} nodes, {} faulty, height {}, {} answers, {} certificates, {} stops, {} damaged, \
             {} restored, epoch {}, \
             well after {:.1} s, {:.0} s in all ({:.0} s here), history {}",
            plan.nodes,
            plan.faulty.len(),
            report.height,
            report.answers,
            report.certificates,
            report.incidents.stops,
            report.incidents.damaged,
            report.incidents.restored,
            report.epoch,
            report.healing.as_secs_f64(),
            report.time.as_secs_f64(),
            begun.elapsed().as_secs_f64(),
            report.history.0,
        );
        for violation in &report.safety {
            println!("  SAFETY: {violation}");
        }
        for violation in &report.liveness {
            println!("  LIVENESS: {violation}");
        }
        heights += report.height;
        certificates += report.certificates;
        answers += report.answers;
        epochs += report.epoch;
        stops += report.incidents.stops;
        damaged += report.incidents.damaged;
        restored += report.incidents.restored;
        bad += usize::from(!report.is_good());
        slowest = slowest.max(report.healing);
    }
    println!(
        "{count} seeds: {heights} heights, {epochs} changes of epoch, {certificates} certificates, {answers} answers, {stops} stops, {damaged} damaged states, {restored} restored, slowest healing \
         {:.1} s, {bad} with violations",
        slowest.as_secs_f64()
    );
    if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
