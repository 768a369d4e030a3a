//! `lockstep bench`: how fast a model runs on this machine.
//!
//! # Design
//! A model is opened, run once to warm up, and then timed: prompts in passes of a chunk, tokens one
//! by one from an empty sequence, tokens behind a long context. Every repetition has a new sequence,
//! figures are medians. The memory's bandwidth is measured last, so that its buffers do not count as
//! the model's memory.

mod bandwidth;
mod measure;
mod plot;
mod report;

use crate::{error::Failure, kernels, run::open_file, store::Store};
use anyhow::{Context, Result};
use lockstep_numeric::Isa;
use measure::{Profile, Runner};
use report::{Batched, Behind, Measured, Memory, Report, Run, Share, Start};
use std::{fs, num::NonZeroUsize, path::PathBuf, sync::Arc, thread, time::Instant};

/// Tokens decoded behind a long context.
const BEHIND_TOKENS: usize = 32;

/// Measures a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model: a .gguf file, an alias, or a digest.
    model: String,
    /// Thread counts to measure, separated by commas; 1 to all cores when not given.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    threads: Vec<NonZeroUsize>,
    /// Tokens of the prompt that is prefilled.
    #[arg(long, value_name = "COUNT", default_value = "512")]
    prompt_tokens: NonZeroUsize,
    /// Tokens decoded one by one from an empty sequence.
    #[arg(long, value_name = "COUNT", default_value = "128")]
    decode_tokens: NonZeroUsize,
    /// Prompt tokens per pass.
    #[arg(long, value_name = "COUNT", default_value = "512")]
    chunk: NonZeroUsize,
    /// How often each is measured.
    #[arg(long, value_name = "COUNT", default_value = "5")]
    repetitions: NonZeroUsize,
    /// Also decode behind a context of this many tokens.
    #[arg(long, value_name = "COUNT")]
    context: Option<NonZeroUsize>,
    /// Also decode this many sequences at a time.
    #[arg(long, value_name = "COUNT")]
    batch: Option<NonZeroUsize>,
    /// Leave out the memory's bandwidth and the shares of the operations.
    #[arg(long)]
    no_profile: bool,
    /// Draw the result into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = Store::open()?.resolve(&arguments.model)?;
    let file_bytes = fs::metadata(&path)
        .with_context(|| format!("reading {}", path.display()))?
        .len();
    let report = measure(arguments, &path, file_bytes)?;
    if let Some(path) = &arguments.svg {
        fs::write(path, plot::svg(&report)?).map_err(|error| {
            Failure::environment(format!("cannot write {}: {error}", path.display()))
        })?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn measure(arguments: &Arguments, path: &std::path::Path, file_bytes: u64) -> Result<Report> {
    let isa = Isa::detect().map_err(Failure::user)?;
    let counts = thread_counts(&arguments.threads);

    let before_load_bytes = measure::process_bytes("VmRSS");
    let begun = Instant::now();
    let mut kernels = kernels::with(isa, counts[0])?;
    let check_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let model = open_file(path)?;
    let load_seconds = begun.elapsed().as_secs_f64();
    let limit = model.context_length();
    let longest = arguments
        .prompt_tokens
        .max(arguments.decode_tokens)
        .get()
        .max(
            arguments
                .context
                .map_or(0, |context| context.get().saturating_add(BEHIND_TOKENS)),
        );
    if longest > limit {
        return Err(Failure::user(format!(
            "the model's context has {limit} tokens, needed: {longest}"
        ))
        .hint("lower --prompt-tokens, --decode-tokens or --context")
        .into());
    }

    let ids = measure::tokens(longest, model.graph().vocabulary);
    let mut start = None;
    let mut runs = Vec::new();
    for &threads in &counts {
        if kernels.pool().threads() != threads.get() {
            kernels = kernels::with(isa, threads)?;
        }
        let runner = Runner {
            model: Arc::clone(&model),
            kernels: Arc::clone(&kernels),
        };
        // The first prefill of all is the warm-up, and what a user waits for.
        let first = runner.prefill(&ids[..arguments.prompt_tokens.get()], arguments.chunk)?;
        start.get_or_insert(Start {
            threads,
            check_seconds,
            load_seconds,
            prefill_seconds: first,
            first_token_seconds: check_seconds + load_seconds + first,
        });
        runs.push(measure_run(arguments, &runner, &ids)?);
    }
    let memory = Memory {
        before_load_bytes,
        resident_bytes: measure::process_bytes("VmRSS"),
        anonymous_bytes: measure::process_bytes("RssAnon"),
        file_bytes: measure::process_bytes("RssFile"),
        peak_bytes: measure::process_bytes("VmHWM"),
    };
    if !arguments.no_profile {
        for run in &mut runs {
            let bandwidth =
                bandwidth::measure(run.threads).context("measuring the memory's bandwidth")?;
            run.memory_bytes_per_second = Some(bandwidth);
        }
    }
    Ok(Report {
        model: model.digest().to_string(),
        name: model.name().to_owned(),
        isa: isa.name(),
        processor: measure::processor(),
        file_bytes,
        packed_bytes: model.resident_bytes(),
        weight_bytes_per_token: measure::weight_bytes(&model),
        prompt_tokens: arguments.prompt_tokens,
        decode_tokens: arguments.decode_tokens,
        chunk: arguments.chunk,
        repetitions: arguments.repetitions,
        start: start.expect("there is a thread count"),
        memory,
        runs,
    })
}

fn measure_run(arguments: &Arguments, runner: &Runner, ids: &[u32]) -> Result<Run> {
    let prompt = &ids[..arguments.prompt_tokens.get()];
    let tokens = &ids[..arguments.decode_tokens.get()];
    let repeat = |measure: &dyn Fn() -> Result<f64>| {
        (0..arguments.repetitions.get())
            .map(|_| measure())
            .collect::<Result<Vec<_>>>()
    };
    let prefill = repeat(&|| runner.prefill(prompt, arguments.chunk))?;
    let decode = repeat(&|| runner.decode(tokens))?;
    let decode = Measured::new(decode, tokens.len());
    let token_seconds = decode.median_seconds / tokens.len() as f64;
    let context = arguments.context.map(|context| {
        let (prompt, behind) = ids.split_at(context.get());
        let behind = &behind[..BEHIND_TOKENS];
        let (prefill_seconds, seconds) = runner.decode_behind(prompt, arguments.chunk, behind)?;
        Ok::<_, anyhow::Error>(Behind::new(
            context,
            prefill_seconds,
            seconds,
            token_seconds,
        ))
    });
    let batch = arguments.batch.map(|count| {
        let seconds = repeat(&|| runner.decode_batch(tokens, count))?;
        Ok::<_, anyhow::Error>(Batched {
            sequences: count,
            decode: Measured::new(seconds, tokens.len() * count.get()),
        })
    });
    let (prefill_operations, decode_operations) = if arguments.no_profile {
        (Vec::new(), Vec::new())
    } else {
        let pass = &prompt[..arguments.chunk.get().min(prompt.len())];
        (
            shares(&runner.profile_prefill(pass)?),
            shares(&runner.profile_decode(tokens)?),
        )
    };
    Ok(Run {
        digest_share: runner.digest() / token_seconds,
        threads: NonZeroUsize::new(runner.kernels.pool().threads()).expect("a pool has threads"),
        weight_bytes_per_second: measure::weight_bytes(&runner.model) as f64
            * decode.tokens_per_second,
        prefill: Measured::new(prefill, prompt.len()),
        decode,
        context: context.transpose()?,
        batch: batch.transpose()?,
        memory_bytes_per_second: None,
        prefill_operations,
        decode_operations,
    })
}

/// Kinds of operations with their parts of the time, the largest first.
fn shares(profile: &Profile) -> Vec<Share> {
    let total: f64 = profile.values().sum();
    let mut shares: Vec<_> = profile
        .iter()
        .map(|(kind, &seconds)| Share {
            kind: kind.clone(),
            seconds,
            share: seconds / total,
        })
        .collect();
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    shares
}

fn thread_counts(asked: &[NonZeroUsize]) -> Vec<NonZeroUsize> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    (1..=cores.get()).filter_map(NonZeroUsize::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_sorted_and_add_up_to_one() {
        let profile = Profile::from([("add".to_owned(), 1.0), ("output".to_owned(), 3.0)]);
        let shares = shares(&profile);
        let read: Vec<_> = shares.iter().map(|s| (s.kind.as_str(), s.share)).collect();
        assert_eq!(read, [("output", 0.75), ("add", 0.25)]);
    }

    #[test]
    fn thread_counts_are_those_asked_for_or_up_to_the_cores() {
        let count = |count| NonZeroUsize::new(count).unwrap();
        assert_eq!(thread_counts(&[count(3), count(1)]), [count(3), count(1)]);
        assert_eq!(thread_counts(&[])[0], count(1));
    }
}
