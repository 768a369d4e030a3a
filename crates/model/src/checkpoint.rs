//! Reads models in the form in which they are trained and published (`config.json`, `tokenizer.json`, `*.safetensors`) and
//! writes them as the GGUF files of the same models.
//!
//! # Design
//! There is one loader, for GGUF. A checkpoint is turned into what a GGUF file of it would be: settings become metadata
//! (`arch::origin`), tensors get their other names (`arch::names`), rows of queries and keys the order in which they are
//! stored there, norms their other offset, the matrices of experts one tensor. [`Checkpoint::open`] looks at everything but the
//! values of the weights, and refuses what the loader would refuse; [`Checkpoint::write`] writes tensor by tensor.
//!
//! Matrices keep their type (F32, F16 or BF16); vectors and the taps of convolutions become F32. The caller brings the bytes of
//! the files, mapped for example: those of which [`wanted`] says yes.
//!
//! # Determinism
//! The bytes that are written depend on those of the files alone, not on the name of their folder.
//!
//! # Errors
//! The files are untrusted. Sizes are bounded by what the files hold before anything is made of them.
mod config;
mod tensors;
#[cfg(test)]
mod tests;
mod tokens;

use crate::{
    arch::{self, origin},
    gguf::{Gguf, GgufError, Value, Writer},
    graph::GraphError,
    template::{Template, TemplateError},
    tokenizer::{Tokenizer, TokenizerError},
};
pub(crate) use config::{Config, unsupported};
use serde_json::Value as Json;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};
pub(crate) use tensors::INDEX;
use tensors::Tensors;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// The bytes of files by their names.
pub type Files<'f> = BTreeMap<String, &'f [u8]>;

/// Why a checkpoint is not a model that can be run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CheckpointError {
    #[error("the checkpoint has no file of this name: {file}")]
    MissingFile { file: String },
    #[error("file is not UTF-8: {file}")]
    NotText { file: String },
    #[error("file is not the JSON that is expected: {file}")]
    Json {
        file: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("file is not a safetensors file: {file}")]
    Safetensors {
        file: String,
        #[source]
        source: safetensors::SafeTensorError,
    },
    #[error("{file} does not say: {key}")]
    MissingValue { file: String, key: String },
    #[error("{file} has something else than {wanted} in {key}: {found}")]
    InvalidValue {
        file: String,
        key: String,
        wanted: String,
        found: String,
    },
    #[error("unsupported model type (known: {known}): {name}")]
    UnsupportedModel { name: String, known: String },
    #[error("the checkpoint uses a feature that is not supported: {feature}")]
    UnsupportedFeature { feature: String },
    #[error("tensor type is not supported here (supported: F32, F16, BF16): {tensor} is {found}")]
    UnsupportedType { tensor: String, found: String },
    #[error("the architecture has no use for a tensor of the checkpoint: {tensor}")]
    UnusedTensor { tensor: String },
    #[error("tensor is in two files, {first} and {second}: {tensor}")]
    DuplicateTensor {
        tensor: String,
        first: String,
        second: String,
    },
    #[error("tensor is missing in {file}: {tensor}")]
    MissingTensor { tensor: String, file: String },
    #[error("tensor has shape {found:?} where {wanted} is expected: {tensor}")]
    WrongShape {
        tensor: String,
        wanted: String,
        found: Vec<usize>,
    },
    #[error("two tokens have the id {id}: {first} and {second}")]
    DuplicateId {
        id: u32,
        first: String,
        second: String,
    },
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Whether a checkpoint has use for a file of this name.
#[must_use]
pub fn wanted(name: &str) -> bool {
    let known = [
        CONFIG,
        TOKENIZER,
        TOKENIZER_CONFIG,
        GENERATION_CONFIG,
        TEMPLATE,
        INDEX,
    ];
    known.contains(&name) || (name.starts_with("model") && name.ends_with(".safetensors"))
}

/// A checkpoint, ready to be written as a GGUF file.
#[derive(Clone, Debug)]
pub struct Checkpoint<'f> {
    metadata: Vec<(String, Value)>,
    tensors: Tensors<'f>,
    writer: Writer,
}

impl<'f> Checkpoint<'f> {
    /// Looks at everything but the values of the weights.
    ///
    /// # Errors
    /// When a file is missing or malformed, the files contradict each other, or the model is not one that can be run.
    pub fn open(files: &Files<'f>) -> Result<Self, CheckpointError> {
        let json = read_json(files, CONFIG)?.ok_or_else(|| missing(CONFIG))?;
        let config = Config::new(CONFIG, &json)?;
        let description = origin::describe(&config)?;
        let tensors = Tensors::read(files, &description)?;
        let rows = tensors.vocabulary()?;
        if rows != description.vocabulary {
            let found = format!(
                "{}, but the embedding has {rows} rows",
                description.vocabulary
            );
            return Err(CheckpointError::InvalidValue {
                file: CONFIG.to_owned(),
                key: "vocab_size".to_owned(),
                wanted: "the size of the embedding".to_owned(),
                found,
            });
        }
        let text = |text: &str| Value::String(text.to_owned());
        let name = config.optional_text("_name_or_path")?.unwrap_or_default();
        let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
        let name = match name {
            "" => description.architecture,
            name => name,
        };
        let mut metadata = vec![
            (
                "general.architecture".to_owned(),
                text(description.architecture),
            ),
            ("general.name".to_owned(), text(name)),
            ("general.file_type".to_owned(), tensors.file_type()),
        ];
        metadata.extend(description.metadata);
        metadata.extend(tokens::metadata(files, &config, rows)?);
        let gguf = Gguf::of_table(&metadata, tensors.table())?;
        arch::graph(&gguf)?;
        Tokenizer::from_metadata(&gguf)?;
        if let Some(source) = gguf.metadata().get("tokenizer.chat_template") {
            Template::new(source.as_str().unwrap_or_default().to_owned())?;
        }
        Ok(Self {
            writer: Writer::new(&metadata, tensors.table()),
            metadata,
            tensors,
        })
    }

    /// The metadata that the file has.
    #[must_use]
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.writer.file_bytes()
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Whatever `out` gives.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.writer.write(out, |index, bytes| {
            self.tensors.append(index, bytes);
            Ok(())
        })
    }
}

fn missing(file: &str) -> CheckpointError {
    CheckpointError::MissingFile {
        file: file.to_owned(),
    }
}

/// A file's JSON, if it is there.
fn read_json(files: &Files<'_>, file: &str) -> Result<Option<Json>, CheckpointError> {
    let Some(bytes) = files.get(file) else {
        return Ok(None);
    };
    let json = serde_json::from_slice(bytes);
    json.map(Some).map_err(|source| CheckpointError::Json {
        file: file.to_owned(),
        source,
    })
}
