//! The tensors of a checkpoint: where they are, what they are called in a GGUF file, and their bytes there.
use super::{CheckpointError, Files, missing, read_json};
use crate::{
    arch::{
        names::{self, Stored},
        origin::Description,
    },
    element::Element,
    gguf::{GgufError, NewTensor, TensorType, Value},
};
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

/// Says which tensor is in which file.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The file of a checkpoint that has no index.
const WHOLE: &str = "model.safetensors";
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Ends of names of tensors that programs compute themselves.
const COMPUTED: &[&str] = &["rotary_emb.inv_freq", "rotary_emb.original_inv_freq"];

/// A tensor as the checkpoint has it.
#[derive(Clone, Debug)]
struct Source<'f> {
    file: String,
    name: String,
    element: Element,
    shape: Vec<usize>,
    bytes: &'f [u8],
}

/// Where a tensor's values come from.
#[derive(Clone, Debug)]
enum Values<'f> {
    /// From one tensor, or from those of experts, one behind the other.
    Of(Vec<Source<'f>>, Stored),
    Computed(Vec<f32>),
}

/// All tensors of the file that is to be written, in their order.
#[derive(Clone, Debug)]
pub(super) struct Tensors<'f> {
    table: Vec<NewTensor>,
    values: Vec<Values<'f>>,
    head_dim: usize,
}

impl<'f> Tensors<'f> {
    /// Finds and names them.
    pub(super) fn read(
        files: &Files<'f>,
        description: &Description,
    ) -> Result<Self, CheckpointError> {
        let mut found: BTreeMap<Key, (Stored, BTreeMap<Option<usize>, Source<'f>>)> =
            BTreeMap::new();
        for source in sources(files)?.into_values() {
            let is_beside = |start: &&str| source.name.starts_with(*start);
            if COMPUTED.iter().any(|end| source.name.ends_with(end))
                || description.besides.iter().any(is_beside)
            {
                continue;
            }
            let Some(place) = names::place(description.architecture, &source.name) else {
                return Err(CheckpointError::UnusedTensor {
                    tensor: source.name,
                });
            };
            if description.tied && place.tensor == OUTPUT {
                continue;
            }
            let of = found.entry(Key::of(&place.tensor));
            let (_, parts) = of.or_insert_with(|| (place.stored, BTreeMap::new()));
            match parts.entry(place.expert) {
                Entry::Vacant(place) => place.insert(source),
                Entry::Occupied(other) => {
                    return Err(CheckpointError::DuplicateTensor {
                        tensor: place.tensor,
                        first: other.get().name.clone(),
                        second: source.name,
                    });
                }
            };
        }
        let mut tensors = Self {
            table: Vec::new(),
            values: Vec::new(),
            head_dim: description.head_dim,
        };
        for (Key(_, name), (stored, parts)) in found {
            tensors.add(name, stored, parts)?;
        }
        if !description.tied && !tensors.table.iter().any(|tensor| tensor.name == OUTPUT) {
            let tensor = names::name(description.architecture, OUTPUT);
            return Err(CheckpointError::MissingTensor {
                tensor: tensor.unwrap_or_else(|| OUTPUT.to_owned()),
                file: WHOLE.to_owned(),
            });
        }
        if let Some(factors) = &description.rope_factors {
            tensors.table.push(NewTensor {
                name: ROPE_FACTORS.to_owned(),
                dimensions: vec![factors.len() as u64],
                tensor_type: TensorType::F32,
            });
            tensors.values.push(Values::Computed(factors.clone()));
        }
        Ok(tensors)
    }

    /// Adds a tensor of the GGUF file, made of these.
    fn add(
        &mut self,
        name: String,
        stored: Stored,
        parts: BTreeMap<Option<usize>, Source<'f>>,
    ) -> Result<(), CheckpointError> {
        let count = parts.len();
        let is_experts = parts.keys().any(Option::is_some);
        let numbered = parts.keys().enumerate();
        let hole = numbered
            .filter(|(index, expert)| **expert != Some(*index))
            .map(|(index, _)| index)
            .next();
        let parts: Vec<Source<'f>> = parts.into_values().collect();
        let first = &parts[0];
        if is_experts && let Some(expert) = hole {
            return Err(CheckpointError::MissingTensor {
                tensor: format!("expert {expert} of {name}"),
                file: first.file.clone(),
            });
        }
        let wrong_shape = |source: &Source<'_>, wanted: String| CheckpointError::WrongShape {
            tensor: source.name.clone(),
            wanted,
            found: source.shape.clone(),
        };
        if let Some(other) = parts.iter().find(|other| other.shape != first.shape) {
            return Err(wrong_shape(
                other,
                format!("{:?}, that of the first expert,", first.shape),
            ));
        }
        if let Some(other) = parts.iter().find(|other| other.element != first.element) {
            return Err(CheckpointError::UnsupportedType {
                tensor: other.name.clone(),
                found: format!("{:?}, unlike the first expert", other.element),
            });
        }
        if first.shape.contains(&0) {
            return Err(GgufError::EmptyTensor {
                tensor: first.name.clone(),
            }
            .into());
        }
        // The contiguous dimension is the first there.
        let mut dimensions: Vec<u64> = first.shape.iter().rev().map(|size| *size as u64).collect();
        let is_matrix = dimensions.len() == 2;
        match dimensions.as_slice() {
            [_] | [_, _] => {}
            // The taps of a convolution that goes over each channel alone.
            [_, 1, _] => drop(dimensions.remove(1)),
            _ => return Err(wrong_shape(first, "a vector or a matrix".to_owned())),
        }
        if is_experts {
            dimensions.push(count as u64);
        }
        self.table.push(NewTensor {
            name,
            dimensions,
            tensor_type: match is_matrix {
                true => first.element.tensor_type(),
                false => TensorType::F32,
            },
        });
        self.values.push(Values::Of(parts, stored));
        Ok(())
    }

    pub(super) fn table(&self) -> &[NewTensor] {
        &self.table
    }

    fn embedding(&self) -> Option<&Source<'f>> {
        let at = self
            .table
            .iter()
            .position(|tensor| tensor.name == EMBEDDING)?;
        match &self.values[at] {
            Values::Of(parts, _) => parts.first(),
            Values::Computed(_) => None,
        }
    }

    /// Rows of the embedding.
    pub(super) fn vocabulary(&self) -> Result<usize, CheckpointError> {
        match self.embedding() {
            Some(source) => Ok(source.shape[0]),
            None => Err(GgufError::MissingTensor {
                tensor: EMBEDDING.to_owned(),
            }
            .into()),
        }
    }

    /// `general.file_type`: the type of the embedding stands for that of all matrices.
    pub(super) fn file_type(&self) -> Value {
        Value::U32(match self.embedding().map(|source| source.element) {
            None | Some(Element::F32) => 0,
            Some(Element::F16) => 1,
            Some(Element::Bf16) => 32,
        })
    }

    /// Appends the bytes of a tensor as the file has them; its shape has been found to be right.
    pub(super) fn append(&self, index: usize, bytes: &mut Vec<u8>) {
        let (parts, stored) = match &self.values[index] {
            Values::Computed(values) => {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                return;
            }
            Values::Of(parts, stored) => (parts, *stored),
        };
        let keeps = self.table[index].tensor_type;
        for source in parts {
            let values = match keeps == source.element.tensor_type() && stored != Stored::OneMore {
                true => source.bytes.to_vec(),
                false => source.floats(stored == Stored::OneMore),
            };
            match stored {
                Stored::Interleaved => {
                    let row = values.len() / source.shape[0];
                    for at in 0..source.shape[0] {
                        let from = names::interleaved(at, self.head_dim);
                        bytes.extend(&values[from * row..][..row]);
                    }
                }
                Stored::Same | Stored::OneMore => bytes.extend(values),
            }
        }
    }
}

impl Source<'_> {
    /// The values as bytes of F32, perhaps with 1 added.
    fn floats(&self, one_more: bool) -> Vec<u8> {
        let add = |value: f32| if one_more { value + 1.0 } else { value };
        let values = self.element.values(self.bytes).into_iter();
        values.flat_map(|value| add(value).to_le_bytes()).collect()
    }
}

/// The name of a tensor in the order of a file: what is outside of layers, then layer by layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(Option<usize>, String);

impl Key {
    fn of(name: &str) -> Self {
        let rest = name.strip_prefix("blk.");
        let layer = rest.and_then(|rest| rest.split_once('.')?.0.parse().ok());
        Self(layer, name.to_owned())
    }
}

/// All tensors of a checkpoint by name.
fn sources<'f>(files: &Files<'f>) -> Result<BTreeMap<String, Source<'f>>, CheckpointError> {
    let placed = index(files)?;
    let shards: BTreeSet<&str> = match &placed {
        Some(placed) => placed.values().map(String::as_str).collect(),
        None => BTreeSet::from([WHOLE]),
    };
    let mut sources: BTreeMap<String, Source<'f>> = BTreeMap::new();
    for file in shards {
        let bytes: &'f [u8] = files.get(file).ok_or_else(|| missing(file))?;
        let shard =
            SafeTensors::deserialize(bytes).map_err(|source| CheckpointError::Safetensors {
                file: file.to_owned(),
                source,
            })?;
        // In the order of their names: the library has none.
        let views: BTreeMap<_, _> = shard.tensors().into_iter().collect();
        for (name, view) in views {
            let Some(element) = Element::of(view.dtype()) else {
                return Err(CheckpointError::UnsupportedType {
                    tensor: name,
                    found: format!("{:?}", view.dtype()),
                });
            };
            let source = Source {
                file: file.to_owned(),
                name: name.clone(),
                element,
                shape: view.shape().to_vec(),
                bytes: view.data(),
            };
            if let Some(other) = sources.insert(name.clone(), source) {
                return Err(CheckpointError::DuplicateTensor {
                    tensor: name,
                    first: other.file,
                    second: file.to_owned(),
                });
            }
        }
    }
    for (tensor, file) in placed.iter().flatten() {
        if sources
            .get(tensor)
            .is_none_or(|source| source.file != *file)
        {
            return Err(CheckpointError::MissingTensor {
                tensor: tensor.clone(),
                file: file.clone(),
            });
        }
    }
    Ok(sources)
}

/// Which tensor is in which file, where there is an index.
fn index(files: &Files<'_>) -> Result<Option<BTreeMap<String, String>>, CheckpointError> {
    let Some(mut json) = read_json(files, INDEX)? else {
        return Ok(None);
    };
    let map = json.get_mut("weight_map").map(serde_json::Value::take);
    let Some(map) = map else {
        return Err(CheckpointError::MissingValue {
            file: INDEX.to_owned(),
            key: "weight_map".to_owned(),
        });
    };
    let map: BTreeMap<String, String> =
        serde_json::from_value(map).map_err(|source| CheckpointError::Json {
            file: INDEX.to_owned(),
            source,
        })?;
    match map.is_empty() {
        true => Err(missing(WHOLE)),
        false => Ok(Some(map)),
    }
}
