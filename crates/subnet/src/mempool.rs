//! Calls that wait to be ordered, and what has been offered in blocks but not executed.
//!
//! # Units and bounds
//! At most [`CALLS_MAX`] calls and [`BYTES_MAX`] bytes wait, of which one sender has at most
//! [`SENDER_CALLS_MAX`] and one canister at most [`CANISTER_CALLS_MAX`]; a block carries at most
//! [`BLOCK_CALLS_MAX`] calls and [`BLOCK_BYTES_MAX`] bytes. What is done for a call or a block costs what it
//! concerns, whatever else waits.
use crate::{
    ingress::{Ingress, RequestId},
    state::{History, ReplicatedState},
};
use bytes::Bytes;
use ic_principal::Principal;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most calls that wait.
pub(crate) const CALLS_MAX: usize = 10_000;
/// Most calls of one sender that wait. All who are anonymous are one.
pub(crate) const SENDER_CALLS_MAX: usize = CALLS_MAX / 4;
/// Most calls for one canister that wait.
pub(crate) const CANISTER_CALLS_MAX: usize = CALLS_MAX / 2;
/// Most bytes that wait.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most calls in a block.
pub(crate) const BLOCK_CALLS_MAX: usize = 1_000;
/// Most bytes of calls in a block.
pub(crate) const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most unexecuted blocks that are remembered.
const OFFERS_MAX: usize = 1_000;

/// Why a call may not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// Too many calls or bytes wait.
    #[error("too many calls are waiting; try again later")]
    Full,
    /// Too many of them are of its sender.
    #[error("{SENDER_CALLS_MAX} calls of the same sender are waiting; try again later")]
    OfSender,
    /// Too many of them are for its canister.
    #[error("{CANISTER_CALLS_MAX} calls for the same canister are waiting; try again later")]
    ForCanister,
}

/// A number by which a call is known here: that of its arrival.
type Key = u64;

/// Calls in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    calls: BTreeMap<Key, Arc<Ingress>>,
    by_id: BTreeMap<[u8; 32], Key>,
    by_expiry: BTreeSet<(u64, Key)>,
    by_sender: BTreeMap<Principal, usize>,
    by_canister: BTreeMap<Principal, usize>,
    /// Those that are in no block that may become final.
    ready: BTreeSet<Key>,
    bytes: usize,
    arrivals: Key,
    /// Request ids in blocks that were proposed or voted for, by the blocks' times.
    offers: BTreeMap<u64, Vec<[u8; 32]>>,
    /// In how many of them each is.
    offered: BTreeMap<[u8; 32], usize>,
}

impl Mempool {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// A call that waits.
    pub(crate) fn get(&self, id: &RequestId) -> Option<&Arc<Ingress>> {
        self.calls.get(self.by_id.get::<[u8; 32]>(id)?)
    }

    /// Adds a call; one that is there already stays.
    pub(crate) fn insert(&mut self, call: Ingress) -> Result<(), NoRoom> {
        if self.by_id.contains_key::<[u8; 32]>(&call.id) {
            return Ok(());
        }
        if self.calls.len() >= CALLS_MAX || self.bytes + call.bytes.len() > BYTES_MAX {
            return Err(NoRoom::Full);
        }
        let waiting = |counts: &BTreeMap<Principal, usize>, of| counts.get(of).copied();
        if waiting(&self.by_sender, &call.sender) >= Some(SENDER_CALLS_MAX) {
            return Err(NoRoom::OfSender);
        }
        if waiting(&self.by_canister, &call.canister) >= Some(CANISTER_CALLS_MAX) {
            return Err(NoRoom::ForCanister);
        }
        let key = self.arrivals;
        self.arrivals += 1;
        self.bytes += call.bytes.len();
        self.by_id.insert(*call.id, key);
        self.by_expiry.insert((call.expiry_ns, key));
        *self.by_sender.entry(call.sender).or_default() += 1;
        *self.by_canister.entry(call.canister).or_default() += 1;
        if !self.offered.contains_key::<[u8; 32]>(&call.id) {
            self.ready.insert(key);
        }
        self.calls.insert(key, Arc::new(call));
        Ok(())
    }

    fn remove(&mut self, key: Key) {
        let Some(call) = self.calls.remove(&key) else {
            return;
        };
        self.bytes -= call.bytes.len();
        self.by_id.remove::<[u8; 32]>(&call.id);
        self.by_expiry.remove(&(call.expiry_ns, key));
        self.ready.remove(&key);
        discount(&mut self.by_sender, &call.sender);
        discount(&mut self.by_canister, &call.canister);
    }

    /// Notes a block that may become final.
    pub(crate) fn offer(&mut self, time_ns: u64, ids: Vec<[u8; 32]>) {
        for id in &ids {
            *self.offered.entry(*id).or_default() += 1;
            if let Some(key) = self.by_id.get(id) {
                self.ready.remove(key);
            }
        }
        self.offers.entry(time_ns).or_default().extend(ids);
        if self.offers.len() > OFFERS_MAX
            && let Some((_, ids)) = self.offers.pop_first()
        {
            self.take_back(&ids);
        }
    }

    /// Forgets that calls were offered once.
    fn take_back(&mut self, ids: &[[u8; 32]]) {
        for id in ids {
            if discount(&mut self.offered, id)
                && let Some(key) = self.by_id.get(id)
            {
                self.ready.insert(*key);
            }
        }
    }

    /// Offered blocks up to `parent_time_ns` that are not executed.
    pub(crate) fn unexecuted(&self, parent_time_ns: u64) -> usize {
        self.offers.range(..=parent_time_ns).count()
    }

    /// Drops what `state` has taken in since its history was `before`, and what is too late for it, and forgets
    /// offers up to its time.
    pub(crate) fn executed(&mut self, state: &ReplicatedState, before: &History) {
        state.history.changes(before, |id, _| {
            let key = <[u8; 32]>::try_from(id).ok();
            if let Some(key) = key.and_then(|id| self.by_id.get(&id)).copied() {
                self.remove(key);
            }
        });
        while let Some((expiry_ns, key)) = self.by_expiry.first().copied()
            && expiry_ns < state.time_ns
        {
            self.remove(key);
        }
        while let Some(entry) = self.offers.first_entry()
            && *entry.key() <= state.time_ns
        {
            let ids = entry.remove();
            self.take_back(&ids);
        }
    }

    /// Whether [`Self::select`] would find anything.
    pub(crate) fn has_calls(&self, time_ns: u64) -> bool {
        self.eligible(time_ns).next().is_some()
    }

    /// The calls for a block at `time_ns`.
    pub(crate) fn select(&self, time_ns: u64) -> Vec<Arc<Ingress>> {
        let mut bytes = 0;
        let fits = |call: &&Arc<Ingress>| {
            bytes += call.bytes.len();
            bytes <= BLOCK_BYTES_MAX
        };
        self.eligible(time_ns)
            .take_while(fits)
            .take(BLOCK_CALLS_MAX)
            .cloned()
            .collect()
    }

    /// Calls that are valid at a time and in no block that may become final.
    fn eligible(&self, time_ns: u64) -> impl Iterator<Item = &Arc<Ingress>> {
        let ready = self.ready.iter().filter_map(|key| self.calls.get(key));
        ready.filter(move |call| call.check_again(time_ns).is_ok())
    }
}

/// Takes one from a count; whether none is left.
fn discount<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return false;
    };
    *count -= 1;
    let none = *count == 0;
    if none {
        counts.remove(key);
    }
    none
}

/// The envelopes of calls.
pub(crate) fn envelopes(calls: &[Arc<Ingress>]) -> Vec<Bytes> {
    calls.iter().map(|call| call.bytes.clone()).collect()
}

#[cfg(test)]
mod tests;
