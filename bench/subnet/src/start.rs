//! How long `lockstep up` takes until every replica has certified a height and serves clients.
use crate::{
    process::{Process, Processor},
    times::ms,
};
use anyhow::Result;
use serde::Serialize;
use std::{path::Path, time::Instant};
use tempfile::TempDir;

/// How often it is started, in as many directories.
const RUNS: usize = 5;

/// What is measured of a start.
#[derive(Debug, Clone, Serialize)]
pub struct Start {
    /// From its start to the line that says that it is ready, milliseconds, of each run.
    pub runs_ms: Vec<f64>,
    /// The median.
    pub median_ms: f64,
    /// Processor time of the run that took the median, seconds.
    pub processor_s: f64,
}

/// Starts subnets, in directories that are empty and then in those that the first start left.
///
/// # Errors
/// One does not start, or does not end when it is told to.
pub fn run(program: &Path) -> Result<[Start; 2]> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let directory = TempDir::new()?;
        for runs in [&mut first, &mut again] {
            runs.push(start(program, directory.path())?);
        }
    }
    Ok([summary(first), summary(again)])
}

fn start(program: &Path, directory: &Path) -> Result<(f64, Processor)> {
    let state = directory.join("network");
    let arguments = [
        "up",
        "--json",
        "--port",
        "0",
        "--directory",
        &state.to_string_lossy(),
    ];
    let start = Instant::now();
    let (process, _) = Process::start(program, &arguments, &directory.join("up.log"))?;
    let measured = (ms(start.elapsed()), process.processor()?);
    process.terminate()?;
    Ok(measured)
}

fn summary(mut runs: Vec<(f64, Processor)>) -> Start {
    let runs_ms = runs.iter().map(|(time, _)| *time).collect();
    runs.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let (median_ms, processor) = &runs[RUNS / 2];
    Start {
        runs_ms,
        median_ms: *median_ms,
        processor_s: processor.seconds,
    }
}
