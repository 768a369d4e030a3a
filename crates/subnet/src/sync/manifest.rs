//! What a state is made of: chunks, each of which can be checked when it comes.
//!
//! # Design
//! A manifest lists the [`Chunk`]s of a state, in the order in which a store is filled with them. Small rows of the
//! store come together, up to [`CHUNK_BYTES`]; a large one is cut. Memories are cut at the nodes of the trees that
//! their digests are made of, so that a manifest of large memories costs no hashing: the digests are known.
//!
//! # Encoding
//! `count u32 | chunks`, a chunk being `digest (32) | kind u8` and, by kind, nothing (0: rows), `part u8 | key | last
//! u8` (1: of a row), `key` (2: a chunk of a module, named by its SHA-256), `key | memory u8 | index u64` (3: a piece
//! of a memory); a key is preceded by its length as u8. Integers are big-endian.
//!
//! The *summary* of a manifest is BLAKE3 of each [`CHUNK_BYTES`] of its encoding, the *digest* BLAKE3 over the
//! summary after the tag `lockstep manifest 1`.
//!
//! # Determinism
//! A manifest is a function of the state: its digest is part of later states.
use super::{codec::Reader, rows};
use crate::{
    application::Height,
    state::ReplicatedState,
    store::{self, MemoryKind, Part},
};
use lockstep_canister::memory::{PIECE_BYTES, Paged};

/// Bytes of a chunk at most, but for what an encoding adds.
pub(crate) const CHUNK_BYTES: usize = PIECE_BYTES;
/// Digests in a summary at most: some eight million chunks, of eight terabytes.
pub(crate) const SUMMARY_MAX: usize = 512;
/// Bytes of a key at most.
const KEY_BYTES_MAX: usize = 64;

/// What a chunk has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Whole rows.
    Rows,
    /// A part of the value of a row; the parts of a row follow each other.
    OfRow {
        part: Part,
        key: Vec<u8>,
        last: bool,
    },
    /// A chunk of a module, whose SHA-256 is the key and the digest.
    Named { key: Vec<u8> },
    /// A piece of a memory.
    Piece {
        owner: Vec<u8>,
        memory: MemoryKind,
        index: u64,
    },
}

/// A part of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) digest: [u8; 32],
    pub(crate) content: Content,
}

/// Where a state has a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// So many rows from one on.
    Rows {
        part: Part,
        first: Vec<u8>,
        count: usize,
    },
    /// From this byte of the row's value on.
    OfRow { offset: usize },
    /// What [`Content`] says.
    Named,
}

/// The chunks of a state, and where it has them.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    pub(super) chunks: Vec<Chunk>,
    pub(super) sources: Vec<Source>,
}

impl Manifest {
    /// The manifest of a state.
    pub(crate) fn of(state: &ReplicatedState) -> Self {
        let mut manifest = Self::default();
        for part in rows::PLAIN {
            manifest.add_rows(state, part);
        }
        for (hash, module) in store::modules(state) {
            let count = module.pieces().len();
            for (index, digest) in module.pieces().iter().enumerate() {
                let content = Content::OfRow {
                    part: Part::Modules,
                    key: hash.to_vec(),
                    last: index + 1 == count,
                };
                let offset = index * CHUNK_BYTES;
                manifest.add(*digest, content, Source::OfRow { offset });
            }
        }
        for hash in store::chunks(state).keys() {
            let key = hash.to_vec();
            manifest.add(*hash, Content::Named { key }, Source::Named);
        }
        let memories = store::memories(state);
        manifest.add_memories(MemoryKind::Heap, &memories.heaps);
        manifest.add_memories(MemoryKind::Stable, &memories.stable);
        manifest.add_memories(MemoryKind::Module, &memories.modules);
        manifest
    }

    fn add(&mut self, digest: [u8; 32], content: Content, source: Source) {
        self.chunks.push(Chunk { digest, content });
        self.sources.push(source);
    }

    fn add_rows(&mut self, state: &ReplicatedState, part: Part) {
        let mut rows = Vec::new();
        let (mut first, mut count) = (Vec::new(), 0);
        for (key, value) in rows::from(state, part, &[]) {
            let bytes = row_bytes(&key, &value);
            if count > 0 && rows.len() + bytes > CHUNK_BYTES {
                self.finish_rows(part, &mut rows, &mut first, &mut count);
            }
            if bytes > CHUNK_BYTES {
                let pieces = value.len().div_ceil(CHUNK_BYTES);
                for (index, piece) in value.chunks(CHUNK_BYTES).enumerate() {
                    let content = Content::OfRow {
                        part,
                        key: key.clone(),
                        last: index + 1 == pieces,
                    };
                    let offset = index * CHUNK_BYTES;
                    self.add(hash(piece), content, Source::OfRow { offset });
                }
                continue;
            }
            if count == 0 {
                first = key.clone();
            }
            count += 1;
            write_row(&mut rows, part, &key, &value);
        }
        if count > 0 {
            self.finish_rows(part, &mut rows, &mut first, &mut count);
        }
    }

    fn finish_rows(
        &mut self,
        part: Part,
        rows: &mut Vec<u8>,
        first: &mut Vec<u8>,
        count: &mut usize,
    ) {
        let source = Source::Rows {
            part,
            first: std::mem::take(first),
            count: std::mem::take(count),
        };
        self.add(hash(rows), Content::Rows, source);
        rows.clear();
    }

    fn add_memories<M: Paged>(&mut self, kind: MemoryKind, memories: &store::Memories<'_, M>) {
        for (owner, memory) in memories {
            for (index, digest) in memory.pieces() {
                let content = Content::Piece {
                    owner: owner.to_vec(),
                    memory: kind,
                    index,
                };
                self.add(digest, content, Source::Named);
            }
        }
    }

    /// See the module.
    pub(crate) fn encode(&self) -> Vec<u8> {
        encode(&self.chunks)
    }
}

fn encode(chunks: &[Chunk]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let count = u32::try_from(chunks.len()).expect("fewer chunks than a summary can cover");
    bytes.extend(count.to_be_bytes());
    let write_key = |bytes: &mut Vec<u8>, key: &[u8]| {
        bytes.push(u8::try_from(key.len()).expect("keys are short"));
        bytes.extend(key);
    };
    for chunk in chunks {
        bytes.extend(chunk.digest);
        match &chunk.content {
            Content::Rows => bytes.push(0),
            Content::OfRow { part, key, last } => {
                bytes.extend([1, *part as u8]);
                write_key(&mut bytes, key);
                bytes.push(u8::from(*last));
            }
            Content::Named { key } => {
                bytes.push(2);
                write_key(&mut bytes, key);
            }
            Content::Piece {
                owner,
                memory,
                index,
            } => {
                bytes.push(3);
                write_key(&mut bytes, owner);
                bytes.push(*memory as u8);
                bytes.extend(index.to_be_bytes());
            }
        }
    }
    bytes
}

/// The chunks of an encoded manifest; `None` when it is none.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<Chunk>> {
    let mut reader = Reader::new(bytes);
    let count = reader.u32()?;
    let mut chunks = Vec::new();
    for _ in 0..count {
        let digest = reader.array()?;
        let content = match reader.u8()? {
            0 => Content::Rows,
            1 => Content::OfRow {
                part: Part::of(reader.u8()?)?,
                key: read_key(&mut reader)?,
                last: match reader.u8()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            },
            2 => Content::Named {
                key: read_key(&mut reader)?,
            },
            3 => Content::Piece {
                owner: read_key(&mut reader)?,
                memory: MemoryKind::of(reader.u8()?)?,
                index: reader.u64()?,
            },
            _ => return None,
        };
        chunks.push(Chunk { digest, content });
    }
    reader.is_at_end().then_some(chunks)
}

fn read_key(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let length = usize::from(reader.u8()?);
    (length <= KEY_BYTES_MAX).then_some(())?;
    Some(reader.bytes(length)?.to_vec())
}

/// The summary of an encoded manifest.
pub(super) fn summary(encoded: &[u8]) -> Vec<[u8; 32]> {
    encoded.chunks(CHUNK_BYTES).map(hash).collect()
}

/// The digest of the manifest with this summary.
pub(super) fn digest(summary: &[[u8; 32]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lockstep manifest 1");
    hasher.update(summary.as_flattened());
    *hasher.finalize().as_bytes()
}

pub(super) fn hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// What a state says of an earlier one, from which others can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CheckpointId {
    /// Its height.
    pub height: Height,
    /// The digest of its manifest.
    pub manifest: [u8; 32],
}

impl CheckpointId {
    /// What a state is called.
    #[must_use]
    pub fn of(state: &ReplicatedState) -> Self {
        Self {
            height: state.height,
            manifest: digest(&summary(&Manifest::of(state).encode())),
        }
    }
}

/// Bytes of a row among others.
fn row_bytes(key: &[u8], value: &[u8]) -> usize {
    6 + key.len() + value.len()
}

/// Adds a row: `part u8 | key, after its length as u8 | value, after its length as u32`.
pub(super) fn write_row(bytes: &mut Vec<u8>, part: Part, key: &[u8], value: &[u8]) {
    bytes.push(part as u8);
    bytes.push(u8::try_from(key.len()).expect("keys are short"));
    bytes.extend(key);
    let length = u32::try_from(value.len()).expect("a row among others is small");
    bytes.extend(length.to_be_bytes());
    bytes.extend(value);
}

/// Rows of a chunk: their parts, keys and values.
pub(super) type Rows<'bytes> = Vec<(Part, &'bytes [u8], &'bytes [u8])>;

/// The rows that were written one behind the other; `None`: they are none.
pub(super) fn read_rows(bytes: &[u8]) -> Option<Rows<'_>> {
    let mut reader = Reader::new(bytes);
    let mut rows = Vec::new();
    while !reader.is_at_end() {
        let part = Part::of(reader.u8()?)?;
        let length = usize::from(reader.u8()?);
        let key = reader.bytes(length)?;
        let length = reader.u32()? as usize;
        rows.push((part, key, reader.bytes(length)?));
    }
    Some(rows)
}

#[cfg(test)]
mod tests;
