//! Compares an elementary function with an independent correctly rounded one on all 2^32 inputs.
//!
//! `cargo run --release -p lockstep-numeric --example exhaustive -- exp [first byte] [last byte]`
//!
//! The optional bytes, in hexadecimal, restrict the run to inputs whose most significant byte lies between them. Prints
//! every difference and the number of hard inputs, those that an f64 evaluation cannot decide, and exits with 1 if
//! anything differs.

#[path = "../tests/oracle/mod.rs"]
mod oracle;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use lockstep_numeric::elementary;

/// Hard inputs that are printed.
const PRINTED: usize = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("exp", String::as_str);
    let (ours, oracle): (fn(f32) -> f32, _) = match name {
        "exp" => (elementary::exp, oracle::EXP),
        "sin" => (elementary::sin, oracle::SIN),
        "cos" => (elementary::cos, oracle::COS),
        _ => {
            eprintln!("error: unknown function, expected exp, sin or cos: {name}");
            return ExitCode::from(2);
        }
    };
    let byte = |index: usize, default| {
        arguments
            .get(index)
            .map_or(Ok(default), |text| u32::from_str_radix(text, 16))
            .expect("a hexadecimal byte")
    };
    let (first, last) = (byte(1, 0), byte(2, 0xff));

    let next = AtomicU32::new(first);
    let (hard, differences) = (Mutex::new(Vec::new()), Mutex::new(0u64));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let high = next.fetch_add(1, Ordering::Relaxed);
                    if high > last {
                        return;
                    }
                    for low in 0..1 << 24 {
                        let bits = high << 24 | low;
                        let x = f32::from_bits(bits);
                        let (expected, is_hard) = oracle.evaluate(x);
                        if is_hard {
                            hard.lock().expect("no panic").push(bits);
                        }
                        let actual = ours(x);
                        if actual.to_bits() != expected.to_bits() {
                            println!(
                                "{name}({bits:#010x} = {x:e}): {actual:e} instead of {expected:e}"
                            );
                            *differences.lock().expect("no panic") += 1;
                        }
                    }
                }
            });
        }
    });

    let mut hard = hard.into_inner().expect("no panic");
    hard.sort_unstable();
    let differences = differences.into_inner().expect("no panic");
    println!(
        "{name}, top bytes {first:#04x} to {last:#04x}: {differences} differences, {} hard inputs",
        hard.len()
    );
    for bits in hard.iter().take(PRINTED) {
        print!("{bits:#010x} ");
    }
    println!();
    ExitCode::from(u8::from(differences != 0))
}
