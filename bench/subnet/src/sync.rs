//! A replica that lost everything takes over a state of 1 GiB from the others, under load.
//!
//! # Design
//! What the replica does is seen from outside: the parts that it fetches lie in `state.redb.sync`, the store that it
//! makes of them is `state.redb.import` until it takes the place of `state.redb`. Bytes are counted by links that take
//! no time; what passes in as long a time without the replica is subtracted.
use crate::{
    counter::{Counter, agent, install},
    links::Nodes,
    load::{Offer, Outcome, height, increments, send},
    process::{Process, Subnet},
    times::ms,
};
use anyhow::{Context as _, Result};
use candid::{Encode, Principal};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep},
};

/// How many calls a second are offered, to the replicas that lose nothing.
pub const RATE: f64 = 50.0;
const CONNECTIONS: usize = 128;
/// For how long calls are signed at a time.
const PART: Duration = Duration::from_secs(5);
/// How long the load is measured while all run, and while one is away.
const PHASE: Duration = Duration::from_secs(10);
/// Heights after the state has grown, so that no chain has the calls that made it, and a checkpoint has them all.
const HEIGHTS: u64 = 1_100;
/// A canister that grows, and by how much with each call.
const LARGE: &str = include_str!("large.wat");
const GROWTH_BYTES: u64 = 64 << 20;
const CALLS: u64 = 16;
const POLL: Duration = Duration::from_millis(20);

/// What is measured of a replica that lost everything. Times run from its start, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Sync {
    /// Bytes of the canister's memories.
    pub state_bytes: u64,
    /// How long the canister took to fill them, milliseconds.
    pub growth_ms: f64,
    /// Calls a second that the other three certified while all four ran.
    pub before_per_s: f64,
    /// While one was away.
    pub away_per_s: f64,
    /// From its start until it served clients.
    pub meanwhile_per_s: f64,
    /// Until it began to fetch; nothing, if it never did.
    pub begins_ms: Option<f64>,
    /// Until it had fetched all.
    pub fetched_ms: Option<f64>,
    /// Until it had made a store of it.
    pub imported_ms: Option<f64>,
    /// Until it served clients.
    pub ready_ms: f64,
    /// Until a client had a certificate from it, and had verified that.
    pub certifies_ms: f64,
    /// Bytes that passed between replicas until it served, beyond those of the load.
    pub bytes: u64,
    /// Processor time of it until it served, seconds.
    pub processor_s: f64,
    /// The same by threads that still run.
    pub threads_s: BTreeMap<String, f64>,
    /// Its memory at most, bytes.
    pub memory_bytes: u64,
    /// Processor time of the other three until it served, seconds.
    pub others_s: f64,
    /// The same by threads.
    pub others_threads_s: BTreeMap<String, f64>,
    /// What those use in as long a time without it.
    pub others_alone_s: f64,
    /// Heights that it had missed when it served.
    pub heights: u64,
}

/// Takes all that the last of four has from it.
///
/// # Errors
/// The subnet stops, or the replica does not come back.
pub async fn run(program: &Path, directory: &Path, wasm: &[u8]) -> Result<Sync> {
    let nodes = Nodes::prepare(program, directory, 4, Some(Duration::ZERO)).await?;
    let mut subnet = nodes.start()?;
    let counter = Counter::install(&subnet, wasm).await?;
    let growth = grow(&subnet).await?;
    let (others, last) = (&subnet.gateways[..3], subnet.gateways[3]);
    let measure = async |duration| {
        let load = Calls::start(others, counter.id);
        sleep(duration).await;
        load.end().await
    };
    let grown = height(others[0]).await?;
    let load = Calls::start(others, counter.id);
    while height(others[0]).await? < grown + HEIGHTS {
        sleep(POLL).await;
    }
    load.end().await?;
    let before_per_s = measure(PHASE).await?;

    subnet.processes.pop().context("a replica")?.kill()?;
    let folder = directory.join("node-3");
    fs::remove_dir_all(&folder)?;
    let away = height(others[0]).await?;
    // Its turns are skipped only then.
    measure(PHASE).await?;
    let (bytes, processor, start) = (nodes.bytes(), subnet.processor()?, Instant::now());
    let away_per_s = measure(PHASE).await?;
    let alone = start.elapsed().as_secs_f64();
    let bytes_per_s = (nodes.bytes() - bytes) as f64 / alone;
    let processors = subnet.processor()?.since(&processor).seconds / alone;

    let load = Calls::start(others, counter.id);
    let (bytes, processor) = (nodes.bytes(), subnet.processor()?);
    let stages = Stages::of(folder);
    let launched = Instant::now();
    let process = nodes.launch(3)?;
    let process = spawn_blocking(move || ready(process)).await??;
    let ready = launched.elapsed();
    let bytes = (nodes.bytes() - bytes) as f64 - bytes_per_s * ready.as_secs_f64();
    let own = process.processor()?;
    let others_used = subnet.processor()?.since(&processor);
    let heights = height(last).await? - away;
    let meanwhile_per_s = load.end().await?;
    let agent = agent(last, &subnet.root_key, 0)?;
    let call = agent.update(&counter.id, "increase");
    call.with_arg(Counter::one()).call_and_wait().await?;
    let certifies = launched.elapsed();
    let stages = stages.end().await?;
    let since = |at: &Option<Instant>| at.map(|at| ms(at - launched));
    Ok(Sync {
        state_bytes: CALLS * GROWTH_BYTES,
        growth_ms: ms(growth),
        before_per_s,
        away_per_s,
        meanwhile_per_s,
        begins_ms: since(&stages.begins),
        fetched_ms: since(&stages.fetched),
        imported_ms: since(&stages.imported),
        ready_ms: ms(ready),
        certifies_ms: ms(certifies),
        bytes: bytes.max(0.0) as u64,
        processor_s: own.seconds,
        threads_s: own.threads,
        memory_bytes: process.memory_bytes_max()?,
        others_s: others_used.seconds,
        others_threads_s: others_used.threads,
        others_alone_s: processors * ready.as_secs_f64(),
        heights,
    })
}

fn ready(mut process: Process) -> Result<Process> {
    process.ready()?;
    Ok(process)
}

/// Fills a canister; how long that takes.
async fn grow(subnet: &Subnet) -> Result<Duration> {
    let agent = agent(subnet.gateways[0], &subnet.root_key, 0)?;
    let canister = install(&agent, &wat::parse_str(LARGE)?).await?;
    let start = Instant::now();
    for _ in 0..CALLS {
        let call = agent.update(&canister, "grow").with_arg(Encode!()?);
        call.call_and_wait().await.context("growing a canister")?;
    }
    Ok(start.elapsed())
}

/// Calls that go on until they are ended.
struct Calls {
    ending: Arc<AtomicBool>,
    /// Those that were certified, a second.
    sent: JoinHandle<f64>,
}

impl Calls {
    fn start(gateways: &[SocketAddr], counter: Principal) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let (gateways, until) = (gateways.to_vec(), Arc::clone(&ending));
        let sent = tokio::spawn(async move {
            let (start, mut certified) = (Instant::now(), 0);
            let offer = Offer {
                rate: RATE,
                duration: PART,
                connections: CONNECTIONS,
            };
            while !until.load(Relaxed) {
                let count = (offer.rate * offer.duration.as_secs_f64()) as usize;
                let load = send(&gateways, offer, increments(counter, count)).await;
                let outcomes = load.sent.iter().map(|sent| sent.outcome);
                certified += outcomes.filter(|out| *out == Outcome::Certified).count();
            }
            certified as f64 / start.elapsed().as_secs_f64()
        });
        Self { ending, sent }
    }

    async fn end(self) -> Result<f64> {
        self.ending.store(true, Relaxed);
        Ok(self.sent.await?)
    }
}

/// When a replica was seen to be how far.
#[derive(Debug, Default)]
struct Stages {
    begins: Option<Instant>,
    fetched: Option<Instant>,
    imported: Option<Instant>,
}

struct Watch {
    ending: Arc<AtomicBool>,
    stages: JoinHandle<Stages>,
}

impl Stages {
    /// Looks at the files in a replica's folder.
    fn of(folder: PathBuf) -> Watch {
        let ending = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ending);
        let stages = tokio::spawn(async move {
            let is_there = |name| folder.join(name).exists();
            let mut stages = Self::default();
            while !until.load(Relaxed) && stages.imported.is_none() {
                let now = Some(Instant::now());
                if is_there("state.redb.sync") {
                    stages.begins = stages.begins.or(now);
                } else if stages.begins.is_some() {
                    stages.imported = now;
                }
                if is_there("state.redb.import") {
                    stages.fetched = stages.fetched.or(now);
                }
                sleep(POLL).await;
            }
            stages
        });
        Watch { ending, stages }
    }
}

impl Watch {
    async fn end(self) -> Result<Stages> {
        self.ending.store(true, Relaxed);
        Ok(self.stages.await?)
    }
}
