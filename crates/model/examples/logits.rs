//! `logits MODEL`: reads a JSON list of tokens from standard input and writes the logits behind each, a JSON row a line. MODEL
//! is a GGUF file or the folder of a checkpoint.
//!
//! `bench/checkpoints.py` compares them with those of the library that checkpoints are made for.
use lockstep_model::{Model, Sequence};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{error::Error, io::stdin, num::NonZeroUsize, path::PathBuf, sync::Arc};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: logits MODEL")?;
    let tokens: Vec<u32> = serde_json::from_reader(stdin().lock())?;
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool)?);
    let model = Model::open(&PathBuf::from(path))?;
    let mut sequence = Sequence::new(model, kernels, tokens.len());
    for token in tokens {
        sequence.begin(&[token], true)?;
        sequence.finish();
        println!("{}", serde_json::to_string(sequence.logits())?);
    }
    Ok(())
}
