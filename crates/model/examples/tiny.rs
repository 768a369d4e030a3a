//! `tiny DIRECTORY`: writes a small file with pseudo-random weights for every architecture and kind of weights, and beside
//! each the logits behind every token of a short text: `NAME.gguf`, and `NAME.json` with the tokens and a row for each. Under
//! `adapted` are the rows with an adapter, `NAME.adapter.gguf`, which changes every matrix it can, under `moved` those of the
//! bare file with the weights of all norms a ten-thousandth larger: how far roundings alone carry. `tiny DIRECTORY formats`
//! writes wider ones in every format that files can have, as `lockstep quantize` chooses it for their tensors.
//!
//! `bench/architectures.py` compares them with llama.cpp's.
use lockstep_model::{
    Adapter, Model, Sequence,
    arch::TINY,
    fixture::{self, Weights},
    gguf::{Gguf, TensorType},
    quantize::{Plan, Policy},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{
    error::Error,
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Tokens of the text.
const LENGTH: u32 = 96;
/// Of the adapters.
const RANK: usize = 8;
const FORMATS: [&str; 14] = [
    "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "IQ4_NL",
    "IQ4_XS", "Q3_K", "Q2_K",
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, by_format) = match arguments.as_slice() {
        [directory] => (PathBuf::from(directory), false),
        [directory, formats] if formats == "formats" => (PathBuf::from(directory), true),
        _ => return Err("usage: tiny DIRECTORY [formats]".into()),
    };
    fs::create_dir_all(&directory)?;
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Arc::new(Kernels::new(Isa::detect()?, pool)?);
    if by_format {
        return formats(&directory, &kernels);
    }
    for of in TINY {
        for (weights, kind) in [(Weights::Float, "f32"), (Weights::Mixed, "mixed")] {
            let name = format!("{}-{kind}", of.architecture);
            let bytes = fixture::tiny(of, 11, weights).build();
            fs::write(directory.join(format!("{name}.gguf")), &bytes)?;
            let model = Model::from_bytes(&bytes)?;
            let tokens = tokens(&model);
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

/// Wider files of every architecture and format.
fn formats(directory: &Path, kernels: &Arc<Kernels>) -> Result<(), Box<dyn Error>> {
    for (of, format) in TINY
        .iter()
        .flat_map(|of| FORMATS.map(|format| (of, format)))
    {
        let name = format!("{}-{}", of.architecture, format.to_lowercase());
        let source = fixture::tiny(&of.wide(), 11, Weights::Float).build();
        let source = Gguf::parse(&source)?;
        let policy = Policy::new(format)?;
        let mut bytes = Vec::new();
        let plan = Plan::new(&source, &policy, None, false)?;
        plan.write(kernels.pool(), &mut bytes, |_| ())?;
        fs::write(directory.join(format!("{name}.gguf")), &bytes)?;
        let model = Model::from_bytes(&bytes)?;
        let tokens = tokens(&model);
        let text = serde_json::json!({
            "tokens": tokens,
            "logits": rows(&model, kernels, &tokens, None)?,
            "moved": rows(&Model::from_bytes(&moved(&bytes)?)?, kernels, &tokens, None)?,
        });
        fs::write(directory.join(format!("{name}.json")), text.to_string())?;
        println!("{name}");
    }
    Ok(())
}

fn tokens(model: &Model) -> Vec<u32> {
    let vocabulary = model.graph().vocabulary as u32;
    (0..LENGTH)
        .map(|index| (index * index * 7 + 3) % vocabulary)
        .collect()
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
