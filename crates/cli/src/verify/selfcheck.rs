//! `lockstep verify --self MODEL`: one text in every way this machine has.

use super::{
    compare::{self, Row},
    plan::{Coverage, Extent, Place, Plan, Planned},
    wasm::Guest,
};
use crate::{error::Failure, progress, run::open, store::Store};
use anyhow::Result;
use lockstep_model::{
    Digest, Model, Prompt,
    selfcheck::{SelfCheck, Trace},
};
use lockstep_numeric::Isa;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

/// The text.
const TEXT: &str = include_str!("prompt.txt");

/// A model and the ways to run it.
struct Machine {
    /// The text in each coverage.
    checks: BTreeMap<Coverage, SelfCheck>,
    guest: Option<Guest>,
}

/// Runs the command. A difference is exit code 3: it is the machine's.
pub(super) fn run(name: &str, extent: &Extent, json: bool) -> Result<()> {
    let path = Store::open()?.resolve(name)?;
    let model = open(name)?;
    let text = Prompt::Text(TEXT.to_owned())
        .tokens(&model)
        .map_err(Failure::user)?;

    let mut skipped = Vec::new();
    let spinner = progress::spinner("loading the model into a Wasm module");
    let guest = Guest::open(&path, &model)?;
    spinner.finish_and_clear();
    let guest = guest
        .map_err(|reason| skipped.push(format!("Wasm: {reason}")))
        .ok();
    let wasm = guest.as_ref().map_or(&[][..], Guest::instruction_sets);
    let plan = Plan::new(
        &Isa::available(),
        wasm,
        extent,
        text.len(),
        model.context_length(),
    );
    for part in &plan.left_out {
        eprintln!("left out: {part}");
    }
    if !plan.left_out.is_empty() {
        eprintln!("--all runs everything");
    }
    skipped
        .iter()
        .for_each(|reason| eprintln!("skipped: {reason}"));

    let mut machine = Machine {
        checks: checks(&model, &text, &plan)?,
        guest,
    };
    let rows = machine.rows(&plan, json)?;
    let unequal = compare::first_unequal(&rows);
    let difference = match unequal {
        Some([first, other]) => machine.difference(&first.run, &other.run)?,
        None => None,
    };
    if json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        let place = difference.as_ref().map(|difference| {
            serde_json::json!({
                "operation": difference.operation,
                "name": difference.name,
                "position": difference.position,
            })
        });
        let report = serde_json::json!({
            "model": model.digest(),
            "equal": unequal.is_none(),
            "runs": rows,
            "left_out": plan.left_out,
            "skipped": skipped,
            "first_difference": place,
        });
        writeln!(io::stdout(), "{report}")?;
    }
    match unequal {
        Some(unequal) => Err(compare::failure(unequal, difference.as_ref()).into()),
        None => {
            eprintln!("equal: {} runs", rows.len());
            Ok(())
        }
    }
}

/// The text in each coverage of the plan.
fn checks(model: &Arc<Model>, text: &[u32], plan: &Plan) -> Result<BTreeMap<Coverage, SelfCheck>> {
    let mut checks = BTreeMap::new();
    for Planned { coverage, .. } in &plan.runs {
        let prompt = text[..coverage.prompt].to_vec();
        let check = SelfCheck::new(Arc::clone(model), prompt, coverage.tokens);
        checks.insert(*coverage, check.map_err(Failure::user)?);
    }
    Ok(checks)
}

impl Machine {
    /// Runs the plan; prints the table as it grows unless `quiet`.
    fn rows(&mut self, plan: &Plan, quiet: bool) -> Result<Vec<Row>> {
        let print = |line: String| match quiet {
            true => Ok(()),
            false => writeln!(io::stdout(), "{line}"),
        };
        let bar = progress::steps(plan.runs.len());
        bar.suspend(|| print(compare::heading()))?;
        let mut rows = Vec::new();
        for run in &plan.runs {
            bar.set_message(run.to_string());
            let begun = Instant::now();
            let digest = self.digest(run)?;
            let row = Row {
                run: *run,
                digest,
                seconds: begun.elapsed().as_secs_f64(),
            };
            bar.suspend(|| print(row.line()))?;
            bar.inc(1);
            rows.push(row);
        }
        bar.finish_and_clear();
        Ok(rows)
    }

    /// The digest of a run's outcome.
    fn digest(&mut self, run: &Planned) -> Result<Digest> {
        let check = &self.checks[&run.coverage];
        match run.place {
            Place::Native => match check.outcome(&run.configuration()) {
                Ok(outcome) => Ok(outcome.digest()),
                Err(error) => Err(Failure::user(format!("{error} ({run})")).into()),
            },
            Place::Wasm => guest(&mut self.guest).outcome(check, run),
        }
    }

    /// Where two runs part: both run again, observed.
    fn difference(
        &mut self,
        first: &Planned,
        other: &Planned,
    ) -> Result<Option<lockstep_model::selfcheck::Difference>> {
        let traces = [self.trace(first)?, self.trace(other)?];
        Ok(self.checks[&first.coverage].compare(&traces[0], &traces[1]))
    }

    fn trace(&mut self, run: &Planned) -> Result<Trace> {
        let check = &self.checks[&run.coverage];
        match run.place {
            Place::Native => Ok(check
                .trace(&run.configuration())
                .map_err(|error| Failure::user(format!("{error} ({run})")))?),
            Place::Wasm => guest(&mut self.guest).trace(check, run),
        }
    }
}

fn guest(guest: &mut Option<Guest>) -> &mut Guest {
    guest
        .as_mut()
        .expect("Wasm is planned only where there is a guest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::fixture;

    const COVERAGE: Coverage = Coverage {
        prompt: 20,
        tokens: 4,
    };

    fn planned(place: Place, chunk: usize) -> Planned {
        Planned {
            place,
            isa: Isa::Portable,
            threads: 1,
            chunk,
            batch: 2,
            coverage: COVERAGE,
        }
    }

    /// A machine whose module runs `file` while its processor runs the fixture.
    fn machine(file: &[u8]) -> Machine {
        let model = Model::from_bytes(&fixture::tiny_llama(5).build()).unwrap();
        let prompt: Vec<u32> = (40..60).collect();
        let check = SelfCheck::new(model, prompt, COVERAGE.tokens).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, file).unwrap();
        let in_module = Model::from_bytes(file).unwrap();
        Machine {
            checks: BTreeMap::from([(COVERAGE, check)]),
            guest: Some(Guest::open(&path, &in_module).unwrap().unwrap()),
        }
    }

    #[test]
    fn the_text_is_long_enough_for_every_prefill_chunk() {
        // English takes fewer than five letters a token on average in the vocabularies in use.
        assert!(TEXT.len() > 5 * 640, "{}", TEXT.len());
        assert!(TEXT.is_ascii());
    }

    #[test]
    fn wasm_gives_the_digest_and_the_trace_of_the_processor() {
        let mut machine = machine(&fixture::tiny_llama(5).build());
        let (native, wasm) = (planned(Place::Native, 7), planned(Place::Wasm, 3));
        let digest = machine.digest(&native).unwrap();
        assert_eq!(machine.digest(&wasm).unwrap(), digest);
        assert_eq!(machine.difference(&native, &wasm).unwrap(), None);
    }

    #[test]
    fn a_module_that_computes_something_else_is_found_with_the_operation() {
        // Another rotary base: nothing differs before the first position that turns.
        let other = fixture::tiny_llama(5)
            .set(
                "llama.rope.freq_base",
                lockstep_model::gguf::Value::F32(10_001.0),
            )
            .build();
        let mut machine = machine(&other);
        let (native, wasm) = (planned(Place::Native, 7), planned(Place::Wasm, 3));
        assert_ne!(
            machine.digest(&wasm).unwrap(),
            machine.digest(&native).unwrap()
        );
        let difference = machine.difference(&native, &wasm).unwrap().unwrap();
        assert_eq!(
            (difference.name.as_str(), difference.position),
            ("blk.0.rope_q", 1)
        );
    }
}
