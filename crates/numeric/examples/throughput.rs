//! Prints how fast the kernels are on this machine, on the shapes of SmolLM2-135M.
//!
//! `cargo run --release -p lockstep-numeric --example throughput [portable] [avx2] [avx512]`
//!
//! Decode: gigabytes of packed weights read per second, one token at a time through every matrix of the model. Prefill:
//! thousands of millions of multiply-adds per second, 512 tokens. Each matrix and kernel counts with its best run, so that
//! other work on the machine disturbs little.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use lockstep_numeric::selftest::Generator;
use lockstep_numeric::{
    ActivationFormat, AttentionSegment, Isa, Kernels, KvFormat, KvLayer, PackedMatrix, Packer,
    Pool, QuantizedRows, WeightFormat,
};

const LAYERS: usize = 30;
const PROMPT: usize = 512;
const HEADS: usize = 9;
const KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const FEED_FORWARD: usize = 1536;
/// Rows and columns of one layer's matrices.
const SHAPES: [(usize, usize); 7] = [
    (576, 576),
    (192, 576),
    (192, 576),
    (576, 576),
    (1536, 576),
    (1536, 576),
    (576, 1536),
];

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let chosen: Vec<Isa> = std::env::args()
        .skip(1)
        .map(|name| name.parse().expect("an instruction set"))
        .collect();
    for isa in Isa::available()
        .into_iter()
        .filter(|isa| chosen.is_empty() || chosen.contains(isa))
    {
        for threads in 1..=threads {
            let pool = Arc::new(Pool::new(NonZeroUsize::new(threads).expect("at least one")));
            let kernels = Kernels::new(isa, pool).expect("available");
            products(&kernels);
            others(&kernels);
        }
    }
}

/// Best time of one run, in seconds, over about half a second.
fn best(mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed().as_secs_f64() < 0.5 {
        let before = Instant::now();
        run();
        best = best.min(before.elapsed().as_secs_f64());
    }
    best
}

/// The matrices of `layers` layers, side by side in memory.
fn matrices(format: WeightFormat, layers: usize) -> Vec<PackedMatrix> {
    let bytes =
        |(rows, columns)| PackedMatrix::packed_bytes(format, rows, columns).expect("a valid shape");
    let mut packer = Packer::with_capacity(layers * SHAPES.map(bytes).iter().sum::<usize>());
    for (rows, columns) in (0..layers).flat_map(|_| SHAPES) {
        let stored = vec![0x11; rows * format.row_bytes(columns).expect("whole blocks")];
        packer
            .pack(format, rows, columns, &stored)
            .expect("a valid shape");
    }
    packer.finish()
}

fn quantized(kernels: &Kernels, batch: usize, columns: usize) -> QuantizedRows {
    let mut generator = Generator::new(1);
    let input: Vec<f32> = (0..batch * columns)
        .map(|_| generator.ordinary(4.0))
        .collect();
    let mut rows = QuantizedRows::default();
    kernels.quantize(
        ActivationFormat::Blocks32,
        &input,
        batch,
        columns,
        &mut rows,
    );
    rows
}

fn products(kernels: &Kernels) {
    let slow = kernels.isa() == Isa::Portable;
    let (layers, prompt) = if slow { (2, 24) } else { (LAYERS, PROMPT) };
    for format in [WeightFormat::Q8_0, WeightFormat::Q4_0, WeightFormat::Q4_1] {
        let model = matrices(format, layers);
        let bytes: usize = model.iter().map(PackedMatrix::resident_bytes).sum();
        let macs: usize = SHAPES.iter().map(|(rows, columns)| rows * columns).sum();
        let mut output = vec![0.0; prompt * FEED_FORWARD];
        let mut pass = |matrices: &[PackedMatrix], batch: usize| {
            let (narrow, wide) = (
                quantized(kernels, batch, 576),
                quantized(kernels, batch, FEED_FORWARD),
            );
            let mut best = vec![f64::INFINITY; matrices.len()];
            let start = Instant::now();
            while start.elapsed().as_secs_f64() < 1.0 {
                for (matrix, best) in matrices.iter().zip(&mut best) {
                    let input = if matrix.columns() == 576 {
                        &narrow
                    } else {
                        &wide
                    };
                    let before = Instant::now();
                    kernels.matmul(matrix, input, &mut output[..batch * matrix.rows()]);
                    *best = best.min(before.elapsed().as_secs_f64());
                }
            }
            best.iter().sum::<f64>()
        };
        let decode = pass(&model, 1);
        let prefill = pass(&model[..SHAPES.len()], prompt);
        println!(
            "{} {format} {} threads: decode {:.2} GB/s ({:.2} ms), prefill {:.1} GMAC/s",
            kernels.isa(),
            kernels.pool().threads(),
            bytes as f64 / decode / 1e9,
            decode * 1e3,
            (macs * prompt) as f64 / prefill / 1e9,
        );
    }
}

fn others(kernels: &Kernels) {
    let batch = if kernels.isa() == Isa::Portable {
        24
    } else {
        PROMPT
    };
    let mut generator = Generator::new(2);
    let mut values =
        |count: usize| -> Vec<f32> { (0..count).map(|_| generator.ordinary(2.0)).collect() };
    let (keys, contents) = (
        values(batch * KV_HEADS * HEAD_DIM),
        values(batch * KV_HEADS * HEAD_DIM),
    );
    let queries = values(batch * HEADS * HEAD_DIM);
    let mut output = vec![0.0; queries.len()];
    let last = &queries[..HEADS * HEAD_DIM];
    for format in KvFormat::ALL {
        let mut cache = KvLayer::with_capacity(format, KV_HEADS, HEAD_DIM, batch);
        let store = best(|| kernels.store_kv(&mut cache, 0, &keys, &contents));
        let segment = |first_position, rows| AttentionSegment {
            cache: &cache,
            first_position,
            rows,
            window: None,
        };
        let prefill =
            best(|| kernels.attention(&queries, HEADS, &[segment(0, batch)], &mut output));
        let decode = best(|| {
            let output = &mut output[..HEADS * HEAD_DIM];
            kernels.attention(last, HEADS, &[segment(batch - 1, 1)], output);
        });
        println!(
            "{} {} threads, {batch} tokens, one layer: attention over {format} {:.3} ms (one token {:.1} us), stored in {:.3} ms",
            kernels.isa(),
            kernels.pool().threads(),
            prefill * 1e3,
            decode * 1e6,
            store * 1e3,
        );
    }
    let up = values(batch * FEED_FORWARD);
    let gate = values(batch * FEED_FORWARD);
    let mut scratch = gate.clone();
    let silu = best(|| {
        scratch.copy_from_slice(&gate);
        kernels.silu_mul(&mut scratch, &up);
    });
    let weight = values(576);
    let rms = best(|| kernels.rms_norm(&queries, &weight, 1e-5, batch, &mut output));
    let mut rows = QuantizedRows::default();
    let quantize =
        best(|| kernels.quantize(ActivationFormat::Blocks32, &queries, batch, 576, &mut rows));
    println!(
        "{} {} threads, {batch} tokens, one layer: silu_mul {:.3} ms, rms_norm {:.3} ms, quantize {:.3} ms",
        kernels.isa(),
        kernels.pool().threads(),
        silu * 1e3,
        rms * 1e3,
        quantize * 1e3,
    );
}
