//! Prepared models: files that hold the weights as the kernels read them, so that they are mapped and used in place.
//!
//! # Design
//! A prepared file is made from a model's GGUF files ([`write()`]) and stands for them: it has what they say before their
//! tensors, byte for byte, and their digest, which stays the model's. Integers are little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `LSPACKED` |
//! | 4, 4 | version of this table, [`FORMAT_VERSION`]; of the packed layout, [`PACKED_LAYOUT_VERSION`] |
//! | 8, 8 | bytes of the head, bytes of the file |
//! | 32 | BLAKE3 of the GGUF files, one after the other |
//! | 32 | BLAKE3 of the head without these 32 bytes |
//! | 4, 4 | number of GGUF files, of tensors |
//! | 8, 8 each | per GGUF file: its bytes, and those before its tensors |
//! | 8, n, 8, 8, 32 each | per tensor: its name with its length, its place and bytes in this file, their BLAKE3 |
//! | n | per GGUF file: what stands before its tensors |
//! | n | vectors and convolutions as they are in the GGUF file; here the head ends |
//! | n | from a multiple of 4096 on: matrices, each on a multiple of 64, tile by tile |
//!
//! What lies between them is zero. Opening reads and checks the head alone, and asks the system to read the rest in the
//! background; it may drop weights again at any time, since they are the file's.
//!
//! # Determinism
//! The file is a function of the GGUF files. A model opened from it gives the same bits as one opened from them, unless
//! its matrices have been changed: that is found by [`check`], which reads all of the file, and not by opening. Whoever
//! can write the file can also seal other weights into it: make it where it is used.
//!
//! # Errors
//! Files are untrusted until their head's digest is checked, and every place in them also afterwards.
mod head;
#[cfg(test)]
mod tests;
mod write;

pub use head::FORMAT_VERSION;
pub use write::write;

use crate::{
    digest::Digest,
    file,
    gguf::{Gguf, GgufError},
    graph::{Shape, Tensor},
    model::{Model, ModelError, Weight, format, matrices},
};
use head::Head;
use lockstep_numeric::{PACKED_LAYOUT_VERSION, PackedMatrix, SharedBytes};
use memmap2::Mmap;
use std::{io, path::Path, sync::Arc};

/// The extension of prepared files.
pub const EXTENSION: &str = "packed";

/// What is wrong with a prepared file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PreparedError {
    #[error("not a prepared model: it starts with bytes {found:02x?}")]
    WrongMagic { found: Vec<u8> },
    #[error(
        "prepared by another version of this program: format {format} with layout {layout} instead of \
         {FORMAT_VERSION} with {PACKED_LAYOUT_VERSION}"
    )]
    Version { format: u32, layout: u32 },
    #[error("prepared file has not the {wanted} bytes that its head says: {found}")]
    Size { wanted: u64, found: usize },
    #[error("head of the prepared file is damaged")]
    Head(#[from] GgufError),
    #[error("head of the prepared file has not the digest {wanted} that it says: {found}")]
    HeadDigest { wanted: Digest, found: Digest },
    #[error("prepared file has a tensor where none can be: {tensor}")]
    Place { tensor: String },
    #[error("prepared file lacks a tensor: {tensor}")]
    MissingTensor { tensor: String },
    #[error("tensor of the prepared file has not the digest that its head says: {tensor}")]
    TensorDigest { tensor: String },
    #[error("cannot write the prepared file")]
    Write(#[from] io::Error),
}

impl Model {
    /// Opens the prepared file at `path`, whose weights are used where they are.
    ///
    /// # Errors
    /// When it cannot be read, is damaged in its head, or was prepared by another version.
    pub fn open_prepared(path: &Path) -> Result<Arc<Self>, ModelError> {
        let map = Arc::new(file::map(path)?);
        let model = Self::from_prepared(Arc::<Mmap>::clone(&map))?;
        file::read_ahead(&map);
        Ok(model)
    }

    /// Opens a prepared file in memory, on a 64-byte boundary.
    ///
    /// # Errors
    /// When it is damaged in its head or was prepared by another version.
    pub fn from_prepared(memory: SharedBytes) -> Result<Arc<Self>, ModelError> {
        let bytes = (*memory).as_ref();
        let head = Head::read(bytes)?;
        let gguf = Gguf::parse_heads(&head.parts).map_err(PreparedError::Head)?;
        let load = |gguf: &Gguf<'_>, tensors: &[Tensor]| {
            let weight = |tensor| weight(gguf, &head, tensor, &memory);
            tensors.iter().map(weight).collect()
        };
        Self::assemble(&gguf, || head.source, load)
    }
}

fn weight(
    gguf: &Gguf<'_>,
    head: &Head<'_>,
    tensor: &Tensor,
    memory: &SharedBytes,
) -> Result<Weight, ModelError> {
    let name = || tensor.name.clone();
    let entry = head.tensors.get(tensor.name.as_str());
    let place = &entry
        .ok_or_else(|| PreparedError::MissingTensor { tensor: name() })?
        .place;
    let misplaced = || PreparedError::Place { tensor: name() };
    let Some((count, rows, columns)) = matrices(tensor.shape) else {
        let stored = gguf.tensor(&tensor.name)?.range.len();
        let bytes = (**memory).as_ref();
        // The head's digest covers them.
        if place.len() != stored || place.end > head.bytes {
            return Err(misplaced().into());
        }
        return Ok(Weight::floats(tensor.shape, &bytes[place.clone()]));
    };
    let format = format(gguf, tensor)?;
    let pack_error = |source| ModelError::Pack {
        tensor: name(),
        source,
    };
    let each = PackedMatrix::packed_bytes(format, rows, columns).map_err(pack_error)?;
    if each.checked_mul(count) != Some(place.len()) || place.start < head.bytes {
        return Err(misplaced().into());
    }
    let mut packed = (0..count).map(|index| {
        let memory = Arc::clone(memory);
        PackedMatrix::in_place(format, rows, columns, memory, place.start + index * each)
            .map_err(|_| ModelError::from(misplaced()))
    });
    Ok(match tensor.shape {
        Shape::Experts { .. } => Weight::Experts(packed.collect::<Result<_, _>>()?),
        _ => Weight::Matrix(packed.next().expect("a matrix is one")?),
    })
}

/// The digest of the model that a prepared file stands for, after its head is checked.
///
/// # Errors
/// What is wrong with the head.
pub fn source(bytes: &[u8]) -> Result<Digest, PreparedError> {
    Ok(Head::read(bytes)?.source)
}

/// Checks the digest of every tensor.
///
/// # Errors
/// The first that is found wrong.
pub fn check(bytes: &[u8]) -> Result<Digest, PreparedError> {
    let head = Head::read(bytes)?;
    for (tensor, entry) in &head.tensors {
        if Digest::of(&bytes[entry.place.clone()]) != entry.digest {
            let tensor = (*tensor).to_owned();
            return Err(PreparedError::TensorDigest { tensor });
        }
    }
    Ok(head.source)
}
