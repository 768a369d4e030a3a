//! What has to hold for any bytes: the oracles of the fuzz targets, of the corpus and of the tests that change it.
//!
//! # Design
//! A target in `fuzz/` only joins bytes to a function here. Each takes bytes apart into what a parser reads, and fails by a
//! panic: that of the parser, or one of its own when something is accepted that may not be.
use crate::{
    Adapter, Generation, Model, Params, Prompt, Work,
    checkpoint::{Checkpoint, Files},
    fixture,
    gguf::Gguf,
    template::{Message, Role, Template},
    tokenizer::{Control, Tokenizer},
};
use lockstep_numeric::{Isa, Kernels, Pool};
use std::{
    num::NonZeroUsize,
    sync::{Arc, LazyLock},
};

#[cfg(test)]
mod tests;

/// An oracle.
pub type Oracle = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: &[(&str, Oracle)] = &[
    ("gguf", gguf),
    ("checkpoint", checkpoint),
    ("tokenizer", tokenizer),
    ("template", template),
    ("peft", peft),
];

/// Bytes as parts: each but the last behind its length in four bytes.
fn parts<const N: usize>(mut bytes: &[u8]) -> [&[u8]; N] {
    let mut parts = [&bytes[..0]; N];
    let (last, others) = parts.split_last_mut().expect("there are parts");
    for part in others {
        let Some((length, rest)) = bytes.split_first_chunk::<4>() else {
            return parts;
        };
        let length = u32::from_le_bytes(*length) as usize;
        (*part, bytes) = rest.split_at(length.min(rest.len()));
    }
    *last = bytes;
    parts
}

/// The bytes that the oracles take apart into these parts.
#[must_use]
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in (1..).zip(parts) {
        if index < parts.len() {
            bytes.extend((part.len() as u32).to_le_bytes());
        }
        bytes.extend(*part);
    }
    bytes
}

/// A model file: its tensors are where they are said to be; a model that opens can generate or says why not.
pub fn gguf(bytes: &[u8]) {
    let Ok(file) = Gguf::parse(bytes) else {
        return;
    };
    for name in file.tensors().keys() {
        assert!(file.tensor_bytes(name).is_ok(), "{name}");
    }
    if let Ok(model) = Model::from_bytes(bytes) {
        run(model);
    }
}

/// Generates two tokens or fails.
fn run(model: Arc<Model>) {
    let pool = Arc::new(Pool::new(NonZeroUsize::MIN));
    let kernels = Kernels::new(Isa::Portable, pool).expect("these kernels are everywhere");
    let prompt = Prompt::Text("the users".to_owned());
    let params = Params {
        tokens_max: Some(2),
        ..Params::default()
    };
    if let Ok(mut generation) = Generation::start(model, Arc::new(kernels), &prompt, params) {
        let _ = generation.advance(2, Work::MAX);
    }
}

/// Settings, tokenizer, what is said beside that, and tensors: a checkpoint that opens is written as a file that is read.
pub fn checkpoint(bytes: &[u8]) {
    let [config, tokenizer, settings, tensors] = parts(bytes);
    let names = [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.safetensors",
    ];
    let files = names
        .into_iter()
        .zip([config, tokenizer, settings, tensors]);
    let files: Files<'_> = files
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect();
    let Ok(checkpoint) = Checkpoint::open(&files) else {
        return;
    };
    let mut file = Vec::new();
    checkpoint.write(&mut file).expect("memory takes bytes");
    assert_eq!(file.len() as u64, checkpoint.file_bytes());
    let read = Gguf::parse(&file).expect("what is written is a file");
    crate::arch::graph(&read).expect("what the checkpoint has makes a graph");
    Tokenizer::from_metadata(&read).expect("what the checkpoint has makes a tokenizer");
    if let Ok(model) = Model::from_bytes(&file) {
        run(model);
    }
}

/// A file's tokenizer and a text: ids are of the vocabulary, no text becomes a control token, and shielding changes nothing.
pub fn tokenizer(bytes: &[u8]) {
    let [file, text] = parts(bytes);
    let Ok(file) = Gguf::parse(file) else { return };
    let Ok(tokenizer) = Tokenizer::from_metadata(&file) else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let ids = tokenizer.encode(&text, Control::Spelled);
    for id in &ids {
        assert!((*id as usize) < tokenizer.vocabulary());
        assert!(!tokenizer.is_control(*id), "{id}");
    }
    let shielded = tokenizer.encode(&tokenizer.shield(&text), Control::Parsed);
    assert_eq!(shielded, ids);
    let _ = tokenizer.decode(&ids);
    let _ = tokenizer.encode(&text, Control::Parsed);
}

/// Settings and tensors of an adapter: one that is read is written as a file that is read as the same.
pub fn peft(bytes: &[u8]) {
    static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
        let file = fixture::tiny_llama(1).build();
        Model::from_bytes(&file).expect("small files are models")
    });
    let [config, tensors] = parts(bytes);
    let base = Some(MODEL.digest());
    let Ok(adapter) = Adapter::from_peft(config, tensors, &MODEL, base) else {
        return;
    };
    let mut file = Vec::new();
    adapter.write(&mut file).expect("memory takes bytes");
    let read = Adapter::from_gguf(&file, &MODEL, None).expect("what is written is a file");
    assert_eq!(read.digest(), adapter.digest());
}

/// A template and a message: it fails or makes tokens.
pub fn template(bytes: &[u8]) {
    let [source, content] = parts(bytes);
    let Ok(source) = std::str::from_utf8(source) else {
        return;
    };
    let Ok(template) = Template::new(source.to_owned()) else {
        return;
    };
    let file = fixture::tiny_llama(1).build();
    let file = Gguf::parse(&file).expect("small files are files");
    let tokenizer = Tokenizer::from_metadata(&file).expect("they have a tokenizer");
    let message = |role| Message {
        role,
        content: String::from_utf8_lossy(content).into_owned(),
    };
    let messages = [Role::System, Role::User, Role::Assistant, Role::User].map(message);
    let _ = template.encode(&tokenizer, &messages, true);
}
