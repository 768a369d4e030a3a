//! Prints `instruction-set threads case digest` for every instruction set that this machine has and every case.
//!
//! `conformance-guest FIRST END WORDS_MAX THREADS ...`: the inputs, and numbers of threads to use one after another.

use std::error::Error;
use std::num::NonZeroUsize;
use std::process::ExitCode;

use lockstep_conformance::{Inputs, digest, kernels};
use lockstep_numeric::Isa;
use lockstep_numeric::selftest::cases;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [first, end, words_max, threads @ ..] = arguments else {
        return Err("expected FIRST END WORDS_MAX THREADS ...".into());
    };
    let inputs = Inputs {
        first: first.parse()?,
        end: end.parse()?,
        words_max: words_max.parse()?,
    };
    for isa in Isa::available() {
        for threads in threads {
            let kernels = kernels(isa, threads.parse::<NonZeroUsize>()?)?;
            for case in cases() {
                let digest = digest(case, &kernels, inputs);
                println!("{isa} {threads} {} {digest}", case.name());
            }
        }
    }
    Ok(())
}
