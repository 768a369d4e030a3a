//! Writes prepared files.
use super::{
    FORMAT_VERSION, PreparedError,
    head::{Entry, MAGIC, SEAL, seal},
};
use crate::{
    arch,
    digest::Digest,
    finite,
    gguf::Gguf,
    graph::{Graph, Tensor},
    model::{ModelError, format, matrices},
    tokenizer::Tokenizer,
};
use lockstep_numeric::{PACKED_LAYOUT_VERSION, PackedMatrix};
use std::{
    collections::BTreeSet,
    io::{Seek, SeekFrom, Write},
};

/// Where matrices may begin.
const MATRIX_ALIGNMENT: usize = 64;
/// Where the first does.
const PAGE: usize = 4096;

/// Writes the prepared file of a model's GGUF files from the beginning of `out` on. One matrix is in memory at a time;
/// `report` hears the bytes so far and those of the whole file.
///
/// # Errors
/// When the GGUF files are not a model this crate runs, or `out` gives one.
///
/// # Panics
/// Without files.
pub fn write(
    parts: &[&[u8]],
    out: &mut (impl Write + Seek),
    mut report: impl FnMut(u64, u64),
) -> Result<Digest, ModelError> {
    let gguf = Gguf::parse_parts(parts)?;
    let graph = arch::graph(&gguf)?;
    Tokenizer::from_metadata(&gguf)?;
    finite::check(&gguf, &graph.tensors)?;
    let mut plan = Plan::new(&gguf, &graph, Digest::of_parts(parts))?;
    let io = |error| ModelError::from(PreparedError::Write(error));
    // The head comes last, when the digests are known: until then the file is none.
    out.seek(SeekFrom::Start(plan.matrices as u64))
        .map_err(io)?;
    let mut at = plan.matrices;
    for (index, tensor) in plan.tensors.clone().into_iter().enumerate() {
        let Some((count, rows, columns)) = matrices(tensor.shape) else {
            continue;
        };
        let format = format(&gguf, tensor)?;
        let bytes = gguf.tensor_bytes(&tensor.name)?;
        let mut hasher = blake3::Hasher::new();
        for bytes in bytes.chunks_exact(bytes.len() / count) {
            let matrix = PackedMatrix::pack(format, rows, columns, bytes);
            let matrix = matrix.map_err(|source| ModelError::Pack {
                tensor: tensor.name.clone(),
                source,
            })?;
            hasher.update(matrix.as_bytes());
            out.write_all(matrix.as_bytes()).map_err(io)?;
            at += matrix.as_bytes().len();
            report(at as u64, plan.file_bytes as u64);
        }
        plan.entries[index].digest = Digest(*hasher.finalize().as_bytes());
    }
    assert_eq!(at, plan.file_bytes, "matrices fill the file");
    let head = plan.head(&gguf)?;
    out.seek(SeekFrom::Start(0)).map_err(io)?;
    out.write_all(&head).map_err(io)?;
    out.flush().map_err(io)?;
    Ok(plan.source)
}

/// Where everything goes.
struct Plan<'g> {
    source: Digest,
    /// Each once.
    tensors: Vec<&'g Tensor>,
    entries: Vec<Entry>,
    head_bytes: usize,
    /// Where the first matrix is.
    matrices: usize,
    file_bytes: usize,
}

impl<'g> Plan<'g> {
    fn new(gguf: &Gguf<'_>, graph: &'g Graph, source: Digest) -> Result<Self, ModelError> {
        let mut seen = BTreeSet::new();
        let tensors = graph.tensors.iter();
        let tensors: Vec<_> = tensors.filter(|tensor| seen.insert(&tensor.name)).collect();
        let mut at = SEAL.end + 4 + 4;
        at += tensors
            .iter()
            .map(|tensor| 8 + tensor.name.len() + 8 + 8 + 32)
            .sum::<usize>();
        at += gguf
            .heads()
            .map(|(head, _)| 8 + 8 + head.len())
            .sum::<usize>();
        let mut entries = vec![
            Entry {
                place: 0..0,
                digest: Digest::default(),
            };
            tensors.len()
        ];
        for (tensor, entry) in tensors.iter().zip(&mut entries) {
            if matrices(tensor.shape).is_none() {
                let bytes = gguf.tensor_bytes(&tensor.name)?;
                entry.place = at..at + bytes.len();
                entry.digest = Digest::of(bytes);
                at = entry.place.end;
            }
        }
        let head_bytes = at;
        at = at.next_multiple_of(PAGE);
        let matrices_at = at;
        for (tensor, entry) in tensors.iter().zip(&mut entries) {
            let Some((count, rows, columns)) = matrices(tensor.shape) else {
                continue;
            };
            let error = |source| ModelError::Pack {
                tensor: tensor.name.clone(),
                source,
            };
            let format = format(gguf, tensor)?;
            let each = PackedMatrix::packed_bytes(format, rows, columns).map_err(error)?;
            // Sizes fit: the stored matrix is in memory, and packed it is hardly larger.
            entry.place = at..at + each * count;
            at = entry.place.end;
            debug_assert!(at.is_multiple_of(MATRIX_ALIGNMENT));
        }
        Ok(Self {
            source,
            tensors,
            entries,
            head_bytes,
            matrices: matrices_at,
            file_bytes: at,
        })
    }

    /// The head, with the digests of all tensors.
    fn head(&self, gguf: &Gguf<'_>) -> Result<Vec<u8>, ModelError> {
        let mut head = MAGIC.to_vec();
        head.extend(FORMAT_VERSION.to_le_bytes());
        head.extend(PACKED_LAYOUT_VERSION.to_le_bytes());
        head.extend((self.head_bytes as u64).to_le_bytes());
        head.extend((self.file_bytes as u64).to_le_bytes());
        head.extend(self.source.0);
        head.extend([0; SEAL.end - SEAL.start]);
        head.extend((gguf.heads().count() as u32).to_le_bytes());
        head.extend((self.tensors.len() as u32).to_le_bytes());
        for (part, whole) in gguf.heads() {
            head.extend((whole as u64).to_le_bytes());
            head.extend((part.len() as u64).to_le_bytes());
        }
        for (tensor, Entry { place, digest }) in self.tensors.iter().zip(&self.entries) {
            head.extend((tensor.name.len() as u64).to_le_bytes());
            head.extend(tensor.name.as_bytes());
            head.extend((place.start as u64).to_le_bytes());
            head.extend((place.len() as u64).to_le_bytes());
            head.extend(digest.0);
        }
        for (part, _) in gguf.heads() {
            head.extend(part);
        }
        for tensor in &self.tensors {
            if matrices(tensor.shape).is_none() {
                head.extend(gguf.tensor_bytes(&tensor.name)?);
            }
        }
        assert_eq!(head.len(), self.head_bytes, "the head was laid out");
        let seal = seal(&head);
        head[SEAL].copy_from_slice(&seal.0);
        Ok(head)
    }
}
