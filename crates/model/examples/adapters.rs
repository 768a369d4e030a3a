//! `adapters MODEL [COUNT] [RANK] [ROUNDS] [THREADS]`: holds so many adapters with pseudo-random factors for all matrices of a
//! model, and says what memory they take and how fast texts decode with them.
//!
//! Passes of one text and of eight are taken in turns without adapters, with one for all, and with a different one for each;
//! adapters change from round to round, so that none is in a cache because it has just been used. A ratio is that of the
//! medians of two kinds in the same round, between which a machine changes least: its median over the rounds, and between
//! which values half of them lie. Decode begins behind a prompt of 64 tokens.
#![allow(
    clippy::disallowed_methods,
    reason = "measures speed; nothing replicated"
)]
use lockstep_model::{Adapter, Batch, Model, Sequence, execute::Member, fixture, gguf::TensorType};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{env, error::Error, fs, num::NonZeroUsize, path::Path, sync::Arc, time::Instant};

const PROMPT: usize = 64;
/// Passes of each kind in a round.
const PASSES: usize = 8;
const BYTES_PER_PAGE: usize = 4096;

/// Bytes of this process that are in memory.
fn resident() -> Result<usize, Box<dyn Error>> {
    let statm = fs::read_to_string("/proc/self/statm")?;
    let pages: usize = statm.split(' ').nth(1).ok_or("statm")?.parse()?;
    Ok(pages * BYTES_PER_PAGE)
}

/// Puts values in order, and gives that a part of the way through them.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// What is measured.
struct Kind {
    name: &'static str,
    texts: usize,
    /// How many different adapters.
    adapters: usize,
    /// The median pass of each round.
    seconds: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let path = arguments
        .first()
        .ok_or("usage: adapters MODEL [COUNT] [RANK] [ROUNDS] [THREADS]")?;
    let number = |index: usize, otherwise: usize| {
        let given = arguments.get(index).map(|text| text.parse::<usize>());
        given.unwrap_or(Ok(otherwise))
    };
    let (count, rank, rounds) = (number(1, 1000)?, number(2, 8)?, number(3, 20)?);
    let threads = NonZeroUsize::new(number(4, 2)?).ok_or("no threads")?;
    let kernels = Arc::new(Kernels::new(Isa::detect()?, Arc::new(Pool::new(threads)))?);

    let bytes = fs::read(path)?;
    let model = Model::open(Path::new(path))?;
    let bare = resident()?;
    let (mut adapters, mut stored) = (Vec::new(), 0);
    let begun = Instant::now();
    for seed in 0..count {
        let base = Some(model.digest());
        let file = fixture::adapter(&bytes, seed as u64, rank, TensorType::F16, base).build();
        stored += file.len();
        adapters.push(Adapter::from_gguf(&file, &model, None)?);
        drop(file);
    }
    let held = resident()?;
    let allowed = (bare + stored) as f64 * 1.05;
    println!(
        "{}: {:.1} MB of weights; {count} adapters of rank {rank}, {} matrices each, {:.2} MB of files, opened in {:.1} s",
        model.name(),
        model.resident_bytes() as f64 / 1e6,
        adapters
            .first()
            .map_or(0, |adapter| adapter.targets().len()),
        stored as f64 / 1e6,
        begun.elapsed().as_secs_f64(),
    );
    println!(
        "resident: {:.1} MB before, {:.1} MB with them, {:+.2} % of their sum with the files (allowed: {:.1} MB)",
        bare as f64 / 1e6,
        held as f64 / 1e6,
        (held as f64 / (bare + stored) as f64 - 1.0) * 100.0,
        allowed / 1e6,
    );

    let mut kinds = [
        ("1 text, bare", 1, 0),
        ("1 text, 1 adapter", 1, 1),
        ("8 texts, bare", 8, 0),
        ("8 texts, 1 adapter", 8, 1),
        ("8 texts, 8 adapters", 8, 8),
    ]
    .map(|(name, texts, adapters)| Kind {
        name,
        texts,
        adapters,
        seconds: Vec::new(),
    });
    let capacity = PROMPT + 1 + PASSES;
    let mut sequences: Vec<Sequence> = (0..8)
        .map(|_| Sequence::new(model.clone(), kernels.clone(), capacity))
        .collect();
    let mut batch = Batch::new(model.clone(), kernels.clone());
    let vocabulary = model.graph().vocabulary as u32;
    let prompt: Vec<u32> = (0..PROMPT as u32)
        .map(|i| (i * i * 7 + 3) % vocabulary)
        .collect();
    let mut next = 0;
    for _ in 0..rounds {
        for kind in &mut kinds {
            for (text, sequence) in sequences[..kind.texts].iter_mut().enumerate() {
                sequence.clear();
                let adapter = match kind.adapters {
                    0 => None,
                    different => Some(adapters[(next + text % different) % count].clone()),
                };
                sequence.set_adapter(adapter)?;
                sequence.begin(&prompt, false)?;
                sequence.finish();
            }
            next += kind.adapters;
            let mut seconds = Vec::new();
            for pass in 0..=PASSES {
                let token = [pass as u32 * 31 + 5];
                let mut members: Vec<_> = sequences[..kind.texts]
                    .iter_mut()
                    .map(|sequence| Member {
                        sequence,
                        tokens: &token,
                        logits: true,
                    })
                    .collect();
                let begun = Instant::now();
                batch.run(&mut members)?;
                // The first brings the adapter into the caches, if it fits, as any pass of a text does.
                if pass > 0 {
                    seconds.push(begun.elapsed().as_secs_f64());
                }
            }
            kind.seconds.push(quantile(&mut seconds, 0.5));
        }
    }
    println!(
        "| decode ({}, {threads} threads) | tokens/s | slower than bare | half of the rounds |",
        kernels.isa()
    );
    println!("|---|---|---|---|");
    for kind in &kinds {
        let bare = &kinds[if kind.texts == 1 { 0 } else { 2 }].seconds;
        let ratios = kind.seconds.iter().zip(bare);
        let mut ratios: Vec<f64> = ratios.map(|(kind, bare)| kind / bare).collect();
        println!(
            "| {} | {:.1} | {:.3} | {:.3} to {:.3} |",
            kind.name,
            kind.texts as f64 / quantile(&mut kind.seconds.clone(), 0.5),
            quantile(&mut ratios, 0.5),
            quantile(&mut ratios, 0.25),
            quantile(&mut ratios, 0.75),
        );
    }
    Ok(())
}
