//! `lockstep verify FILE`: computes a transcript again.

use super::Arguments;
use crate::{adapter, error::Failure, kernels, progress, run::open};
use anyhow::Result;
use lockstep_model::transcript::{Outcome, Transcript};
use std::{fs, path::Path};

/// Compares the transcript in `path`. One that differs is exit code 1.
pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<()> {
    let json = fs::read_to_string(path)
        .map_err(|error| Failure::user(format!("cannot read {}: {error}", path.display())))?;
    let transcript = Transcript::from_json(&json).map_err(Failure::user)?;
    let model = open(
        arguments
            .model
            .as_ref()
            .unwrap_or(&transcript.model_digest.to_string()),
    )?;
    let adapter = match &arguments.adapter {
        Some(path) => Some(adapter::open_for(path, &model, None)?),
        None => None,
    };
    let kernels = kernels::checked(arguments.threads)?;

    let spinner = progress::spinner(format!("computing {} tokens again", transcript.steps.len()));
    let outcome = transcript
        .verify_adapted(model, kernels, adapter)
        .map_err(|error| Failure::user(format!("{:#}", anyhow::Error::new(error))));
    spinner.finish_and_clear();
    match outcome? {
        Outcome::Equal => {
            let tokens = transcript.steps.len();
            if arguments.json {
                println!("{}", serde_json::json!({ "equal": true, "tokens": tokens }));
            } else {
                println!("equal: {tokens} tokens, every logit, every link");
            }
            Ok(())
        }
        Outcome::Differs {
            step,
            what,
            recorded,
            computed,
        } => {
            if arguments.json {
                let report = serde_json::json!({
                    "equal": false, "step": step, "what": what.to_string(), "recorded": recorded, "computed": computed,
                });
                println!("{report}");
            }
            let place = step.map_or(String::new(), |step| format!(" at step {step}"));
            Err(Failure::user(format!(
                "the transcript differs{place}: {what} is {recorded}, computed {computed}"
            ))
            .into())
        }
    }
}
