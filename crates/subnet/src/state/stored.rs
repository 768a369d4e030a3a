//! What is kept for a canister besides its state: chunks of modules and snapshots.
use super::{Chunks, Snapshot, SnapshotId};
use ic_principal::Principal;
use std::{collections::BTreeMap, sync::Arc};

/// Chunks and snapshots. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    /// The chunk store.
    pub chunks: Chunks,
    /// Snapshots, by id.
    pub snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    /// The number of the next snapshot.
    pub next_snapshot: u64,
}

impl Stored {
    /// An id that no snapshot of the canister has had.
    pub fn fresh_snapshot_id(&mut self, canister: &Principal) -> SnapshotId {
        let id = SnapshotId::new(canister, self.next_snapshot);
        self.next_snapshot += 1;
        id
    }

    /// Bytes of the snapshots.
    #[must_use]
    pub fn snapshots_bytes(&self) -> u64 {
        self.snapshots
            .values()
            .map(|snapshot| snapshot.bytes())
            .sum()
    }

    /// Adds itself to a digest: next number, count of chunks and their hashes, count of snapshots and of
    /// each its id and digest; numbers are little-endian u64.
    pub(super) fn encode(&self, hasher: &mut blake3::Hasher) {
        let chunks = self.chunks.entries();
        hasher.update(&self.next_snapshot.to_le_bytes());
        hasher.update(&(chunks.len() as u64).to_le_bytes());
        for hash in chunks.keys() {
            hasher.update(hash);
        }
        hasher.update(&(self.snapshots.len() as u64).to_le_bytes());
        for (id, snapshot) in &self.snapshots {
            hasher.update(id.as_bytes());
            hasher.update(&snapshot.digest());
        }
    }
}
