//! What was measured, for scripts and for people.
//!
//! # Units and bounds
//! Times in seconds, memory in bytes, MB and GB in powers of ten. Figures the system does not tell, and those that
//! were left out, are missing.

use serde::Serialize;
use std::{fmt, num::NonZeroUsize};

use super::measure::median;

/// Kinds of operations listed by name; the rest is added up.
pub(super) const KINDS_LISTED: usize = 9;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) model: String,
    pub(super) name: String,
    pub(super) isa: &'static str,
    pub(super) processor: Option<String>,
    pub(super) file_bytes: u64,
    /// Weights in the layout the kernels read.
    pub(super) packed_bytes: usize,
    /// Packed weights that one token's pass reads.
    pub(super) weight_bytes_per_token: usize,
    pub(super) prompt_tokens: NonZeroUsize,
    pub(super) decode_tokens: NonZeroUsize,
    pub(super) chunk: NonZeroUsize,
    pub(super) repetitions: NonZeroUsize,
    pub(super) start: Start,
    pub(super) memory: Memory,
    pub(super) runs: Vec<Run>,
}

/// From the start of the command to the first token.
#[derive(Debug, Serialize)]
pub(super) struct Start {
    pub(super) threads: NonZeroUsize,
    /// The check of the processor against the frozen digests.
    pub(super) check_seconds: f64,
    pub(super) load_seconds: f64,
    /// The first prefill after loading.
    pub(super) prefill_seconds: f64,
    pub(super) first_token_seconds: f64,
}

/// Memory of the process.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) before_load_bytes: Option<u64>,
    /// After all runs.
    pub(super) resident_bytes: Option<u64>,
    /// Of them, memory that no file stands behind.
    pub(super) anonymous_bytes: Option<u64>,
    /// Of them, pages of mapped files: the system may drop them.
    pub(super) file_bytes: Option<u64>,
    /// The most at any time, loading included.
    pub(super) peak_bytes: Option<u64>,
}

/// One thread count.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    pub(super) threads: NonZeroUsize,
    pub(super) prefill: Measured,
    pub(super) decode: Measured,
    pub(super) context: Option<Behind>,
    pub(super) batch: Option<Batched>,
    /// What a transcript adds to a token's time: the digest of its logits.
    pub(super) digest_share: f64,
    /// Weights read while decoding.
    pub(super) weight_bytes_per_second: f64,
    /// What these threads read from memory when they do nothing else.
    pub(super) memory_bytes_per_second: Option<f64>,
    pub(super) prefill_operations: Vec<Share>,
    pub(super) decode_operations: Vec<Share>,
}

/// Repetitions of one measurement.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    pub(super) seconds: Vec<f64>,
    pub(super) median_seconds: f64,
    pub(super) tokens_per_second: f64,
}

/// Decoding behind a long context.
#[derive(Debug, Serialize)]
pub(super) struct Behind {
    pub(super) tokens: NonZeroUsize,
    pub(super) prefill_seconds: f64,
    /// Each token's.
    pub(super) seconds: Vec<f64>,
    pub(super) median_seconds: f64,
    /// How many times as long a token takes as from an empty sequence.
    pub(super) ratio_to_empty: f64,
}

/// Decoding several sequences at a time; all their tokens count.
#[derive(Debug, Serialize)]
pub(super) struct Batched {
    pub(super) sequences: NonZeroUsize,
    #[serde(flatten)]
    pub(super) decode: Measured,
}

/// A kind of operation's part of a pass.
#[derive(Debug, Serialize)]
pub(super) struct Share {
    pub(super) kind: String,
    pub(super) seconds: f64,
    pub(super) share: f64,
}

impl Measured {
    pub(super) fn new(seconds: Vec<f64>, tokens: usize) -> Self {
        let median_seconds = median(&seconds);
        Self {
            seconds,
            median_seconds,
            tokens_per_second: tokens as f64 / median_seconds,
        }
    }
}

impl Behind {
    pub(super) fn new(
        tokens: NonZeroUsize,
        prefill_seconds: f64,
        seconds: Vec<f64>,
        seconds_empty: f64,
    ) -> Self {
        let median_seconds = median(&seconds);
        Self {
            tokens,
            prefill_seconds,
            seconds,
            median_seconds,
            ratio_to_empty: median_seconds / seconds_empty,
        }
    }
}

impl Report {
    /// Kinds by their largest part of any run's `operations`, with every run's parts; what is not among
    /// the first is added up at the end.
    pub(super) fn kinds(&self, columns: &[&[Share]]) -> Vec<(String, Vec<f64>)> {
        let mut kinds: Vec<(String, Vec<f64>)> = Vec::new();
        for (column, shares) in columns.iter().enumerate() {
            for share in *shares {
                let index = kinds.iter().position(|(kind, _)| *kind == share.kind);
                let index = index.unwrap_or_else(|| {
                    kinds.push((share.kind.clone(), vec![0.0; columns.len()]));
                    kinds.len() - 1
                });
                kinds[index].1[column] = share.share;
            }
        }
        let largest = |shares: &[f64]| shares.iter().copied().fold(0.0, f64::max);
        kinds.sort_by(|a, b| largest(&b.1).total_cmp(&largest(&a.1)));
        if kinds.len() > KINDS_LISTED {
            let rest = kinds.split_off(KINDS_LISTED);
            let sums = (0..columns.len())
                .map(|column| rest.iter().map(|(_, shares)| shares[column]).sum())
                .collect();
            kinds.push(("others".to_owned(), sums));
        }
        kinds
    }

    /// The operations of every run: prefill, then decode.
    pub(super) fn operations(&self) -> Vec<(String, &[Share])> {
        let columns = |name: &'static str, part: fn(&Run) -> &[Share]| {
            self.runs
                .iter()
                .map(move |run| (format!("{name} {}", run.threads), part(run)))
        };
        columns("prefill", |run| &run.prefill_operations)
            .chain(columns("decode", |run| &run.decode_operations))
            .filter(|(_, shares)| !shares.is_empty())
            .collect()
    }
}

/// A number of threads in words.
pub(super) fn threads(count: NonZeroUsize) -> String {
    match count.get() {
        1 => "1 thread".to_owned(),
        count => format!("{count} threads"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mega = |bytes: f64| bytes / 1e6;
        let processor = self.processor.as_deref().unwrap_or("unknown processor");
        writeln!(f, "{} on {processor}, {}", self.name, self.isa)?;
        writeln!(
            f,
            "weights     {:.1} MB in the file, {:.1} MB packed, {:.1} MB read per token",
            mega(self.file_bytes as f64),
            mega(self.packed_bytes as f64),
            mega(self.weight_bytes_per_token as f64),
        )?;
        if let (Some(resident), Some(peak)) = (self.memory.resident_bytes, self.memory.peak_bytes) {
            writeln!(
                f,
                "memory      {:.1} MB resident after the runs, {:.1} MB at most",
                mega(resident as f64),
                mega(peak as f64),
            )?;
        }
        let start = &self.start;
        writeln!(
            f,
            "first token {:.2} s: check {:.2}, load {:.2}, {} prompt tokens {:.2} ({})",
            start.first_token_seconds,
            start.check_seconds,
            start.load_seconds,
            self.prompt_tokens,
            start.prefill_seconds,
            threads(start.threads),
        )?;
        self.write_speeds(f)?;
        self.write_operations(f)
    }
}

impl Report {
    fn write_speeds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\ntokens per second, medians of {}: prompt of {}, then {} one by one",
            self.repetitions, self.prompt_tokens, self.decode_tokens
        )?;
        writeln!(
            f,
            "{:>7}  {:>8}  {:>8}  {:>12}  {:>11}",
            "threads", "prefill", "decode", "weights GB/s", "memory GB/s"
        )?;
        for run in &self.runs {
            let memory = run.memory_bytes_per_second.map_or_else(
                || "-".to_owned(),
                |bandwidth| format!("{:.2}", bandwidth / 1e9),
            );
            writeln!(
                f,
                "{:>7}  {:>8.1}  {:>8.1}  {:>12.2}  {memory:>11}",
                run.threads,
                run.prefill.tokens_per_second,
                run.decode.tokens_per_second,
                run.weight_bytes_per_second / 1e9,
            )?;
        }
        for run in &self.runs {
            writeln!(
                f,
                "digest of a token's logits, {}: {:.2} % of the token's time",
                threads(run.threads),
                run.digest_share * 100.0,
            )?;
        }
        for run in &self.runs {
            if let Some(behind) = &run.context {
                writeln!(
                    f,
                    "behind {} tokens, {}: {:.1} per second, {:.2} times as long as without",
                    behind.tokens,
                    threads(run.threads),
                    1.0 / behind.median_seconds,
                    behind.ratio_to_empty,
                )?;
            }
        }
        for run in &self.runs {
            if let Some(batch) = &run.batch {
                writeln!(
                    f,
                    "{} sequences at a time, {}: {:.1} per second, {:.2} times as many as alone",
                    batch.sequences,
                    threads(run.threads),
                    batch.decode.tokens_per_second,
                    batch.decode.tokens_per_second / run.decode.tokens_per_second,
                )?;
            }
        }
        Ok(())
    }

    fn write_operations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (names, columns): (Vec<_>, Vec<_>) = self.operations().into_iter().unzip();
        if columns.is_empty() {
            return Ok(());
        }
        write!(f, "\n{:<14}", "share of time")?;
        for name in names {
            write!(f, "  {name:>10}")?;
        }
        writeln!(f)?;
        for (kind, shares) in self.kinds(&columns) {
            write!(f, "{kind:<14}")?;
            for share in shares {
                write!(f, "  {:>8.1} %", share * 100.0)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
