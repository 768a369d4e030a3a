//! Language models as data: files, tokenizers, op graphs, execution, sampling and transcripts.
//!
//! # Design
//! A GGUF file is mapped and digested ([`mod@file`], [`digest`]), read ([`gguf`]), and turned into a
//! list of named operations by the one file that knows its architecture ([`arch`], [`graph`]); a
//! trained [`checkpoint`] is read as the GGUF file of the same model. [`model::Model`] holds the packed
//! weights, the tokenizer and the chat template, shared by any number of [`execute::Sequence`]s that
//! walk the list; a [`prepared`] file has the weights as they are packed, and is used in place; a
//! [`shelf`] holds models within a budget of memory. An [`adapter`] changes what a text's products
//! give. [`generate::Generation`] adds sampling, what steers it ([`steer`], [`constrain`]), and the
//! bookkeeping that a replicated run needs; [`transcript`] writes a run down and checks it, and
//! [`selfcheck`] compares runs that may not differ. [`quantize`] writes a model's file again with its
//! weights in other formats.
//!
//! # Determinism
//! Every number comes from `lockstep-numeric`; this crate only decides which operations run in
//! which order. Tokens, text, logits and the transcript chain depend on the model file, the adapter,
//! the prompt, sampling and steering, and the format of keys and values alone: not on threads, vector
//! width, prefill chunks, pages, budgets or where a run was interrupted. [`perplexity`] is the one exception, and says so.
#![deny(unsafe_code)]

pub mod adapter;
pub mod arch;
pub mod checkpoint;
pub mod constrain;
pub mod digest;
mod element;
pub mod execute;
pub mod file;
mod finite;
pub mod fixture;
#[doc(hidden)]
pub mod fuzz;
pub mod generate;
pub mod gguf;
pub mod graph;
pub mod model;
pub mod perplexity;
pub mod prepared;
pub mod quantize;
pub mod sample;
pub mod selfcheck;
pub mod shelf;
pub mod steer;
pub mod template;
pub mod tokenizer;
pub mod transcript;

pub use adapter::{Adapter, AdapterError};
pub use digest::Digest;
pub use execute::{Batch, Sequence};
pub use generate::{Ended, Generation, GenerationError, Params, Progress, Prompt};
pub use graph::{Graph, Work};
pub use model::{Model, ModelError};
pub use sample::Sampling;
pub use shelf::{Shelf, ShelfError};
pub use steer::{Bias, Steering};
pub use template::{Message, Role};
pub use transcript::Transcript;
