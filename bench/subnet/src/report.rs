//! The report: every figure, and tables of them in Markdown.
use crate::costs::Cost;
use lockstep_bench_subnet::{
    crash::{self, Crash},
    load::Step,
    queries::Queries,
    start::Start,
    sync::{self, Sync},
    times::Times,
};
use serde::Serialize;
use std::fmt::Write as _;

/// A subnet over links that take time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Linked {
    pub(crate) delay_ms: u64,
    pub(crate) latency: Times,
    pub(crate) load: Step,
    pub(crate) bytes_per_call: u64,
    pub(crate) idle_bytes_per_s: f64,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) costs: Vec<Cost>,
    pub(crate) latency: Option<Times>,
    pub(crate) updates: Vec<Step>,
    pub(crate) queries: Vec<Queries>,
    pub(crate) links: Option<Linked>,
    pub(crate) crash: Option<Crash>,
    /// In an empty directory, and in one that is not.
    pub(crate) start: Vec<Start>,
    pub(crate) sync: Option<Sync>,
}

impl Report {
    /// The tables.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        if !self.costs.is_empty() {
            writeln!(text, "\n### Costs, one core\n\n| part | µs |\n|---|---|")?;
        }
        for cost in &self.costs {
            writeln!(text, "| {} | {:.1} |", cost.what, cost.microseconds)?;
        }
        if !self.updates.is_empty() {
            steps(
                text,
                "Update calls, all replicas in one process",
                &self.updates,
            )?;
        }
        if let Some(times) = &self.latency {
            latency(text, "loopback", times)?;
        }
        if !self.queries.is_empty() {
            writeln!(text, "\n### Queries\n")?;
            writeln!(
                text,
                "| asked by | connections | queries/s | median ms | p99 ms | subnet's processors | load's |"
            )?;
            writeln!(text, "|---|---|---|---|---|---|---|")?;
        }
        for queries in &self.queries {
            writeln!(
                text,
                "| {} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} |",
                if queries.signed {
                    "signers"
                } else {
                    "anonymous"
                },
                queries.connections,
                queries.per_s,
                queries.times.median_ms,
                queries.times.p99_ms,
                queries.subnet_processors,
                queries.load_processors,
            )?;
        }
        if let Some(linked) = &self.links {
            let title = format!("links of {} ms one way", linked.delay_ms);
            latency(text, &title, &linked.latency)?;
            let title = format!("Update calls, a process each, {title}");
            steps(text, &title, std::slice::from_ref(&linked.load))?;
            writeln!(
                text,
                "\nBetween replicas: {} bytes per call at that rate, {:.0} bytes/s when idle, sums over all links.",
                linked.bytes_per_call, linked.idle_bytes_per_s
            )?;
        }
        if let Some(crash) = &self.crash {
            self::crash(text, crash)?;
        }
        if !self.start.is_empty() {
            starts(text, &self.start)?;
        }
        if let Some(sync) = &self.sync {
            self::sync(text, sync)?;
        }
        Ok(())
    }
}

fn steps(text: &mut String, title: &str, steps: &[Step]) -> std::fmt::Result {
    writeln!(text, "\n### {title}\n")?;
    writeln!(
        text,
        "| offered/s | accepted | executed | certified | refused | certified/s | median ms | p99 ms | blocks/s | calls/block | subnet's processors | load's |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|---|---|")?;
    for step in steps {
        writeln!(
            text,
            "| {:.0} | {} | {} | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} |",
            step.offered_per_s,
            step.accepted,
            step.executed,
            step.certified,
            step.refused,
            step.certified_per_s,
            step.times.median_ms,
            step.times.p99_ms,
            step.blocks as f64 / step.seconds,
            step.executed as f64 / step.blocks.max(1) as f64,
            step.subnet_processors,
            step.load_processors,
        )?;
    }
    if let Some(step) = steps.last() {
        writeln!(
            text,
            "\nOf the last row {} certificates were verified by the public agent, {:.1} ms each.",
            step.verified, step.verification_ms
        )?;
    }
    Ok(())
}

fn latency(text: &mut String, title: &str, times: &Times) -> std::fmt::Result {
    writeln!(text, "\n### Ten agents that verify, {title}\n")?;
    writeln!(text, "| calls | median ms | p99 ms | longest ms |")?;
    writeln!(text, "|---|---|---|---|")?;
    writeln!(
        text,
        "| {} | {:.1} | {:.1} | {:.1} |",
        times.count, times.median_ms, times.p99_ms, times.max_ms
    )
}

fn crash(text: &mut String, crash: &Crash) -> std::fmt::Result {
    writeln!(
        text,
        "\n### One replica of four killed, a process each, {} calls/s offered\n",
        crash::RATE
    )?;
    writeln!(text, "| | all run | one is down | it is back |")?;
    writeln!(text, "|---|---|---|---|")?;
    writeln!(
        text,
        "| certified/s | {:.0} | {:.0} | {:.0} |",
        crash.before_per_s, crash.down_per_s, crash.after_per_s
    )?;
    writeln!(
        text,
        "| longest pause of the others, ms | {:.0} | {:.0} | {:.0} |",
        crash.pause_before_ms, crash.pause_down_ms, crash.pause_after_ms
    )?;
    writeln!(
        text,
        "\nCertified calls in each second: {}.",
        crash
            .per_second
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    )?;
    writeln!(
        text,
        "\nFrom its start it serves clients after {:.0} ms and gives its first certificate after {:.0} ms. {} calls \
         were certified, {} executed, {} were under way at the one that was killed.",
        crash.ready_ms, crash.certifies_ms, crash.certified, crash.executed, crash.lost
    )
}

fn starts(text: &mut String, starts: &[Start]) -> std::fmt::Result {
    writeln!(text, "\n### `lockstep up` until it is ready\n")?;
    writeln!(
        text,
        "| directory | median ms | shortest ms | longest ms | processor time s |"
    )?;
    writeln!(text, "|---|---|---|---|---|")?;
    for (directory, start) in ["empty", "of a subnet"].iter().zip(starts) {
        let times = || start.runs_ms.iter().copied();
        writeln!(
            text,
            "| {directory} | {:.0} | {:.0} | {:.0} | {:.2} |",
            start.median_ms,
            times().fold(f64::INFINITY, f64::min),
            times().fold(0.0, f64::max),
            start.processor_s
        )?;
    }
    Ok(())
}

fn sync(text: &mut String, sync: &Sync) -> std::fmt::Result {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let seconds = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{:.1}", ms / 1e3));
    writeln!(
        text,
        "\n### One replica of four loses everything, a state of {:.0} MiB, a process each, {} calls/s offered to the others\n",
        mib(sync.state_bytes),
        sync::RATE
    )?;
    writeln!(
        text,
        "| begins to fetch s | has fetched s | has a store s | serves s | certifies s | MiB between replicas | its processor time s | its memory MiB | the others' processor time s | without it s |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|---|")?;
    writeln!(
        text,
        "| {} | {} | {} | {} | {} | {:.0} | {:.1} | {:.0} | {:.1} | {:.1} |",
        seconds(sync.begins_ms),
        seconds(sync.fetched_ms),
        seconds(sync.imported_ms),
        seconds(Some(sync.ready_ms)),
        seconds(Some(sync.certifies_ms)),
        mib(sync.bytes),
        sync.processor_s,
        mib(sync.memory_bytes),
        sync.others_s,
        sync.others_alone_s
    )?;
    writeln!(
        text,
        "\nThe other three certified {:.0} calls/s while all ran, {:.0} while it was away, {:.0} until it served. It had \
         missed {} heights. The canister took {} s to grow.",
        sync.before_per_s,
        sync.away_per_s,
        sync.meanwhile_per_s,
        sync.heights,
        seconds(Some(sync.growth_ms))
    )
}
