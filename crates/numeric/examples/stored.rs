//! Prints what the kernels on stored matrices and on elements take on one core of this machine, in nanoseconds.
//!
//! `cargo run --release -p lockstep-numeric --example stored [portable] [avx2] [avx512]`
//!
//! Products: per multiply-add, for several batches. The rest: per element. Each figure is the best of some runs.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use lockstep_numeric::elementary::Function;
use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{Isa, Kernels, Pool, StoredRows, WeightFormat};

/// Rows and columns of the matrices.
const SIDE: usize = 1024;
/// Rows of the input.
const BATCHES: [usize; 6] = [1, 2, 5, 6, 16, 96];
/// Elements of a vector.
const COUNT: usize = 1 << 16;

fn main() {
    let chosen: Vec<Isa> = std::env::args()
        .skip(1)
        .map(|name| name.parse().expect("an instruction set"))
        .collect();
    let last = Isa::available().pop();
    for isa in Isa::available() {
        if chosen.contains(&isa) || chosen.is_empty() && Some(isa) == last {
            let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
            print(&Kernels::new(isa, pool).expect("available"));
        }
    }
}

fn print(kernels: &Kernels) {
    println!("{kernels:?}, batches {BATCHES:?}");
    let mut generator = Generator::new(1);
    let mut output = vec![0.0; 96 * SIDE];
    let inputs = BATCHES.map(|batch| {
        (0..batch * SIDE)
            .map(|_| generator.ordinary(2.0))
            .collect::<Vec<f32>>()
    });
    for format in WeightFormat::ALL {
        let bytes = vec![0x11; StoredRows::bytes(format, SIDE, SIDE).expect("whole blocks")];
        let bytes = match format {
            WeightFormat::Int8 => vec![0; bytes.len()],
            _ => bytes,
        };
        let weights = StoredRows::new(format, SIDE, SIDE, &bytes).expect("a valid shape");
        let times = BATCHES.map(|batch| {
            let input = &inputs[BATCHES
                .iter()
                .position(|b| *b == batch)
                .expect("one of them")];
            let output = &mut output[..batch * SIDE];
            best(batch * SIDE * SIDE, || {
                kernels.matmul_stored(&weights, input, batch, output)
            })
        });
        println!("{format:>6} {times:>8.4?}");
    }
    let b: Vec<f32> = (0..SIDE * SIDE).map(|_| generator.ordinary(2.0)).collect();
    let times = BATCHES.map(|batch| {
        let input = &inputs[BATCHES
            .iter()
            .position(|b| *b == batch)
            .expect("one of them")];
        let output = &mut output[..batch * SIDE];
        best(batch * SIDE * SIDE, || {
            kernels.matmul_f32(input, &b, (batch, SIDE, SIDE), output);
        })
    });
    println!("matmul {times:>8.4?}");
    let values: Vec<f32> = (0..COUNT).map(|_| generator.ordinary(20.0)).collect();
    let other = values.clone();
    let mut changed = values.clone();
    let mut row = |name: &str, run: &dyn Fn(&mut [f32])| {
        let time = best(COUNT, || {
            changed.copy_from_slice(&values);
            run(&mut changed);
        });
        println!("{name} {time:.3}");
    };
    row("copy", &|_| {});
    row("exp", &|values| kernels.apply(Function::Exp, values));
    // An input that no approximation decides, and one whose value is subnormal.
    for dearest in [f32::from_bits(0xc169_12cd), -90.0] {
        row("exp of the dearest", &|values| {
            values.fill(dearest);
            kernels.apply(Function::Exp, values);
        });
    }
    row("softmax", &|values| kernels.softmax_rows(values, SIDE));
    row("silu_mul", &|values| kernels.silu_mul(values, &other));
    row("add", &|values| kernels.add(values, &other));
    row("rms_norm", &|values| {
        kernels.rms_norm(&other, &other[..SIDE], 1e-5, COUNT / SIDE, values);
    });
}

/// Best time of one run, in nanoseconds per operation.
fn best(operations: usize, mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < 0.1 {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed().as_secs_f64());
    }
    best * 1e9 / operations as f64
}
