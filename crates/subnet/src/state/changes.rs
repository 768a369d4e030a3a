//! What has been done to a canister's code and controllers (`canister_info`).
use super::{SnapshotId, SnapshotSource};
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};

/// Changes that are kept; older ones are only counted.
const CHANGES_MAX: usize = 20;
/// Bytes that a change takes beside the lists in it.
const CHANGE_BYTES: u64 = 64;

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Originator {
    /// A user.
    User(Principal),
    /// A canister.
    Canister {
        /// Which one.
        id: Principal,
        /// Its version then, if it said.
        version: Option<u64>,
    },
}

/// How code came into a canister.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deployment {
    /// Into an empty one.
    Install,
    /// In place of other code, whose state is gone.
    Reinstall,
    /// In place of other code, whose state is kept.
    Upgrade,
}

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChangeDetails {
    /// The canister came into being.
    Creation {
        /// Its controllers.
        controllers: BTreeSet<Principal>,
        /// Representation-independent hash of its environment variables, if some were given.
        environment_hash: Option<[u8; 32]>,
    },
    /// Its code was removed.
    CodeUninstall,
    /// Code was installed.
    CodeDeployment {
        /// How.
        mode: Deployment,
        /// SHA-256 of the module.
        module_hash: [u8; 32],
    },
    /// A snapshot was loaded.
    LoadSnapshot {
        /// The canister it belongs to, if another.
        from: Option<Principal>,
        /// The snapshot.
        snapshot: SnapshotId,
        /// The version of its canister when it was taken.
        canister_version: u64,
        /// When it was taken, nanoseconds since 1970.
        taken_at_ns: u64,
        /// Where it comes from.
        source: SnapshotSource,
    },
    /// It got other controllers.
    ControllersChange {
        /// All of them.
        controllers: BTreeSet<Principal>,
    },
}

/// A change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
    /// The canister's version after it.
    pub canister_version: u64,
    /// Who made it.
    pub originator: Originator,
    /// What it was.
    pub details: ChangeDetails,
}

impl Change {
    fn bytes(&self) -> u64 {
        let (ChangeDetails::Creation { controllers, .. }
        | ChangeDetails::ControllersChange { controllers }) = &self.details
        else {
            return CHANGE_BYTES;
        };
        let lengths = controllers.iter().map(|id| id.as_slice().len() as u64);
        CHANGE_BYTES + lengths.sum::<u64>()
    }
}

/// The last changes of a canister.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    total: u64,
    recent: VecDeque<Change>,
}

impl Changes {
    /// Adds a change and forgets the oldest one beyond those that are kept.
    pub fn push(&mut self, change: Change) {
        self.total += 1;
        self.recent.push_back(change);
        if self.recent.len() > CHANGES_MAX {
            self.recent.pop_front();
        }
    }

    /// Forgets every change; the count stays.
    pub fn clear(&mut self) {
        self.recent.clear();
    }

    /// How many there have been.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The last ones, at most `count`, oldest first.
    pub fn recent(&self, count: u64) -> impl Iterator<Item = &Change> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.recent
            .iter()
            .skip(self.recent.len().saturating_sub(count))
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.recent.iter().map(Change::bytes).sum()
    }
}
