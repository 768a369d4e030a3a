//! `tiny DIRECTORY`: writes a small file with pseudo-random weights for every architecture and kind of weights, and beside
//! each the logits behind every token of a short text: `NAME.gguf`, and `NAME.json` with the tokens and a row for each. Under
//! `adapted` are the rows with an adapter, `NAME.adapter.gguf`, which changes every matrix it can, under `moved` those of the
//! bare file with the weights of all norms a ten-thousandth larger: how far roundings alone carry.
//!
//! `bench/architectures.py` compares them with llama.cpp's.
use lockstep_model::{
    Adapter, Model, Sequence,
    arch::TINY,
    fixture::{self, Weights},
    gguf::{Gguf, TensorType},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{error::Error, fs, num::NonZeroUsize, path::PathBuf, sync::Arc};

/// Tokens of the text.
const LENGTH: u32 = 96;
/// Of the adapters.
const RANK: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: tiny DIRECTORY")?;
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory)?;
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::Portable, pool)?);
    for of in TINY {
        for (weights, kind) in [(Weights::Float, "f32"), (Weights::Mixed, "mixed")] {
            let name = format!("{}-{kind}", of.architecture);
            let bytes = fixture::tiny(of, 11, weights).build();
            fs::write(directory.join(format!("{name}.gguf")), &bytes)?;
            let model = Model::from_bytes(&bytes)?;
            let vocabulary = model.graph().vocabulary as u32;
            let tokens: Vec<u32> = (0..LENGTH)
                .map(|index| (index * index * 7 + 3) % vocabulary)
                .collect();
            let base = Some(model.digest());
            let adapter = fixture::adapter(&bytes, 5, RANK, TensorType::F32, base).build();
            fs::write(directory.join(format!("{name}.adapter.gguf")), &adapter)?;
            let adapter = Adapter::from_gguf(&adapter, &model, None)?;
            let rows = |model: &Arc<Model>, adapter| rows(model, &kernels, &tokens, adapter);
            let text = serde_json::json!({
                "tokens": tokens,
                "logits": rows(&model, None)?,
                "adapted": rows(&model, Some(adapter))?,
                "moved": rows(&Model::from_bytes(&moved(&bytes)?)?, None)?,
            });
            fs::write(directory.join(format!("{name}.json")), text.to_string())?;
            println!("{name}");
        }
    }
    Ok(())
}

/// The logits behind each token.
fn rows(
    model: &Arc<Model>,
    kernels: &Arc<Kernels>,
    tokens: &[u32],
    adapter: Option<Arc<Adapter>>,
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let mut sequence = Sequence::new(Arc::clone(model), Arc::clone(kernels), tokens.len());
    sequence.set_adapter(adapter)?;
    let row = |token: &u32| {
        sequence.begin(&[*token], true)?;
        sequence.finish();
        Ok(sequence.logits().to_vec())
    };
    tokens.iter().map(row).collect()
}

/// The file with the weights of all norms a ten-thousandth larger.
fn moved(file: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut moved = file.to_vec();
    for (name, info) in Gguf::parse(file)?.tensors() {
        if name.ends_with("norm.weight") {
            for bytes in moved[info.range.clone()].as_chunks_mut().0 {
                *bytes = (f32::from_le_bytes(*bytes) * 1.0001).to_le_bytes();
            }
        }
    }
    Ok(moved)
}
