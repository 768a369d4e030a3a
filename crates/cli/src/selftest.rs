//! `lockstep selftest`: does this processor compute the frozen bits?

use crate::error::Failure;
use anyhow::Result;
use lockstep_numeric::{ARITHMETIC_VERSION, Isa, Kernels, Pool, selftest};
use serde::Serialize;
use std::{env, num::NonZeroUsize, sync::Arc, thread, time::Instant};

/// Checks every instruction set of this processor, or the one `LOCKSTEP_ISA` names.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Worker threads; all cores when not given.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
}

/// What became of one instruction set.
#[derive(Debug, Serialize)]
struct Outcome {
    isa: &'static str,
    #[serde(flatten)]
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    Passed { kernels: usize, seconds: f64 },
    Failed { reason: String },
    Skipped { reason: String },
}

/// Runs the command. A kernel that differs is exit code 1.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let pool = Arc::new(Pool::new(arguments.threads.unwrap_or(cores)));
    let outcomes: Vec<_> = chosen()?
        .into_iter()
        .map(|isa| {
            let outcome = Outcome {
                isa: isa.name(),
                state: check(isa, &pool),
            };
            if !arguments.json {
                println!("{}", line(&outcome));
            }
            outcome
        })
        .collect();
    if arguments.json {
        let report = serde_json::json!({
            "arithmetic_version": ARITHMETIC_VERSION,
            "threads": pool.threads(),
            "instruction_sets": outcomes,
        });
        println!("{report}");
    }
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| matches!(outcome.state, State::Failed { .. }))
        .map(|outcome| outcome.isa)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::user(format!(
        "this processor does not compute canonical arithmetic with: {}",
        failed.join(", ")
    ))
    .hint("do not run a replica on this machine")
    .into())
}

/// The one that the environment names, or all that exist for this architecture.
fn chosen() -> Result<Vec<Isa>> {
    if env::var_os("LOCKSTEP_ISA").is_some() {
        return Ok(vec![Isa::detect().map_err(Failure::user)?]);
    }
    Ok(Isa::ALL
        .into_iter()
        .filter(|isa| architecture(*isa).is_none_or(|name| name == env::consts::ARCH))
        .collect())
}

/// The architecture an instruction set belongs to; none for the portable kernels.
fn architecture(isa: Isa) -> Option<&'static str> {
    match isa {
        Isa::Portable => None,
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Vnni => Some("x86_64"),
        Isa::Neon | Isa::NeonDotprod => Some("aarch64"),
        Isa::Simd128 => Some("wasm32"),
    }
}

fn check(isa: Isa, pool: &Arc<Pool>) -> State {
    let kernels = match Kernels::new(isa, Arc::clone(pool)) {
        Ok(kernels) => kernels,
        Err(error) => {
            let reason = error.to_string();
            return State::Skipped { reason };
        }
    };
    let begun = Instant::now();
    match selftest(&kernels) {
        Ok(()) => State::Passed {
            kernels: selftest::cases().count(),
            seconds: begun.elapsed().as_secs_f64(),
        },
        Err(error) => State::Failed {
            reason: error.to_string(),
        },
    }
}

fn line(outcome: &Outcome) -> String {
    let isa = outcome.isa;
    match &outcome.state {
        State::Passed { kernels, seconds } => {
            format!("{isa:<11} passed   {kernels} kernels in {seconds:.2} s")
        }
        State::Failed { reason } => format!("{isa:<11} failed   {reason}"),
        State::Skipped { reason } => format!("{isa:<11} skipped  {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_as_one_line_and_as_flat_json() {
        let outcome = |state| Outcome { isa: "avx2", state };
        let failed = outcome(State::Failed {
            reason: "kernel add differs".to_owned(),
        });
        assert_eq!(line(&failed), "avx2        failed   kernel add differs");
        let passed = outcome(State::Passed {
            kernels: 3,
            seconds: 0.25,
        });
        assert_eq!(line(&passed), "avx2        passed   3 kernels in 0.25 s");
        assert_eq!(
            serde_json::to_value(&passed).unwrap(),
            serde_json::json!({"isa": "avx2", "state": "passed", "kernels": 3, "seconds": 0.25})
        );
    }

    #[test]
    fn every_instruction_set_of_this_processor_is_of_its_architecture() {
        for isa in Isa::available() {
            let architecture = architecture(isa);
            assert!(architecture.is_none_or(|name| name == env::consts::ARCH));
        }
        assert_eq!(architecture(Isa::NeonDotprod), Some("aarch64"));
    }
}
