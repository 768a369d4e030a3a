//! A model in memory: packed weights, op graph, tokenizer and chat template.
//!
//! # Design
//! A model is opened once and shared by reference; every [`crate::Sequence`] on it has its own
//! key-value cache and buffers. Weights are repacked for the kernels, so the file's mapping is
//! dropped when opening ends; those of a [prepared](crate::prepared) file lie there packed and are used in place.
use crate::{
    arch,
    checkpoint::{Checkpoint, CheckpointError},
    digest::Digest,
    file::{Mapped, ReadError},
    finite,
    gguf::{Gguf, GgufError, Value},
    graph::{self, Graph, GraphError, Shape, Tensor, TensorId, weight_format},
    prepared::PreparedError,
    template::{Template, TemplateError},
    tokenizer::{Tokenizer, TokenizerError},
};
use lockstep_numeric::{Convolution, PackError, PackedMatrix, Packer, Rope, WeightFormat};
use std::{io, path::Path, path::PathBuf, sync::Arc};

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ModelError {
    #[error("cannot read model file: {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    File(#[from] GgufError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("cannot pack tensor: {tensor}")]
    Pack {
        tensor: String,
        #[source]
        source: PackError,
    },
    #[error("tensor has a value or a scale that is no number, number {index}: {tensor}")]
    NotFinite { tensor: String, index: usize },
    #[error(transparent)]
    Prepared(#[from] PreparedError),
    #[error("tokenizer has {tokens} tokens, but the model's embedding has {rows}")]
    VocabularySize { tokens: usize, rows: usize },
}

impl From<ReadError> for ModelError {
    fn from(ReadError { path, source }: ReadError) -> Self {
        Self::Read { path, source }
    }
}

#[derive(Debug)]
pub(crate) enum Weight {
    Vector(Vec<f32>),
    Matrix(PackedMatrix),
    Convolution(Convolution),
    Experts(Vec<PackedMatrix>),
}

impl Weight {
    fn bytes(&self) -> usize {
        match self {
            Self::Vector(values) => size_of_val(values.as_slice()),
            Self::Matrix(matrix) => matrix.resident_bytes(),
            Self::Convolution(convolution) => convolution.bytes(),
            Self::Experts(experts) => experts.iter().map(PackedMatrix::resident_bytes).sum(),
        }
    }

    fn is_mapped(&self) -> bool {
        match self {
            Self::Vector(_) | Self::Convolution(_) => false,
            Self::Matrix(matrix) => matrix.is_shared(),
            Self::Experts(experts) => experts.iter().all(PackedMatrix::is_shared),
        }
    }

    /// A vector or convolution from its bytes in the file.
    pub(crate) fn floats(shape: Shape, bytes: &[u8]) -> Self {
        let (values, _) = bytes.as_chunks::<4>();
        let values = values.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let values: Vec<f32> = values.collect();
        match shape {
            Shape::Convolution { channels, .. } => {
                Self::Convolution(Convolution::new(&values, channels))
            }
            _ => Self::Vector(values),
        }
    }
}

/// So many matrices of so many rows and columns, one behind the other: the parts of a tensor that are packed.
pub(crate) fn matrices(shape: Shape) -> Option<(usize, usize, usize)> {
    match shape {
        Shape::Matrix { rows, columns } => Some((1, rows, columns)),
        Shape::Experts {
            count,
            rows,
            columns,
        } => Some((count, rows, columns)),
        Shape::Vector { .. } | Shape::Convolution { .. } => None,
    }
}

/// The format of a tensor that the graph has accepted.
pub(crate) fn format(gguf: &Gguf<'_>, tensor: &Tensor) -> Result<WeightFormat, GgufError> {
    let stored = gguf.tensor(&tensor.name)?.tensor_type;
    Ok(weight_format(stored).expect("the graph accepts only types the kernels have"))
}

/// A model.
#[derive(Debug)]
pub struct Model {
    digest: Digest,
    architecture: String,
    name: String,
    graph: Graph,
    /// In the order of the graph's tensors.
    weights: Vec<Weight>,
    ropes: Vec<Rope>,
    tokenizer: Tokenizer,
    template: Option<Template>,
}

impl Model {
    /// Opens the GGUF file at `path`, which may be the first of several, named `…-00001-of-00003.gguf` and so on, beside
    /// each other; or the checkpoint in the folder at `path`, as the GGUF file that [`Checkpoint`] writes of it, all of which
    /// is in memory meanwhile.
    ///
    /// # Errors
    /// When one cannot be read or they are not a model this crate runs.
    pub fn open(path: &Path) -> Result<Arc<Self>, ModelError> {
        if path.is_dir() {
            return Self::open_checkpoint(path);
        }
        Self::from_parts(&Mapped::model(path)?.parts())
    }

    /// Turns the checkpoint in a folder into a GGUF file in memory, and opens that.
    fn open_checkpoint(folder: &Path) -> Result<Arc<Self>, ModelError> {
        let mut file = Vec::new();
        {
            let mapped = Mapped::checkpoint(folder)?;
            let checkpoint = Checkpoint::open(&mapped.by_name())?;
            file.reserve_exact(checkpoint.file_bytes() as usize);
            let written = checkpoint.write(&mut file);
            written.map_err(|source| ModelError::Read {
                path: folder.to_owned(),
                source,
            })?;
        }
        Self::from_bytes(&file)
    }

    /// Opens the bytes of a GGUF file.
    ///
    /// # Errors
    /// When they are not a model this crate runs.
    pub fn from_bytes(bytes: &[u8]) -> Result<Arc<Self>, ModelError> {
        Self::from_parts(&[bytes])
    }

    /// Opens the bytes of the GGUF files of one model, in their order.
    ///
    /// # Errors
    /// When they are not a model this crate runs.
    ///
    /// # Panics
    /// Without files.
    pub fn from_parts(parts: &[&[u8]]) -> Result<Arc<Self>, ModelError> {
        let gguf = Gguf::parse_parts(parts)?;
        Self::assemble(&gguf, || Digest::of_parts(parts), load)
    }

    /// A model of what a file says, and weights that are got somewhere.
    pub(crate) fn assemble(
        gguf: &Gguf<'_>,
        digest: impl FnOnce() -> Digest,
        load: impl FnOnce(&Gguf<'_>, &[Tensor]) -> Result<Vec<Weight>, ModelError>,
    ) -> Result<Arc<Self>, ModelError> {
        let graph = arch::graph(gguf)?;
        let tokenizer = Tokenizer::from_metadata(gguf)?;
        if tokenizer.vocabulary() != graph.vocabulary {
            return Err(ModelError::VocabularySize {
                tokens: tokenizer.vocabulary(),
                rows: graph.vocabulary,
            });
        }
        let template = match gguf.metadata().contains_key("tokenizer.chat_template") {
            true => Some(Template::new(
                gguf.text("tokenizer.chat_template")?.to_owned(),
            )?),
            false => None,
        };
        let weights = load(gguf, &graph.tensors)?;
        let ropes = ropes(&graph, &weights)?;
        let name = gguf.metadata().get("general.name").and_then(Value::as_str);
        Ok(Arc::new(Self {
            digest: digest(),
            architecture: gguf.text("general.architecture")?.to_owned(),
            name: name.unwrap_or("unnamed").to_owned(),
            ropes,
            graph,
            weights,
            tokenizer,
            template,
        }))
    }

    /// BLAKE3 of the file, or of its files one after the other.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The name the file gives itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The architecture, as the file names it.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The op graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Positions a sequence can have.
    #[must_use]
    pub fn context_length(&self) -> usize {
        self.graph.context_length
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template, if the file has one.
    #[must_use]
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// Bytes of packed weights.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.weights.iter().map(Weight::bytes).sum()
    }

    /// Those of them that lie in a mapped file: the system reads them when they are needed, and may drop them again.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        let mapped = self.weights.iter().filter(|weight| weight.is_mapped());
        mapped.map(Weight::bytes).sum()
    }

    /// Bytes of a tensor as it is packed.
    ///
    /// # Panics
    /// When the graph has no such tensor.
    #[must_use]
    pub fn tensor_bytes(&self, id: TensorId) -> usize {
        self.weights[id.0].bytes()
    }

    pub(crate) fn rope(&self, index: usize) -> &Rope {
        &self.ropes[index]
    }

    pub(crate) fn matrix(&self, id: TensorId) -> &PackedMatrix {
        match &self.weights[id.0] {
            Weight::Matrix(matrix) => matrix,
            _ => unreachable!("the graph names tensors by their shape"),
        }
    }

    pub(crate) fn vector(&self, id: TensorId) -> &[f32] {
        match &self.weights[id.0] {
            Weight::Vector(values) => values,
            _ => unreachable!("the graph names tensors by their shape"),
        }
    }

    pub(crate) fn experts(&self, id: TensorId) -> &[PackedMatrix] {
        match &self.weights[id.0] {
            Weight::Experts(experts) => experts,
            _ => unreachable!("the graph names tensors by their shape"),
        }
    }

    pub(crate) fn convolution(&self, id: TensorId) -> &Convolution {
        match &self.weights[id.0] {
            Weight::Convolution(convolution) => convolution,
            _ => unreachable!("the graph names tensors by their shape"),
        }
    }
}

/// Loads the weights: matrices packed side by side, in the order of the graph.
fn load(gguf: &Gguf<'_>, tensors: &[Tensor]) -> Result<Vec<Weight>, ModelError> {
    finite::check(gguf, tensors)?;
    let pack_error = |tensor: &Tensor| {
        let tensor = tensor.name.clone();
        move |source| ModelError::Pack { tensor, source }
    };
    let mut total = 0usize;
    for tensor in tensors {
        if let Some((count, rows, columns)) = matrices(tensor.shape) {
            let bytes = PackedMatrix::packed_bytes(format(gguf, tensor)?, rows, columns)
                .map_err(pack_error(tensor))?;
            total = total.saturating_add(bytes.saturating_mul(count));
        }
    }
    let mut packer = Packer::with_capacity(total);
    for tensor in tensors {
        if let Some((count, rows, columns)) = matrices(tensor.shape) {
            let bytes = gguf.tensor_bytes(&tensor.name)?;
            for bytes in bytes.chunks_exact(bytes.len() / count) {
                packer
                    .pack(format(gguf, tensor)?, rows, columns, bytes)
                    .map_err(pack_error(tensor))?;
            }
        }
    }
    let mut packed = packer.finish().into_iter();
    tensors
        .iter()
        .map(|tensor| match tensor.shape {
            Shape::Matrix { .. } => Ok(Weight::Matrix(
                packed.next().expect("one was packed for each"),
            )),
            Shape::Experts { count, .. } => {
                Ok(Weight::Experts(packed.by_ref().take(count).collect()))
            }
            shape => Ok(Weight::floats(shape, gguf.tensor_bytes(&tensor.name)?)),
        })
        .collect()
}

fn ropes(graph: &Graph, weights: &[Weight]) -> Result<Vec<Rope>, GraphError> {
    let head_dim = graph.attention.head_dim;
    let rope = |rope: &graph::Rope| {
        let mut factors = vec![rope.stretch; head_dim / 2];
        if let Some(TensorId(id)) = rope.factors {
            let Weight::Vector(stretches) = &weights[id] else {
                unreachable!("the graph names tensors by their shape");
            };
            for (factor, stretch) in factors.iter_mut().zip(stretches) {
                *factor *= stretch;
                if !(factor.is_normal() && *factor > 0.0) {
                    return Err(GraphError::OutOfRange {
                        key: graph.tensors[id].name.clone(),
                        value: stretch.to_string(),
                        allowed: "normal numbers above 0".to_owned(),
                    });
                }
            }
        }
        Ok(Rope::new(head_dim, rope.base, Some(&factors)))
    };
    graph.ropes.iter().map(rope).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, gguf::TensorType};

    fn error(file: &fixture::GgufBuilder) -> String {
        Model::from_bytes(&file.build()).unwrap_err().to_string()
    }

    #[test]
    fn opens_from_a_file_and_shares_the_digest_of_its_bytes() {
        let bytes = fixture::tiny_llama(3).build();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let model = Model::open(file.path()).unwrap();
        assert_eq!(model.digest(), Digest::of(&bytes));
        assert_eq!(model.name(), "tiny");
        assert_eq!(model.context_length(), fixture::CONTEXT_LENGTH);
        let tensors = 0..model.graph().tensors.len();
        let bytes: usize = tensors.map(|id| model.tensor_bytes(TensorId(id))).sum();
        assert_eq!(bytes, model.resident_bytes());
    }

    #[test]
    fn a_model_may_be_several_files() {
        let whole = fixture::tiny_llama(3);
        let bytes = whole.build();
        let parts = whole.split(3);
        let directory = tempfile::tempdir().unwrap();
        let path = |number: usize| {
            let name = format!("tiny-{number:05}-of-00003.gguf");
            directory.path().join(name)
        };
        for (number, part) in (1..).zip(&parts) {
            std::fs::write(path(number), part).unwrap();
        }
        let model = Model::open(&path(1)).unwrap();
        let alone = Model::from_bytes(&bytes).unwrap();
        assert_eq!(model.graph(), alone.graph());
        assert_eq!(model.digest(), Digest::of(&parts.concat()));
        let error = |path: &Path| Model::open(path).unwrap_err().to_string();
        std::fs::remove_file(path(2)).unwrap();
        assert_eq!(
            error(&path(1)),
            format!("cannot read model file: {}", path(2).display())
        );
        let second = directory.path().join("second.gguf");
        std::fs::write(&second, &parts[1]).unwrap();
        assert_eq!(
            error(&second),
            "file is part 2 of a model of 3 files, and stands in the place of part 1 of 1"
        );
        let refs = |order: [usize; 3]| order.map(|index| parts[index].as_slice());
        let error = |parts: &[&[u8]]| Model::from_parts(parts).unwrap_err().to_string();
        assert_eq!(
            error(&refs([0, 2, 1])),
            "file is part 3 of a model of 3 files, and stands in the place of part 2 of 3"
        );
        assert_eq!(
            error(&refs([0, 1, 2])[..2]),
            "file is part 1 of a model of 3 files, and stands in the place of part 1 of 2"
        );
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Model::open(Path::new("/nonexistent/model.gguf")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read model file: /nonexistent/model.gguf"
        );
    }

    #[test]
    fn files_that_do_not_fit_the_architecture_say_why() {
        let file = || fixture::tiny_llama(1);
        let text = |text: &str| Value::String(text.to_owned());
        assert_eq!(
            error(&file().set("general.architecture", text("mamba"))),
            "unsupported architecture (known: llama, qwen2, qwen3, gemma3, lfm2, lfm2moe): mamba"
        );
        assert_eq!(
            error(&file().without_tensor("blk.1.ffn_up.weight")),
            "tensor is missing: blk.1.ffn_up.weight"
        );
        assert_eq!(
            error(&file().tensor("blk.0.attn_q.bias", &[64], TensorType::F32, vec![0; 256])),
            "the architecture has no use for a tensor of the file: blk.0.attn_q.bias"
        );
        assert_eq!(
            error(&file().set("llama.feed_forward_length", Value::U32(64))),
            "tensor has [64, 96] instead of dimensions [64, 64]: blk.0.ffn_gate.weight"
        );
        assert_eq!(
            error(&file().set("llama.attention.head_count", Value::U32(5))),
            "metadata value is out of range (allowed: divides the embedding length 64 into heads \
             of even length): llama.attention.head_count = 5"
        );
        assert_eq!(
            error(&file().set("llama.rope.freq_base", Value::F32(f32::NAN))),
            "metadata value is out of range (allowed: finite, at least 1): \
             llama.rope.freq_base = NaN"
        );
        assert_eq!(
            error(&file().set("llama.rope.scaling.type", text("yarn"))),
            "the model uses a feature that is not supported: rotary scaling \
             (llama.rope.scaling.type)"
        );
        let norm = "output_norm.weight";
        let half = file()
            .without_tensor(norm)
            .tensor(norm, &[64], TensorType::Q8_0, vec![0; 68]);
        assert_eq!(
            error(&half),
            "tensor type is not supported here (supported: F32): output_norm.weight is Q8_0"
        );
    }
}
