//! Subnets in virtual time: the production code, faults chosen by a seed, and what must hold of it.
//!
//! # Design
//! [`Plan::of_seed`] chooses the size, the faulty nodes, the links and what happens when. [`run`] lets it happen:
//! replicas with their states on disks in memory, the production consensus over simulated links, clients that make
//! calls. When the time of the plan is over, everything heals but the faulty nodes. [`checks`] judge
//! - *safety*, all the time: honest replicas agree, certificates are right, what was acknowledged happened once;
//! - *liveness*, after healing: all honest replicas certify new heights, all calls are answered, all epochs that were
//!   wanted have begun.
//!
//! # Determinism
//! Everything runs on one thread in virtual time; a seed and a version of this program give the same history, to
//! [`Report::history`], every time.
#![forbid(unsafe_code)]

pub mod checks;
mod client;
mod machine;
mod panics;
mod plan;
mod random;
mod register;
mod scenario;

pub use machine::Incidents;
pub use plan::{Event, Fault, Plan};
pub use random::Random;

use lockstep_subnet::{
    application::Height,
    consensus::{
        genesis::Genesis,
        simulation::{SimulationConfig, simulate},
    },
};
use std::time::Duration;

/// The longest that a simulation may take in virtual time.
const TIME_MAX: Duration = Duration::from_secs(600);

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was wrong and must never be.
    pub safety: Vec<String>,
    /// What did not happen after everything had healed.
    pub liveness: Vec<String>,
    /// The highest height.
    pub height: Height,
    /// Calls that clients verified the answers of.
    pub answers: usize,
    /// Certificates that replicas were given.
    pub certificates: u64,
    /// The epoch that the subnet was in at last.
    pub epoch: u64,
    /// What happened to honest machines, added up.
    pub incidents: Incidents,
    /// What machines say about states that were not those of the others.
    pub divergences: Vec<String>,
    /// The time it took, in the world's time.
    pub time: Duration,
    /// How long it took after healing until all was well.
    pub healing: Duration,
    /// A digest of everything that happened, and the last root.
    pub history: (String, Option<[u8; 32]>),
}

impl Report {
    /// Whether all was as it must be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.safety.is_empty() && self.liveness.is_empty()
    }
}

/// Lets a plan happen in which all must be as it must be.
///
/// # Panics
/// If it is not, with what was found, or the plan is for no node or for too many.
#[must_use]
pub fn run_well(plan: &Plan) -> Report {
    let report = run(plan);
    assert!(
        report.is_good(),
        "safety: {:#?}\nliveness: {:#?}\n{plan}",
        report.safety,
        report.liveness
    );
    report
}

/// Lets a plan happen.
///
/// # Panics
/// If the plan is for no node or for too many.
#[must_use]
pub fn run(plan: &Plan) -> Report {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
    let genesis = Genesis::deal(plan.nodes as u32, &seed).expect("a subnet has as many nodes");
    let all: Vec<usize> = (0..plan.nodes).collect();
    let mut later: Vec<Genesis> = Vec::new();
    for _ in 0..plan.epochs() {
        let before = later.last().unwrap_or(&genesis);
        let next = before.next_epoch(&all, 0, &seed);
        later.push(next.expect("all take part"));
    }
    let config = SimulationConfig {
        seed: plan.seed,
        genesis,
        later,
        link: plan.link,
        time_max: TIME_MAX,
        nodes_may_fail: true,
    };
    simulate(config, async |world| scenario::run(world, plan).await)
}
