//! A certified checkpoint, as it is served.
use super::{
    manifest::{self, CHUNK_BYTES, Chunk, Content, Manifest, Source},
    offer::{self, Offer},
    piece, rows,
};
use crate::{
    application::Height,
    replica::{Certified, Executed},
    state::{ReplicatedState, SnapshotCode, SnapshotId},
    store::{self, MemoryKind, Part},
};
use ic_principal::Principal;
use lockstep_canister::{engine::Module, memory::Paged};
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

/// A state that others may go on from. What is served of it is looked up when it is asked for.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    executed: Arc<Executed>,
    certificate: Vec<u8>,
    catalog: OnceLock<Catalog>,
}

#[derive(Debug)]
struct Catalog {
    manifest: Manifest,
    encoded: Vec<u8>,
    summary: Vec<[u8; 32]>,
    modules: BTreeMap<[u8; 32], Arc<Module>>,
    chunks: BTreeMap<[u8; 32], Arc<Vec<u8>>>,
}

impl Checkpoint {
    /// The checkpoint `executed`, which a later certified state names.
    pub(crate) fn new(executed: Arc<Executed>, later: &Certified) -> Self {
        Self {
            executed,
            certificate: later.certificate(&offer::paths()),
            catalog: OnceLock::new(),
        }
    }

    pub(crate) fn height(&self) -> Height {
        self.executed.state.height
    }

    /// See [`Offer`].
    pub(crate) fn offer(&self) -> Vec<u8> {
        Offer::encode(self.height(), &self.catalog().summary, &self.certificate)
    }

    /// A part: first those of the manifest, then the chunks in its order.
    pub(crate) fn part(&self, index: u32) -> Option<Vec<u8>> {
        let catalog = self.catalog();
        let index = index as usize;
        if let Some(part) = catalog.encoded.chunks(CHUNK_BYTES).nth(index) {
            return Some(part.to_vec());
        }
        let index = index - catalog.summary.len();
        let chunk = catalog.manifest.chunks.get(index)?;
        catalog.read(
            &self.executed.state,
            chunk,
            &catalog.manifest.sources[index],
        )
    }

    fn catalog(&self) -> &Catalog {
        self.catalog.get_or_init(|| {
            let state = &self.executed.state;
            let manifest = Manifest::of(state);
            let encoded = manifest.encode();
            Catalog {
                summary: manifest::summary(&encoded),
                encoded,
                manifest,
                modules: store::modules(state),
                chunks: store::chunks(state),
            }
        })
    }
}

impl Catalog {
    /// The bytes of a chunk; `None` only when the manifest is of another state.
    fn read(&self, state: &ReplicatedState, chunk: &Chunk, source: &Source) -> Option<Vec<u8>> {
        match (&chunk.content, source) {
            (Content::Rows, Source::Rows { part, first, count }) => {
                let mut bytes = Vec::new();
                for (key, value) in rows::from(state, *part, first).take(*count) {
                    manifest::write_row(&mut bytes, *part, &key, &value);
                }
                Some(bytes)
            }
            (Content::OfRow { part, key, .. }, Source::OfRow { offset }) => {
                let cut = |value: &[u8]| {
                    let rest = value.get(*offset..)?;
                    Some(rest[..rest.len().min(CHUNK_BYTES)].to_vec())
                };
                if *part == Part::Modules {
                    return cut(self.modules.get(key.as_slice())?.wasm());
                }
                cut(&rows::from(state, *part, key).next()?.1)
            }
            (Content::Named { key }, _) => Some(self.chunks.get(key.as_slice())?.to_vec()),
            (
                Content::Piece {
                    owner,
                    memory,
                    index,
                },
                _,
            ) => read_piece(state, owner, *memory, *index),
            _ => None,
        }
    }
}

fn read_piece(
    state: &ReplicatedState,
    owner: &[u8],
    kind: MemoryKind,
    index: u64,
) -> Option<Vec<u8>> {
    fn encoded(memory: &impl Paged, index: u64) -> Vec<u8> {
        piece::encode(&piece::read(memory, index))
    }
    if let Some(id) = SnapshotId::from_bytes(owner) {
        let snapshot = state
            .canisters()
            .get(&id.canister())?
            .stored
            .snapshots
            .get(&id)?;
        return match (kind, &snapshot.code) {
            (MemoryKind::Heap, _) => Some(encoded(&snapshot.heap, index)),
            (MemoryKind::Stable, _) => Some(encoded(&snapshot.stable, index)),
            (MemoryKind::Module, SnapshotCode::Upload { bytes, .. }) => Some(encoded(bytes, index)),
            (MemoryKind::Module, SnapshotCode::Module(_)) => None,
        };
    }
    let id = Principal::try_from_slice(owner).ok()?;
    let canister = &state.canisters().get(&id)?.state;
    match kind {
        MemoryKind::Heap => Some(encoded(&canister.installed.as_ref()?.heap, index)),
        MemoryKind::Stable => Some(encoded(&canister.stable, index)),
        MemoryKind::Module => None,
    }
}
