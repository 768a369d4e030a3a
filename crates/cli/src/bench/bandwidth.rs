//! What the memory delivers: the sum over a buffer far larger than the caches, on each thread its own.

use memmap2::MmapMut;
use std::{
    hint::black_box,
    io,
    num::NonZeroUsize,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

const BUFFER_BYTES: usize = 256 << 20;
/// Bytes read between two additions to the same accumulator: 16 words.
const STRIDE: usize = 128;
const PASSES: usize = 7;

/// Bytes per second that `threads` read together, the best of some passes: other processes only lower it.
pub(super) fn measure(threads: NonZeroUsize) -> io::Result<f64> {
    let barrier = Barrier::new(threads.get());
    // Every buffer is written by the thread that reads it, before the first pass.
    let mut buffers = (0..threads.get())
        .map(|_| MmapMut::map_anon(BUFFER_BYTES))
        .collect::<io::Result<Vec<_>>>()?;
    let times = thread::scope(|scope| {
        let workers: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| {
                scope.spawn(|| {
                    // Small pages cost a part of the bandwidth; where large ones are refused, so be it.
                    #[cfg(target_os = "linux")]
                    let _ = buffer.advise(memmap2::Advice::HugePage);
                    buffer.fill(1);
                    read(buffer, &barrier)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("reading does not panic"))
            .collect::<Vec<_>>()
    });
    // A pass lasts as long as its slowest thread.
    let best = (0..PASSES)
        .map(|pass| times.iter().map(|times| times[pass]).max())
        .min()
        .flatten()
        .unwrap_or(Duration::MAX);
    Ok((BUFFER_BYTES * threads.get()) as f64 / best.as_secs_f64())
}

fn read(buffer: &[u8], barrier: &Barrier) -> Vec<Duration> {
    (0..PASSES)
        .map(|_| {
            barrier.wait();
            let begun = Instant::now();
            black_box(sum(black_box(buffer)));
            begun.elapsed()
        })
        .collect()
}

/// Sums the buffer's words in 16 accumulators, which compiles to vector additions.
fn sum(buffer: &[u8]) -> u64 {
    let mut sums = [0u64; STRIDE / 8];
    for stride in buffer.as_chunks::<STRIDE>().0 {
        for (sum, word) in sums.iter_mut().zip(stride.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_whole_strides_is_summed_once() {
        let bytes: Vec<u8> = (1..=64u64).flat_map(u64::to_ne_bytes).collect();
        assert_eq!(sum(&bytes), 64 * 65 / 2);
    }
}
