//! Adapters: small changes of a model's matrices, held apart from it (LoRA: Hu et al., 2021).
//!
//! The record is docs/design/0011-adapters.md.
//!
//! # Design
//! An [`Adapter`] has for some matrices W of its base two factors of low rank, A and B, and applied W x becomes
//! W x + scale * (B (A x)) ([`lockstep_numeric::LowRank`]); scale is alpha / rank, or 1 for an alpha of 0, as llama.cpp
//! reads it. The base is not touched: texts with and without adapters, and with different ones, share it and go through
//! one pass ([`crate::Sequence::set_adapter`]).
//!
//! It is read from a GGUF file as llama.cpp has them ([`Adapter::from_gguf`]), or from a folder as PEFT writes it
//! ([`Adapter::from_peft`]). It belongs to one base, by the digest of its file. Such files do not say which, so the digest
//! stands under [`BASE_DIGEST`] in a GGUF file's metadata; where that is missing, whoever opens the file states the base,
//! and what [`Adapter::write`] writes says it from then on. [`merge`] writes a base with an adapter added to its weights.
//!
//! # Determinism
//! Values are those of the file: a pair of factors is held as F16 if all its values are such, as F32 otherwise. The
//! [`Adapter::digest`] is BLAKE3 of what [`Adapter::write`] writes, a function of the values, alpha and base.
//!
//! # Errors
//! Files are untrusted: targets the base has not, other shapes, NaNs, and every setting that is computed nowhere here are
//! [`AdapterError`]s that name them.
mod gguf;
mod merge;
mod peft;
#[cfg(test)]
mod tests;

pub use merge::{MergeError, merge};

use crate::{
    digest::Digest,
    file::{self, ReadError},
    gguf::{Gguf, GgufError, TensorType},
    graph::{Action, Graph, Shape, TensorId, Work},
    model::Model,
};
use lockstep_numeric::{Factors, LowRank, PackError};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The metadata key under which a GGUF adapter has its base's digest, as hexadecimal digits.
pub const BASE_DIGEST: &str = "lockstep.base.digest";
/// The largest rank.
const RANK_MAX: usize = 1024;

/// Why an adapter cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AdapterError {
    #[error("cannot read adapter file: {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    File(#[from] GgufError),
    #[error("not a LoRA adapter: {key} is {found}, not {wanted}")]
    Kind {
        key: &'static str,
        wanted: &'static str,
        found: String,
    },
    #[error("adapter is for models of architecture {wanted}, the base is one of: {found}")]
    Architecture { wanted: String, found: String },
    #[error(
        "adapter does not say which base it is of, and none was stated (metadata key {BASE_DIGEST})"
    )]
    Unbound,
    #[error("adapter's base is not a digest: {text}")]
    InvalidBase { text: String },
    #[error("adapter is of another base: it names {named}, this is {given}")]
    OtherBase { named: Digest, given: Digest },
    #[error("adapter's configuration cannot be read: {reason}")]
    Configuration { reason: String },
    #[error("adapter uses a feature that is not supported: {feature}")]
    Unsupported { feature: String },
    #[error("adapter's tensors cannot be read: {reason}")]
    Tensors { reason: String },
    #[error("adapter has no tensors")]
    Empty,
    #[error("adapter's alpha is not a number it can be scaled by: {alpha}")]
    Alpha { alpha: f64 },
    #[error("adapter has a tensor that is neither A nor B of a matrix: {tensor}")]
    UnknownPart { tensor: String },
    #[error("adapter has only one of the two factors of: {tensor}")]
    Unpaired { tensor: String },
    #[error("adapter changes what its base does not have: {tensor}")]
    UnknownTarget { tensor: String },
    #[error("adapter changes {what}, which is not supported: {tensor}")]
    Target { what: &'static str, tensor: String },
    #[error("adapter's factor has {found} instead of {wanted}: {tensor}")]
    WrongShape {
        tensor: String,
        wanted: String,
        found: String,
    },
    #[error("adapter's factor is of type {found}, whose values are not known here: {tensor}")]
    UnsupportedType { tensor: String, found: String },
    #[error("adapter's factor cannot be read: {tensor}")]
    Pack {
        tensor: String,
        #[source]
        source: PackError,
    },
    #[error("adapter's factor has a value that is not finite: {tensor}")]
    NotFinite { tensor: String },
}

impl From<ReadError> for AdapterError {
    fn from(ReadError { path, source }: ReadError) -> Self {
        Self::Read { path, source }
    }
}

/// A matrix of an adapter as it is read, row by row.
struct Factor {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// What both kinds of files say.
struct Parts {
    alpha: f32,
    base: Option<Digest>,
    /// A and B by the name of the tensor they change.
    factors: BTreeMap<String, [Option<Factor>; 2]>,
}

/// An adapter, bound to a model.
#[derive(Debug)]
pub struct Adapter {
    digest: Digest,
    base: Digest,
    architecture: String,
    alpha: f32,
    /// In the order of the graph's tensors.
    factors: Vec<Option<LowRank>>,
    /// Names of those that are changed.
    names: BTreeMap<String, TensorId>,
}

impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Adapter {}

impl Adapter {
    /// Opens the GGUF file at `path`, or the folder that PEFT wrote there, for `model`. `base` is the digest of its base, if
    /// it is stated; it has to be, where the file does not say it.
    ///
    /// # Errors
    /// When it cannot be read, is not an adapter this crate applies, or not one of this model.
    pub fn open(
        path: &Path,
        model: &Model,
        base: Option<Digest>,
    ) -> Result<Arc<Self>, AdapterError> {
        if !path.is_dir() {
            return Self::from_gguf(&file::map(path)?, model, base);
        }
        let config = file::map(&path.join("adapter_config.json"))?;
        let tensors = file::map(&path.join("adapter_model.safetensors"))?;
        Self::from_peft(&config, &tensors, model, base)
    }

    /// Opens the bytes of a GGUF file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_gguf(
        bytes: &[u8],
        model: &Model,
        base: Option<Digest>,
    ) -> Result<Arc<Self>, AdapterError> {
        let parts = gguf::read(&Gguf::parse(bytes)?, model)?;
        Self::bind(parts, model, base)
    }

    /// Opens what PEFT writes: the bytes of `adapter_config.json` and of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_peft(
        config: &[u8],
        tensors: &[u8],
        model: &Model,
        base: Option<Digest>,
    ) -> Result<Arc<Self>, AdapterError> {
        Self::bind(peft::read(config, tensors, model)?, model, base)
    }

    fn bind(
        parts: Parts,
        model: &Model,
        stated: Option<Digest>,
    ) -> Result<Arc<Self>, AdapterError> {
        let base = model.digest();
        for named in [parts.base, stated].into_iter().flatten() {
            if named != base {
                let given = base;
                return Err(AdapterError::OtherBase { named, given });
            }
        }
        if parts.base.or(stated).is_none() {
            return Err(AdapterError::Unbound);
        }
        if !parts.alpha.is_finite() {
            let alpha = f64::from(parts.alpha);
            return Err(AdapterError::Alpha { alpha });
        }
        if parts.factors.is_empty() {
            return Err(AdapterError::Empty);
        }
        let graph = model.graph();
        let mut factors: Vec<Option<LowRank>> = Vec::new();
        factors.resize_with(graph.tensors.len(), || None);
        let mut names = BTreeMap::new();
        let mut pairs = Vec::new();
        for (tensor, pair) in parts.factors {
            let id = target(graph, &tensor)?;
            pairs.push((id, check(graph, id, pair)?));
            names.insert(tensor, id);
        }
        // As a pass reads them, so that each follows the one before.
        pairs.sort_unstable_by_key(|(id, _)| id.0);
        let given = pairs.iter().map(|(_, [a, b])| Factors {
            a: &a.values,
            b: &b.values,
            rank: a.rows,
            scale: match parts.alpha == 0.0 {
                true => 1.0,
                false => parts.alpha / a.rows as f32,
            },
        });
        let packed = LowRank::pack(&given.collect::<Vec<_>>());
        for ((id, _), packed) in pairs.iter().zip(packed) {
            factors[id.0] = Some(packed);
        }
        let mut adapter = Self {
            digest: Digest::default(),
            base,
            architecture: model.architecture().to_owned(),
            alpha: parts.alpha,
            factors,
            names,
        };
        let mut hasher = blake3::Hasher::new();
        let written = adapter.write(&mut hasher);
        written.expect("a hasher takes all bytes");
        adapter.digest = Digest(*hasher.finalize().as_bytes());
        Ok(Arc::new(adapter))
    }

    /// Writes it as a GGUF file that says its base; the same bytes for the same values, alpha and base.
    ///
    /// # Errors
    /// Whatever `out` gives.
    pub fn write(&self, out: &mut impl io::Write) -> io::Result<()> {
        gguf::write(self, out)
    }

    /// BLAKE3 of what [`Self::write`] writes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Digest of the model it belongs to.
    #[must_use]
    pub fn base(&self) -> Digest {
        self.base
    }

    /// Its alpha, by whose ratio to the rank products are scaled.
    #[must_use]
    pub fn alpha(&self) -> f32 {
        self.alpha
    }

    /// The largest of its ranks.
    #[must_use]
    pub fn rank(&self) -> usize {
        let factors = self.factors.iter().flatten();
        factors.map(LowRank::rank).max().unwrap_or_default()
    }

    /// Names of the tensors it changes.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Bytes it occupies in memory.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let factors = self.factors.iter().flatten();
        let names = self.names.keys().map(|name| name.len() + 64);
        factors.map(LowRank::resident_bytes).sum::<usize>()
            + size_of_val(self.factors.as_slice())
            + names.sum::<usize>()
    }

    /// What it adds to the products with a tensor.
    #[must_use]
    pub fn factors(&self, tensor: TensorId) -> Option<&LowRank> {
        self.factors[tensor.0].as_ref()
    }

    /// The price of what it adds to the products of `rows` rows with a tensor.
    #[must_use]
    pub fn price(&self, tensor: TensorId, rows: usize) -> Work {
        self.factors(tensor).map_or(0, |factors| {
            let [rank, inputs, outputs] =
                [factors.rank(), factors.inputs(), factors.outputs()].map(|size| size as Work);
            rows as Work * (rank * (inputs + outputs) + outputs)
        })
    }

    fn tensors(&self) -> impl Iterator<Item = (&str, &LowRank)> {
        self.names.iter().map(|(name, id)| {
            let factors = self.factors(*id).expect("each name has factors");
            (name.as_str(), factors)
        })
    }
}

/// The tensor of that name, if products with it can have something added.
fn target(graph: &Graph, name: &str) -> Result<TensorId, AdapterError> {
    let tensor = || name.to_owned();
    let place = graph.tensors.iter().position(|known| known.name == name);
    let id = TensorId(place.ok_or_else(|| AdapterError::UnknownTarget { tensor: tensor() })?);
    let refused = |what| {
        let tensor = tensor();
        Err(AdapterError::Target { what, tensor })
    };
    match graph.tensors[id.0].shape {
        Shape::Matrix { .. } => {}
        Shape::Experts { .. } => return refused("experts"),
        Shape::Vector { .. } => return refused("a vector"),
        Shape::Convolution { .. } => return refused("a convolution"),
    }
    // Also where the output shares it.
    let is_table = |action: &Action| matches!(action, Action::Embed { table, .. } if *table == id);
    match graph.operations.iter().any(|o| is_table(&o.action)) {
        true => refused("the embedding"),
        false => Ok(id),
    }
}

/// Both factors of a matrix, if they fit it.
fn check(
    graph: &Graph,
    id: TensorId,
    pair: [Option<Factor>; 2],
) -> Result<[Factor; 2], AdapterError> {
    let tensor = &graph.tensors[id.0];
    let Shape::Matrix { rows, columns } = tensor.shape else {
        unreachable!("targets are matrices");
    };
    let [Some(a), Some(b)] = pair else {
        let tensor = tensor.name.clone();
        return Err(AdapterError::Unpaired { tensor });
    };
    let rank = a.rows;
    let allowed = 1..=RANK_MAX;
    for (part, factor, wanted, fits) in [
        (
            "lora_a",
            &a,
            format!("1 to {RANK_MAX} rows of {columns}"),
            allowed.contains(&rank) && a.columns == columns,
        ),
        (
            "lora_b",
            &b,
            format!("{rows} rows of {rank}, A's rank"),
            (b.rows, b.columns) == (rows, rank),
        ),
    ] {
        let tensor = format!("{}.{part}", tensor.name);
        if !fits {
            return Err(AdapterError::WrongShape {
                tensor,
                wanted,
                found: format!("{} rows of {}", factor.rows, factor.columns),
            });
        }
        if !factor.values.iter().all(|value| value.is_finite()) {
            return Err(AdapterError::NotFinite { tensor });
        }
    }
    Ok([a, b])
}

/// The values of a matrix as it is stored in a file.
fn values(
    name: &str,
    tensor_type: TensorType,
    (rows, columns): (usize, usize),
    bytes: &[u8],
) -> Result<Vec<f32>, AdapterError> {
    use lockstep_numeric::PackedMatrix;
    let tensor = || name.to_owned();
    let format = crate::graph::weight_format(tensor_type);
    let format = format.ok_or_else(|| AdapterError::UnsupportedType {
        tensor: tensor(),
        found: tensor_type.to_string(),
    })?;
    let packed = PackedMatrix::pack(format, rows, columns, bytes);
    let packed = packed.map_err(|source| AdapterError::Pack {
        tensor: tensor(),
        source,
    })?;
    let mut values = vec![0.0; rows * columns];
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        packed.read_row(row, values);
    }
    Ok(values)
}
