//! Measures a subnet and prints a report: see `README.md` beside it.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "nothing here is replicated"
)]

mod costs;
mod report;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use lockstep_bench_subnet::{
    agents,
    counter::Counter,
    crash,
    links::Nodes,
    load::{self, Offer},
    process::Subnet,
    queries, start, sync,
};
use report::{Linked, Report};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

/// Connections over which calls are offered: as many calls can wait for their certificates.
const CONNECTIONS: usize = 512;
const AGENTS: u8 = 10;
/// The delay of a simulated link, one way.
const DELAY: Duration = Duration::from_millis(50);
const LINKED_RATE: f64 = 200.0;

/// Measures the speed of a subnet of four replicas on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program that is measured; the one beside this one when not given.
    #[arg(long)]
    lockstep: Option<PathBuf>,
    /// The module of canisters/counter; built when not given.
    #[arg(long)]
    counter: Option<PathBuf>,
    /// Calls a second to offer, one step after the other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100,250,500,1000,1500,2000"
    )]
    rates: Vec<f64>,
    /// How long each step takes, seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Replicas in one process.
    #[arg(long, default_value_t = 4)]
    replicas: u32,
    /// What to measure.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "costs,updates,latency,queries,links,crash,start,sync"
    )]
    only: Vec<String>,
    /// Writes every figure to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let program = match &arguments.lockstep {
        Some(program) => program.clone(),
        None => env::current_exe()?.with_file_name("lockstep"),
    };
    ensure!(program.exists(), "there is no {}", program.display());
    let wasm = match &arguments.counter {
        Some(file) => fs::read(file).with_context(|| format!("reading {}", file.display()))?,
        None => build_counter()?,
    };
    let report = measure(&arguments, &program, &wasm).await?;
    if let Some(file) = &arguments.json {
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n")?;
    }
    print!("{}", report.markdown());
    Ok(())
}

async fn measure(arguments: &Arguments, program: &Path, wasm: &[u8]) -> Result<Report> {
    let is_wanted = |what: &str| arguments.only.iter().any(|wanted| wanted == what);
    let duration = Duration::from_secs(arguments.seconds);
    let mut report = Report::default();
    if is_wanted("costs") {
        eprintln!("costs of parts");
        report.costs = costs::measure(TempDir::new()?.path(), wasm)?;
    }
    if ["updates", "latency", "queries"].into_iter().any(is_wanted) {
        let directory = TempDir::new()?;
        let subnet = Subnet::up(program, directory.path(), arguments.replicas)?;
        let counter = Counter::install(&subnet, wasm).await?;
        if is_wanted("latency") {
            eprintln!("latency of {AGENTS} agents");
            report.latency = Some(agents::updates(&subnet, &counter, AGENTS, duration).await?);
        }
        if is_wanted("updates") {
            for rate in &arguments.rates {
                eprintln!("{rate} calls/s");
                let offer = Offer {
                    rate: *rate,
                    duration,
                    connections: CONNECTIONS,
                };
                report
                    .updates
                    .push(load::step(&subnet, &counter, offer).await?);
            }
        }
        if is_wanted("queries") {
            for (connections, signed) in [(4, false), (32, false), (32, true)] {
                eprintln!("queries over {connections} connections");
                let queries = queries::run(&subnet, counter.id, connections, duration / 2, signed);
                report.queries.push(queries.await?);
            }
        }
    }
    if is_wanted("links") {
        eprintln!("links of {} ms", DELAY.as_millis());
        report.links = Some(linked(program, wasm, duration).await?);
    }
    if is_wanted("crash") {
        eprintln!("a replica is killed");
        let directory = TempDir::new()?;
        report.crash = Some(crash::run(program, directory.path(), wasm).await?);
    }
    if is_wanted("start") {
        eprintln!("a subnet is started");
        report.start = start::run(program)?.to_vec();
    }
    if is_wanted("sync") {
        eprintln!("a replica loses everything");
        let directory = TempDir::new()?;
        report.sync = Some(sync::run(program, directory.path(), wasm).await?);
    }
    Ok(report)
}

async fn linked(program: &Path, wasm: &[u8], duration: Duration) -> Result<Linked> {
    let directory = TempDir::new()?;
    let nodes = Nodes::prepare(program, directory.path(), 4, Some(DELAY)).await?;
    let subnet = nodes.start()?;
    let counter = Counter::install(&subnet, wasm).await?;
    let before = nodes.bytes();
    tokio::time::sleep(duration / 2).await;
    let idle = nodes.bytes() - before;
    let latency = agents::updates(&subnet, &counter, AGENTS, duration).await?;
    let before = nodes.bytes();
    let offer = Offer {
        rate: LINKED_RATE,
        duration,
        connections: CONNECTIONS,
    };
    let load = load::step(&subnet, &counter, offer).await?;
    let bytes = nodes.bytes() - before;
    Ok(Linked {
        delay_ms: DELAY.as_millis() as u64,
        latency,
        bytes_per_call: bytes / load.executed.max(1),
        idle_bytes_per_s: idle as f64 / (duration / 2).as_secs_f64(),
        load,
    })
}

/// Builds the module of the counter, in the repository that this is run in.
fn build_counter() -> Result<Vec<u8>> {
    let here = env::current_dir()?;
    let root = here
        .ancestors()
        .find(|folder| folder.join("tools/target-cargo.sh").exists())
        .context("not in the repository: give the module with --counter")?;
    let target = env::current_exe()?;
    let target = target
        .parent()
        .context("a folder")?
        .with_file_name("canisters");
    let triple = "wasm32-unknown-unknown";
    let built = Command::new("bash")
        .arg(root.join("tools/target-cargo.sh"))
        .args([
            triple,
            "build",
            "--release",
            "--locked",
            "--package",
            "counter",
        ])
        .arg("--manifest-path")
        .arg(root.join("canisters/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()?;
    ensure!(built.success(), "the counter does not build");
    Ok(fs::read(target.join(triple).join("release/counter.wasm"))?)
}
