//! Compares elementary functions with independent correctly rounded ones on all 2^32 inputs.
//!
//! `cargo run --release -p lockstep-numeric --example exhaustive -- [function ... | all] [option ...]`
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `--first XX`, `--last XX` | inputs whose most significant byte, in hexadecimal, lies between these | 00, ff |
//! | `--stride N` | only every Nth chunk of 2^12 neighbouring inputs | 1 |
//! | `--threads N` | threads | all cores |
//!
//! Each chunk is evaluated by the scalar function and, where there is a kernel, on every instruction set of this
//! processor. The first input of one chunk in 16 also checks the oracle: its f64 value against its exact one. Prints
//! the first differences, how many inputs were compared and the hard ones among them, those that an f64 evaluation
//! cannot decide; progress goes to stderr. Exits with 1 if anything differs, with 2 on wrong arguments.

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lockstep_numeric::{Isa, Kernels, Pool, elementary};
use oracle::Oracle;

/// Inputs that are evaluated together.
const CHUNK: usize = 1 << 12;
/// Chunks per most significant byte.
const CHUNKS_PER_BYTE: usize = (1 << 24) / CHUNK;
/// Of so many chunks one has its first input checked for the oracle's margin.
const MARGIN_CHUNKS: usize = 16;
/// Hard inputs, and differences, that are printed.
const PRINTED: usize = 400;

struct Function {
    name: &'static str,
    oracle: Oracle,
    scalar: fn(f32) -> f32,
    /// The function of up to [`CHUNK`] values, in place, where it has a form per instruction set.
    kernel: Option<fn(&Kernels, &mut [f32])>,
}

impl Function {
    const fn elementary(name: &'static str, oracle: Oracle, scalar: fn(f32) -> f32) -> Self {
        Self {
            name,
            oracle,
            scalar,
            kernel: None,
        }
    }
}

static FUNCTIONS: [Function; 6] = [
    Function {
        kernel: Some(Kernels::exp),
        ..Function::elementary("exp", oracle::EXP, elementary::exp)
    },
    Function::elementary("log", oracle::LOG, elementary::log),
    Function::elementary("sin", oracle::SIN, elementary::sin),
    Function::elementary("cos", oracle::COS, elementary::cos),
    Function::elementary("tanh", oracle::TANH, elementary::tanh),
    Function::elementary("erf", oracle::ERF, elementary::erf),
];

/// Which inputs, on how many threads.
struct Plan {
    first: usize,
    last: usize,
    stride: usize,
    threads: usize,
}

impl Plan {
    fn chunk_count(&self) -> usize {
        ((self.last + 1 - self.first) * CHUNKS_PER_BYTE).div_ceil(self.stride)
    }

    fn chunk(&self, index: usize) -> usize {
        self.first * CHUNKS_PER_BYTE + index * self.stride
    }
}

fn main() -> ExitCode {
    let (functions, plan) = match parse(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    for isa in Isa::ALL {
        if !Isa::available().contains(&isa) {
            eprintln!("SKIPPED: this processor lacks {}", isa.name());
        }
    }
    let mut same = true;
    for function in functions {
        same &= run(function, &plan);
    }
    ExitCode::from(u8::from(!same))
}

fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> Result<(Vec<&'static Function>, Plan), String> {
    let mut functions = Vec::new();
    let mut plan = Plan {
        first: 0,
        last: 0xff,
        stride: 1,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
    };
    while let Some(argument) = arguments.next() {
        let (field, radix, low, high) = match argument.as_str() {
            "--first" => (&mut plan.first, 16, 0, 0xff),
            "--last" => (&mut plan.last, 16, 0, 0xff),
            "--stride" => (&mut plan.stride, 10, 1, usize::MAX),
            "--threads" => (&mut plan.threads, 10, 1, 1024),
            "all" => {
                functions.extend(&FUNCTIONS);
                continue;
            }
            name => {
                let found = FUNCTIONS.iter().find(|function| function.name == name);
                functions.push(found.ok_or(format!("unknown function: {name}"))?);
                continue;
            }
        };
        let text = arguments.next().unwrap_or_default();
        *field = usize::from_str_radix(&text, radix)
            .ok()
            .filter(|value| (low..=high).contains(value))
            .ok_or(format!("wrong value of {argument}: {text}"))?;
    }
    if plan.first > plan.last {
        return Err(format!(
            "empty range: {:02x} to {:02x}",
            plan.first, plan.last
        ));
    }
    if functions.is_empty() {
        functions.extend(&FUNCTIONS);
    }
    Ok((functions, plan))
}

/// What a thread found.
#[derive(Default)]
struct Findings {
    hard: Vec<u32>,
    /// Inputs at which the oracle's two evaluations are further apart than it claims.
    margin: Vec<u32>,
    differences: Vec<String>,
    difference_count: u64,
}

/// Whether every implementation of `function` agrees with the oracle.
fn run(function: &Function, plan: &Plan) -> bool {
    let (next, all) = (AtomicUsize::new(0), Mutex::new(Findings::default()));
    let count = plan.chunk_count();
    std::thread::scope(|scope| {
        for _ in 0..plan.threads {
            scope.spawn(|| {
                let implementations = implementations(function);
                let mut findings = Findings::default();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    compare(function, &implementations, plan.chunk(index), &mut findings);
                    if (index + 1) * 20 / count != index * 20 / count {
                        let percent = (index + 1) * 100 / count;
                        eprintln!("{}: {percent} % begun", function.name);
                    }
                }
                let mut all = all.lock().expect("no panic");
                all.hard.append(&mut findings.hard);
                all.margin.append(&mut findings.margin);
                all.differences.append(&mut findings.differences);
                all.difference_count += findings.difference_count;
            });
        }
    });
    let mut all = all.into_inner().expect("no panic");
    report(function, plan, &mut all);
    all.difference_count == 0 && all.margin.is_empty()
}

/// A name and what fills the second slice with the function of the first.
type Implementation<'a> = (&'static str, Box<dyn Fn(&[f32], &mut [f32]) + 'a>);

/// The scalar function and the kernel on every instruction set.
fn implementations(function: &Function) -> Vec<Implementation<'_>> {
    let scalar = |input: &[f32], output: &mut [f32]| {
        for (x, y) in input.iter().zip(output) {
            *y = (function.scalar)(*x);
        }
    };
    let mut all: Vec<Implementation<'_>> = vec![("scalar", Box::new(scalar))];
    if let Some(kernel) = function.kernel {
        for isa in Isa::available() {
            let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
            let kernels = Kernels::new(isa, pool).expect("an available instruction set");
            let run = move |input: &[f32], output: &mut [f32]| {
                output.copy_from_slice(input);
                kernel(&kernels, output);
            };
            all.push((isa.name(), Box::new(run)));
        }
    }
    all
}

fn compare(
    function: &Function,
    implementations: &[Implementation<'_>],
    chunk: usize,
    findings: &mut Findings,
) {
    let bits = |offset: usize| (chunk * CHUNK + offset) as u32;
    let input: Vec<f32> = (0..CHUNK)
        .map(|offset| f32::from_bits(bits(offset)))
        .collect();
    let mut expected = vec![0; CHUNK];
    for (offset, expected) in expected.iter_mut().enumerate() {
        let (value, is_hard) = function.oracle.evaluate(input[offset]);
        *expected = value.to_bits();
        if is_hard {
            findings.hard.push(bits(offset));
        }
    }
    if chunk.is_multiple_of(MARGIN_CHUNKS) && !function.oracle.margin_holds(input[0]) {
        findings.margin.push(bits(0));
    }
    let mut output = vec![0.0; CHUNK];
    for (implementation, run) in implementations {
        run(&input, &mut output);
        for (offset, (actual, expected)) in output.iter().zip(&expected).enumerate() {
            if actual.to_bits() != *expected {
                findings.difference_count += 1;
                if findings.differences.len() < PRINTED {
                    findings.differences.push(format!(
                        "{} ({implementation}) of {:#010x}: {:#010x} instead of {expected:#010x}",
                        function.name,
                        bits(offset),
                        actual.to_bits(),
                    ));
                }
            }
        }
    }
}

fn report(function: &Function, plan: &Plan, findings: &mut Findings) {
    findings.hard.sort_unstable();
    for line in findings.differences.iter().take(PRINTED) {
        println!("{line}");
    }
    for bits in &findings.margin {
        println!(
            "{}: the oracle's margin fails at {bits:#010x}",
            function.name
        );
    }
    println!(
        "{}: {} of {} inputs (top bytes {:02x} to {:02x}, every chunk of {CHUNK} in {}), {} differences, {} hard inputs",
        function.name,
        plan.chunk_count() * CHUNK,
        1u64 << 32,
        plan.first,
        plan.last,
        plan.stride,
        findings.difference_count,
        findings.hard.len()
    );
    for bits in findings.hard.iter().take(PRINTED) {
        print!("{bits:#010x} ");
    }
    println!();
}
