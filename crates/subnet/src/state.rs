//! Everything that replicas agree on after a height.
//!
//! # Design
//! A [`ReplicatedState`] is a value: executing a block makes a new one, and old ones stay valid for
//! readers. Clones share canisters, sessions and answers. What is derived from a part (its digest,
//! its subtree of the state tree) is computed once and kept beside it.
//!
//! # Determinism
//! Maps are ordered. [`ReplicatedState::digest`] covers every field, so equal digests mean equal
//! states; it stands in the certified tree.
mod cached;
mod canister;
mod changes;
mod chunks;
mod epochs;
mod genesis;
mod history;
mod log;
mod long;
mod message;
mod metrics;
mod randomness;
mod snapshot;
mod stored;

pub use cached::Cached;
pub use canister::{CallContext, Callback, Canister, Ledger, LowMemory, StopCall};
pub use changes::{Change, ChangeDetails, Changes, Deployment, Originator};
pub use chunks::{CHUNK_BYTES_MAX, CHUNKS_MAX, Chunks};
pub use epochs::{Epoch, Epochs};
pub use genesis::{Genesis, GenesisError, NODE_KEY_DER_BYTES, ROOT_KEY_DER_BYTES};
pub use history::{Answer, History, Reject, Status};
pub use log::{CanisterLog, LogRecord};
pub use long::{Long, LongWork, Task};
pub use message::{CallResult, Message, Origin, Request, Response};
pub use metrics::{CyclesConsumed, SubnetMetrics};
pub use randomness::{Drawing, Randomness};
pub(crate) use snapshot::SnapshotRecord;
pub use snapshot::{SNAPSHOTS_MAX, Snapshot, SnapshotCode, SnapshotId, SnapshotSource};
pub use stored::Stored;

use crate::{application::Height, sync::CheckpointId};
use ic_principal::Principal;
use lockstep_canister::{engine::Cycles, models::Work, session::Sessions};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The index of the first canister created without a given id.
const FIRST_CANISTER_INDEX: u64 = 1 << 32;

/// Where the sharing of session work stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Work overrun at earlier heights and not yet paid back.
    pub debt: Work,
    /// The session served last.
    pub last_session: u64,
}

/// The state after a height.
#[derive(Debug, Clone)]
pub struct ReplicatedState {
    /// The height; 0 before the first block.
    pub height: Height,
    /// Time of the block, nanoseconds since 1970.
    pub time_ns: u64,
    /// What was fixed at the start.
    pub genesis: Arc<Genesis>,
    canisters: BTreeMap<Principal, Arc<Canister>>,
    /// Generation sessions.
    pub sessions: Sessions,
    /// Calls received and their answers.
    pub history: History,
    /// Messages that wait for execution, in order.
    pub queue: BTreeMap<u64, Arc<Message>>,
    /// The key the next message in [`Self::queue`] gets.
    pub next_queue_key: u64,
    /// The index of the next canister.
    pub next_canister_index: u64,
    /// Ids of deleted canisters that were not given out by index: no canister gets them again.
    pub deleted: BTreeSet<Principal>,
    /// How session work was shared so far.
    pub schedule: Schedule,
    /// Calls that wait for random bytes.
    pub randomness: Randomness,
    /// What the subnet has done.
    pub metrics: SubnetMetrics,
    /// The last checkpoint before this height: its manifest is known from the next height on.
    pub checkpoint: Option<CheckpointId>,
    /// The epochs after the genesis.
    pub epochs: Arc<Epochs>,
}

impl ReplicatedState {
    /// The state before the first block.
    #[must_use]
    pub fn new(genesis: Arc<Genesis>) -> Self {
        let sessions = Sessions {
            models: genesis.models.clone(),
            ..Sessions::default()
        };
        Self {
            height: 0,
            time_ns: 0,
            genesis,
            canisters: BTreeMap::new(),
            sessions,
            history: History::default(),
            queue: BTreeMap::new(),
            next_queue_key: 0,
            next_canister_index: FIRST_CANISTER_INDEX,
            deleted: BTreeSet::new(),
            schedule: Schedule::default(),
            randomness: Randomness::default(),
            metrics: SubnetMetrics::default(),
            checkpoint: None,
            epochs: Arc::default(),
        }
    }

    /// The canisters, by id.
    #[must_use]
    pub fn canisters(&self) -> &BTreeMap<Principal, Arc<Canister>> {
        &self.canisters
    }

    /// A canister to be changed.
    pub fn canister_mut(&mut self, id: &Principal) -> Option<&mut Canister> {
        let canister = Arc::make_mut(self.canisters.get_mut(id)?);
        canister.touch();
        Some(canister)
    }

    /// Puts a message behind those that wait.
    pub fn enqueue(&mut self, message: Message) {
        self.queue.insert(self.next_queue_key, Arc::new(message));
        self.next_queue_key += 1;
    }

    /// Adds a canister, or replaces one.
    pub fn insert_canister(&mut self, canister: Canister) {
        self.canisters.insert(canister.state.id, Arc::new(canister));
    }

    /// Removes a canister, whose id is never given to another.
    pub fn remove_canister(&mut self, id: &Principal) -> Option<Arc<Canister>> {
        let canister = self.canisters.remove(id)?;
        if !self.was_given_out(id) {
            self.deleted.insert(*id);
        }
        Some(canister)
    }

    /// Whether a canister has this id or had it.
    #[must_use]
    pub fn is_taken(&self, id: &Principal) -> bool {
        self.canisters.contains_key(id) || self.deleted.contains(id) || self.was_given_out(id)
    }

    fn was_given_out(&self, id: &Principal) -> bool {
        let index = canister_index(id);
        index.is_some_and(|index| (FIRST_CANISTER_INDEX..self.next_canister_index).contains(&index))
    }

    /// An id that no canister has or had.
    pub fn fresh_canister_id(&mut self) -> Principal {
        loop {
            let id = canister_id(self.next_canister_index);
            let is_free = !self.is_taken(&id);
            self.next_canister_index += 1;
            if is_free {
                return id;
            }
        }
    }

    /// Whether a canister has a long message under way.
    #[must_use]
    pub fn is_busy(&self, id: &Principal) -> bool {
        let canister = self.canisters.get(id);
        canister.is_some_and(|canister| canister.is_busy())
    }

    /// The canisters that nothing may change now: they have a long message under way, or one needs their
    /// chunks.
    #[must_use]
    pub fn held(&self) -> BTreeSet<Principal> {
        let mut held = BTreeSet::new();
        for (id, canister) in &self.canisters {
            let Some(long) = &canister.ledger.long else {
                continue;
            };
            held.insert(*id);
            if let LongWork::Installation { lender, .. } = long.work {
                held.extend(lender);
            }
        }
        held
    }

    /// Whether a next block would do anything besides advancing the time.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
            || self.canisters.values().any(|canister| canister.is_busy())
            || self
                .sessions
                .sessions
                .values()
                .any(|session| session.runnable())
    }

    /// Whether others can go on from this state.
    #[must_use]
    pub fn is_checkpoint(&self) -> bool {
        self.height > 0
            && self
                .height
                .is_multiple_of(self.genesis.checkpoint_interval.get())
    }

    /// The number of the epoch that it belongs to; 0: the genesis.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        let epoch = self.epochs.at(self.height);
        epoch.map_or(0, |epoch| epoch.number)
    }

    /// The version of the rules that blocks of a height are executed by.
    #[must_use]
    pub fn protocol_version(&self, height: Height) -> u64 {
        let epoch = self.epochs.at(height);
        epoch.map_or(self.genesis.protocol_version, |epoch| {
            epoch.protocol_version
        })
    }

    /// The keys that verify the nodes' answers to queries, DER, by their ids.
    #[must_use]
    pub fn node_keys(&self) -> Cow<'_, BTreeMap<Principal, Vec<u8>>> {
        match self.epochs.at(self.height) {
            Some(epoch) => Cow::Owned(epoch.members.node_keys()),
            None => Cow::Borrowed(&self.genesis.nodes),
        }
    }

    /// Bytes that canisters take.
    #[must_use]
    pub fn canister_bytes(&self) -> u64 {
        let canisters = self.canisters.values();
        canisters
            .map(|canister| canister.state.memory_bytes())
            .sum()
    }

    /// Cycles that canisters have consumed, those that are deleted included.
    #[must_use]
    pub fn cycles_consumed(&self) -> Cycles {
        let canisters = self.canisters.values();
        canisters
            .map(|canister| canister.ledger.consumed.total())
            .fold(self.metrics.consumed_by_deleted, Cycles::saturating_add)
    }

    /// BLAKE3 over the whole state.
    ///
    /// The encoding: the tag `lockstep state 6`, height, time, digest of the genesis, next canister
    /// index, debt, last session, cycles consumed by deleted canisters (16 bytes), messages, instructions, height and
    /// manifest of the checkpoint (zeros when there is none), digest of the sessions; then deleted ids, canisters (their
    /// digests) and queue (key, CBOR of the message preceded by its length; before its count the next
    /// key), each preceded by its count; then the CBOR of the calls that wait for
    /// random bytes and of the roots after their heights, and the CBOR of the epochs, each preceded by its length, and the
    /// digest of the history. Integers are little-endian u64; principals are preceded by their length.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        let number = |hasher: &mut blake3::Hasher, value: u64| {
            hasher.update(&value.to_le_bytes());
        };
        hasher.update(b"lockstep state 6");
        number(&mut hasher, self.height);
        number(&mut hasher, self.time_ns);
        hasher.update(&self.genesis.digest());
        number(&mut hasher, self.next_canister_index);
        number(&mut hasher, self.schedule.debt);
        number(&mut hasher, self.schedule.last_session);
        hasher.update(&self.metrics.consumed_by_deleted.to_le_bytes());
        number(&mut hasher, self.metrics.messages);
        number(&mut hasher, self.metrics.instructions);
        let checkpoint = self.checkpoint.as_ref();
        number(&mut hasher, checkpoint.map_or(0, |last| last.height));
        hasher.update(&checkpoint.map_or([0; 32], |last| last.manifest));
        hasher.update(&self.sessions.digest());
        number(&mut hasher, self.deleted.len() as u64);
        for id in &self.deleted {
            number(&mut hasher, id.as_slice().len() as u64);
            hasher.update(id.as_slice());
        }
        number(&mut hasher, self.canisters.len() as u64);
        for canister in self.canisters.values() {
            hasher.update(&canister.digest());
        }
        number(&mut hasher, self.next_queue_key);
        number(&mut hasher, self.queue.len() as u64);
        for (key, message) in &self.queue {
            number(&mut hasher, *key);
            let mut bytes = Vec::new();
            ciborium::into_writer(message.as_ref(), &mut bytes).expect("a vector takes every byte");
            number(&mut hasher, bytes.len() as u64);
            hasher.update(&bytes);
        }
        let mut waiting = Vec::new();
        ciborium::into_writer(&self.randomness, &mut waiting).expect("a vector takes every byte");
        let mut epochs = Vec::new();
        ciborium::into_writer(&*self.epochs, &mut epochs).expect("a vector takes every byte");
        for bytes in [waiting, epochs] {
            number(&mut hasher, bytes.len() as u64);
            hasher.update(&bytes);
        }
        hasher.update(&self.history.digest());
        *hasher.finalize().as_bytes()
    }
}

/// The principal of the canister with an index: eight bytes, big-endian, then 01 01.
#[must_use]
pub fn canister_id(index: u64) -> Principal {
    let mut bytes = [1; 10];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    Principal::from_slice(&bytes)
}

/// The index of a canister's id; `None`: it does not have the form of one.
#[must_use]
pub fn canister_index(id: &Principal) -> Option<u64> {
    let index = id.as_slice().strip_suffix(&[1, 1])?;
    index.try_into().ok().map(u64::from_be_bytes)
}

/// Whether `id` has the form of a canister's id.
#[must_use]
pub fn is_canister_id(id: &Principal) -> bool {
    canister_index(id).is_some()
}
