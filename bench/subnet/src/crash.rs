//! One of the replicas is killed under load, and started again from what it left behind.
use crate::{
    counter::Counter,
    links::Nodes,
    load::{Load, Offer, Outcome, Sent, increments, send},
    times::ms,
};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::{path::Path, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// How many calls a second are offered meanwhile.
pub const RATE: f64 = 100.0;
/// As many calls as wait at most while a leader is waited for in vain.
const CONNECTIONS: usize = 512;
/// How long all run, how long one is down, and how long all run again.
const PHASE: Duration = Duration::from_secs(5);

/// What is measured of a crash.
#[derive(Debug, Clone, Serialize)]
pub struct Crash {
    /// Certified calls in each second since the start.
    pub per_second: Vec<usize>,
    /// Certified calls a second while all ran.
    pub before_per_s: f64,
    /// While one was down.
    pub down_per_s: f64,
    /// After it was started again.
    pub after_per_s: f64,
    /// The longest time without a certificate from those that ran on, while all ran, milliseconds.
    pub pause_before_ms: f64,
    /// The same while one was down.
    pub pause_down_ms: f64,
    /// The same after it was started again.
    pub pause_after_ms: f64,
    /// From its start to when it served clients: a height after the one it stopped at was certified.
    pub ready_ms: f64,
    /// From its start to the first certificate that it gave to a client.
    pub certifies_ms: f64,
    /// Calls whose connection failed.
    pub lost: usize,
    /// Calls that were certified.
    pub certified: usize,
    /// By how much the counter grew.
    pub executed: u64,
}

/// Kills the last of four under load.
///
/// # Errors
/// The subnet stops, or counts other calls than it accepted.
pub async fn run(program: &Path, directory: &Path, wasm: &[u8]) -> Result<Crash> {
    let nodes = Nodes::prepare(program, directory, 4, None).await?;
    let mut subnet = nodes.start()?;
    let counter = Counter::install(&subnet, wasm).await?;
    let offer = Offer {
        rate: RATE,
        duration: PHASE * 3,
        connections: CONNECTIONS,
    };
    let count = (offer.rate * offer.duration.as_secs_f64()) as usize;
    let calls = increments(counter.id, count);
    let gateways = subnet.gateways.clone();
    let start = Instant::now();
    let load = tokio::spawn(async move { send(&gateways, offer, calls).await });
    sleep_until(start + PHASE).await;
    subnet.processes.pop().context("a replica")?.kill()?;
    sleep(PHASE).await;
    let mut process = nodes.launch(subnet.processes.len())?;
    let launched = start.elapsed();
    let ready = tokio::task::spawn_blocking(move || process.ready().map(|_| process));
    let process = ready.await??;
    let ready = start.elapsed() - launched;
    let load = load.await?;
    let executed = counter.value_from(certified(&load).count() as u64).await?;
    drop(process);
    let again = certified(&load)
        .filter(|sent| sent.gateway == subnet.processes.len() && sent.done > launched)
        .map(|sent| sent.done - launched)
        .min();
    let phase = |from: Duration, to: Duration| {
        let done = certified(&load)
            .filter(|sent| sent.gateway < subnet.processes.len())
            .map(|sent| sent.done);
        let mut done: Vec<Duration> = done.filter(|done| (from..to).contains(done)).collect();
        done.sort_unstable();
        let all = certified(&load).filter(|sent| (from..to).contains(&sent.done));
        let per_s = all.count() as f64 / (to - from).as_secs_f64();
        let pauses = done.windows(2).map(|pair| pair[1] - pair[0]);
        (per_s, ms(pauses.max().unwrap_or(to - from)))
    };
    let second = Duration::from_secs(1);
    let last = certified(&load).map(|sent| sent.done.as_secs()).max();
    let mut per_second = vec![0; last.map_or(0, |last| last as usize + 1)];
    for sent in certified(&load) {
        per_second[sent.done.as_secs() as usize] += 1;
    }
    // The first second warms up.
    let (before_per_s, pause_before_ms) = phase(second, PHASE);
    let (down_per_s, pause_down_ms) = phase(PHASE, launched);
    let (after_per_s, pause_after_ms) = phase(launched, PHASE * 3);
    Ok(Crash {
        per_second,
        before_per_s,
        down_per_s,
        after_per_s,
        pause_before_ms,
        pause_down_ms,
        pause_after_ms,
        ready_ms: ms(ready),
        certifies_ms: ms(again.context("the replica gave no certificate")?),
        lost: load.sent.len() - certified(&load).count(),
        certified: certified(&load).count(),
        executed,
    })
}

fn certified(load: &Load) -> impl Iterator<Item = &Sent> {
    let sent = load.sent.iter();
    sent.filter(|sent| sent.outcome == Outcome::Certified)
}
