//! What a fork and a join cost: this crate's pool beside rayon's.
//!
//! `cargo run --release -p lockstep-numeric --example pool [threads]`
//!
//! Rounds of a task per thread that does nothing or some microseconds of arithmetic, one right after the other as the
//! kernels of a token are; the median time of a round.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::Instant;

use lockstep_numeric::Pool;

/// Rounds per measurement.
const ROUNDS: usize = 20_000;
/// Additions of a task: nothing, and about 2 and 20 microseconds.
const WORK: [u32; 3] = [0, 2_000, 20_000];

fn main() {
    let available = std::thread::available_parallelism().map_or(2, usize::from);
    let threads = std::env::args()
        .nth(1)
        .map_or(available, |text| text.parse().expect("a number of threads"));
    let pool = Pool::new(NonZeroUsize::new(threads).expect("at least one"));
    let rayon = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("threads");
    for work in WORK {
        let alone = median(|| task(work));
        let ours = median(|| pool.run(threads, &|range| range.for_each(|_| task(work))));
        let theirs = rayon.install(|| {
            median(|| {
                rayon::scope(|scope| {
                    (1..threads).for_each(|_| scope.spawn(move |_| task(work)));
                    task(work);
                });
            })
        });
        println!(
            "{threads} threads, {alone:.2} us of work each: ours {ours:.2} us, rayon {theirs:.2} us"
        );
    }
}

/// Work that the compiler cannot leave out.
fn task(additions: u32) {
    let mut sum = 0.0f32;
    for index in 0..additions {
        sum = black_box(sum + index as f32);
    }
    black_box(sum);
}

/// Microseconds of the median round.
fn median(mut round: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let before = Instant::now();
            round();
            before.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
