//! What `lockstep verify --self` runs.
//!
//! # Design
//! Without `--all` the fast instruction sets of the processor take part in a selection of the product
//! of all values, in which every two values meet; slow ones (the portable kernels, Wasm in a batch) run
//! a shorter text in one or two configurations. The fastest instruction set runs that shorter text as
//! well, so that every run has a fast one to be compared with.

use lockstep_model::selfcheck::Configuration;
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{collections::BTreeSet, fmt, num::NonZeroUsize, sync::Arc};

/// Threads that are tried.
const THREADS: [usize; 4] = [1, 2, 3, 4];
/// Prompt tokens per pass that are tried.
const CHUNKS: [usize; 4] = [1, 7, 64, 512];
/// Texts per pass that are tried.
const BATCHES: [usize; 2] = [1, 4];

/// How much to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Extent {
    /// Run every combination, on the whole text.
    #[arg(long, requires = "self_check", conflicts_with = "transcript")]
    all: bool,
    /// Prompt tokens; fewer when the text or the model's context ends before.
    #[arg(
        long,
        value_name = "N",
        default_value = "640",
        requires = "self_check",
        conflicts_with = "transcript"
    )]
    prompt_tokens: NonZeroUsize,
    /// Tokens to generate.
    #[arg(
        long,
        value_name = "N",
        default_value = "64",
        requires = "self_check",
        conflicts_with = "transcript"
    )]
    tokens: NonZeroUsize,
    /// Prompt tokens of the slow runs: portable kernels, and Wasm in a batch.
    #[arg(
        long,
        value_name = "N",
        default_value = "48",
        requires = "self_check",
        conflicts_with = "transcript"
    )]
    slow_prompt_tokens: NonZeroUsize,
    /// Tokens to generate in slow runs.
    #[arg(
        long,
        value_name = "N",
        default_value = "8",
        requires = "self_check",
        conflicts_with = "transcript"
    )]
    slow_tokens: NonZeroUsize,
}

/// How much of the text a run covers. Runs of equal coverage must give equal digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Coverage {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens generated.
    pub(crate) tokens: usize,
}

impl Coverage {
    /// Cut to a text of `text` tokens and a context of `context` positions. The last generated token
    /// takes no position.
    fn cut(self, text: usize, context: usize) -> Self {
        let tokens = self.tokens.min(context.div_ceil(2));
        Self {
            prompt: self.prompt.min(text).min(context + 1 - tokens),
            tokens,
        }
    }
}

/// Where the kernels run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the processor.
    Native,
    /// In a Wasm module, on one thread.
    Wasm,
}

/// A configuration, and how much it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) place: Place,
    pub(crate) isa: Isa,
    pub(crate) threads: usize,
    pub(crate) chunk: usize,
    pub(crate) batch: usize,
    pub(crate) coverage: Coverage,
}

impl Planned {
    /// The configuration of a run on the processor.
    pub(crate) fn configuration(&self) -> Configuration {
        let number = |number| NonZeroUsize::new(number).expect("no value is 0");
        let pool = Arc::new(Pool::new(number(self.threads)));
        let kernels = Kernels::new(self.isa, pool).expect("only available ones are planned");
        Configuration {
            kernels: Arc::new(kernels),
            prefill_chunk: number(self.chunk),
            batch: number(self.batch),
        }
    }

    /// Name of place and instruction set.
    pub(crate) fn machine(&self) -> String {
        match self.place {
            Place::Native => self.isa.to_string(),
            Place::Wasm => format!("wasm {}", self.isa),
        }
    }
}

impl fmt::Display for Planned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}, threads {}, prefill chunk {}, batch {}",
            self.machine(),
            self.threads,
            self.chunk,
            self.batch
        )
    }
}

/// All runs, those of equal coverage after a first one on a fast instruction set.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) runs: Vec<Planned>,
    /// What is left out, a sentence each.
    pub(crate) left_out: Vec<String>,
}

impl Plan {
    /// Plans for the instruction sets of the processor and of the Wasm module, slowest first, and for
    /// a text of `text` tokens on a model with a context of `context` positions.
    pub(crate) fn new(
        native: &[Isa],
        wasm: &[Isa],
        extent: &Extent,
        text: usize,
        context: usize,
    ) -> Self {
        let coverage = |prompt: NonZeroUsize, tokens: NonZeroUsize| Coverage {
            prompt: prompt.get(),
            tokens: tokens.get(),
        };
        let whole = coverage(extent.prompt_tokens, extent.tokens).cut(text, context);
        let slow = coverage(extent.slow_prompt_tokens, extent.slow_tokens);
        let slow = slow.cut(text, context);
        if extent.all {
            return Self {
                runs: [
                    product(Place::Native, native, whole),
                    product(Place::Wasm, wasm, whole),
                ]
                .concat(),
                left_out: Vec::new(),
            };
        }
        let fast: Vec<Isa> = native
            .iter()
            .copied()
            .filter(|&isa| isa != Isa::Portable)
            .collect();
        let all = product(Place::Native, &fast, whole);
        let mut runs = pairwise(&all);
        let mut left_out = Vec::new();
        if !fast.is_empty() {
            left_out.push(format!(
                "{} of {} combinations of the fast instruction sets (every two values still meet)",
                all.len() - runs.len(),
                all.len()
            ));
        }
        let slow_run = |place, isa, threads, chunk, batch| Planned {
            place,
            isa,
            threads,
            chunk,
            batch,
            coverage: slow,
        };
        if let Some(&fastest) = fast.last() {
            runs.push(slow_run(Place::Native, fastest, 2, 64, 1));
        }
        runs.push(slow_run(Place::Native, Isa::Portable, 2, 64, 1));
        runs.push(slow_run(Place::Native, Isa::Portable, 4, 7, 4));
        for &isa in wasm {
            if isa == Isa::Portable {
                runs.push(slow_run(Place::Wasm, isa, 1, 64, 1));
            } else {
                runs.push(Planned {
                    coverage: whole,
                    ..slow_run(Place::Wasm, isa, 1, 64, 1)
                });
                runs.push(slow_run(Place::Wasm, isa, 1, 7, 4));
            }
        }
        left_out.push(format!(
            "portable kernels run {} + {} tokens instead of {} + {}, as does Wasm in a batch, in few combinations",
            slow.prompt, slow.tokens, whole.prompt, whole.tokens
        ));
        Self { runs, left_out }
    }
}

/// Every combination of values.
fn product(place: Place, isas: &[Isa], coverage: Coverage) -> Vec<Planned> {
    let threads = match place {
        Place::Native => &THREADS[..],
        Place::Wasm => &[1],
    };
    let mut runs = Vec::new();
    // The fastest comes first: what is compared with is there soon.
    for &isa in isas.iter().rev() {
        for &threads in threads {
            for chunk in CHUNKS {
                runs.extend(BATCHES.map(|batch| Planned {
                    place,
                    isa,
                    threads,
                    chunk,
                    batch,
                    coverage,
                }));
            }
        }
    }
    runs
}

/// The pairs of values that a run has: (which value, its name) twice.
fn pairs(run: &Planned) -> BTreeSet<[(usize, String); 2]> {
    let values = [
        run.isa.to_string(),
        run.threads.to_string(),
        run.chunk.to_string(),
        run.batch.to_string(),
    ];
    let values: Vec<(usize, String)> = values.into_iter().enumerate().collect();
    let mut pairs = BTreeSet::new();
    for (index, first) in values.iter().enumerate() {
        for second in &values[index + 1..] {
            pairs.insert([first.clone(), second.clone()]);
        }
    }
    pairs
}

/// A selection in which all pairs of values occur that occur in `all`: again and again the run with
/// most new pairs, the earliest among equals.
fn pairwise(all: &[Planned]) -> Vec<Planned> {
    let mut missing: BTreeSet<_> = all.iter().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let new = |run: &Planned| pairs(run).intersection(&missing).count();
        let best = all.iter().rev().max_by_key(|run| new(run));
        let best = *best.expect("what is missing occurs somewhere");
        for pair in pairs(&best) {
            missing.remove(&pair);
        }
        chosen.push(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: [Isa; 3] = [Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni];
    const WHOLE: Coverage = Coverage {
        prompt: 640,
        tokens: 64,
    };

    fn extent(all: bool) -> Extent {
        let number = |number| NonZeroUsize::new(number).unwrap();
        Extent {
            all,
            prompt_tokens: number(640),
            tokens: number(64),
            slow_prompt_tokens: number(48),
            slow_tokens: number(8),
        }
    }

    #[test]
    fn every_two_values_meet_in_the_selection() {
        for isas in [&FAST[..], &FAST[..1]] {
            let all = product(Place::Native, isas, WHOLE);
            assert_eq!(all.len(), isas.len() * 32);
            let chosen = pairwise(&all);
            let pairs_of =
                |runs: &[Planned]| -> BTreeSet<_> { runs.iter().flat_map(pairs).collect() };
            assert_eq!(pairs_of(&chosen), pairs_of(&all));
            // Threads and chunks alone need 16.
            assert!((16..=20).contains(&chosen.len()), "{}", chosen.len());
        }
        assert_eq!(pairwise(&[]), []);
    }

    #[test]
    fn all_is_the_product_on_the_whole_text() {
        let native = [Isa::Portable, Isa::Avx2];
        let wasm = [Isa::Portable, Isa::Simd128];
        let plan = Plan::new(&native, &wasm, &extent(true), 700, 2048);
        assert_eq!(plan.runs.len(), 2 * 32 + 2 * 8);
        assert!(plan.left_out.is_empty());
        assert!(plan.runs.iter().all(|run| run.coverage == WHOLE));
        assert_eq!(plan.runs[0].isa, Isa::Avx2);
    }

    #[test]
    fn slow_runs_have_a_fast_one_of_equal_coverage_before_them() {
        let native = [Isa::Portable, Isa::Avx2, Isa::Avx512];
        let wasm = [Isa::Portable, Isa::Simd128];
        let plan = Plan::new(&native, &wasm, &extent(false), 700, 2048);
        let slow: Vec<&Planned> = plan
            .runs
            .iter()
            .filter(|run| run.coverage != WHOLE)
            .collect();
        assert_eq!(slow[0].machine(), "avx512");
        let machines: BTreeSet<String> = slow.iter().map(|run| run.machine()).collect();
        let expected = ["avx512", "portable", "wasm portable", "wasm simd128"];
        assert_eq!(machines, expected.map(str::to_owned).into());
        assert_eq!(plan.left_out.len(), 2);
        let in_wasm = |run: &&Planned| run.place == Place::Wasm && run.coverage == WHOLE;
        assert_eq!(plan.runs.iter().filter(in_wasm).count(), 1);
    }

    #[test]
    fn coverage_is_cut_to_text_and_context() {
        let coverage = |prompt, tokens| Coverage { prompt, tokens };
        assert_eq!(WHOLE.cut(700, 2048), WHOLE);
        assert_eq!(WHOLE.cut(100, 2048), coverage(100, 64));
        assert_eq!(WHOLE.cut(700, 192), coverage(129, 64));
        assert_eq!(WHOLE.cut(700, 65), coverage(33, 33));
        assert_eq!(WHOLE.cut(700, 1), coverage(1, 1));
    }
}
