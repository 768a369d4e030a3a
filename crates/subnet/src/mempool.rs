//! Calls that wait to be ordered, and what has been offered in blocks but not executed.
//!
//! # Units and bounds
//! At most [`CALLS_MAX`] calls and [`BYTES_MAX`] bytes wait, of which one sender has at most a
//! [`SENDER_PART`]th and one target at most a [`TARGET_PART`]th; a block carries at most
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
/// Which part of the room one sender may take. All who are anonymous are one.
const SENDER_PART: usize = 4;
/// Which part of the room the calls for one canister may take, those that manage it included.
const TARGET_PART: usize = 2;
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
    #[error("too many calls of the same sender are waiting; try again later")]
    OfSender,
    /// Too many of them are for its canister.
    #[error("too many calls for the same canister are waiting; try again later")]
    ForCanister,
}

/// A number by which a call is known here: that of its arrival.
type Key = u64;

/// Calls and their bytes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Room {
    calls: usize,
    bytes: usize,
}

impl Room {
    const ALL: Self = Self {
        calls: CALLS_MAX,
        bytes: BYTES_MAX,
    };

    /// Whether a call of so many bytes fits beside what is there into a part of all.
    fn fits(self, bytes: usize, part: usize) -> bool {
        self.calls < Self::ALL.calls / part && self.bytes + bytes <= Self::ALL.bytes / part
    }

    fn add(&mut self, bytes: usize) {
        self.calls += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.calls -= 1;
        self.bytes -= bytes;
    }
}

/// A call and the canister that it is about.
#[derive(Debug)]
struct Waiting {
    call: Arc<Ingress>,
    target: Principal,
}

/// Calls in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    calls: BTreeMap<Key, Waiting>,
    by_id: BTreeMap<[u8; 32], Key>,
    by_end: BTreeSet<(u64, Key)>,
    by_sender: BTreeMap<Principal, Room>,
    by_target: BTreeMap<Principal, Room>,
    /// Those that are in no block that may become final.
    ready: BTreeSet<Key>,
    taken: Room,
    arrivals: Key,
    /// Request ids in blocks that were proposed or voted for, by the times of the block and its parent.
    offers: BTreeMap<(u64, u64), Vec<[u8; 32]>>,
    /// In how many of them each is.
    offered: BTreeMap<[u8; 32], usize>,
}

impl Mempool {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    /// A call that waits.
    pub(crate) fn get(&self, id: &RequestId) -> Option<&Arc<Ingress>> {
        let key = self.by_id.get::<[u8; 32]>(id)?;
        self.calls.get(key).map(|waiting| &waiting.call)
    }

    /// Whether there is room for a call that is about `target`.
    pub(crate) fn check_room(
        &self,
        sender: &Principal,
        target: &Principal,
        bytes: usize,
    ) -> Result<(), NoRoom> {
        let of =
            |rooms: &BTreeMap<Principal, Room>, who| rooms.get(who).copied().unwrap_or_default();
        if !self.taken.fits(bytes, 1) {
            Err(NoRoom::Full)
        } else if !of(&self.by_sender, sender).fits(bytes, SENDER_PART) {
            Err(NoRoom::OfSender)
        } else if !of(&self.by_target, target).fits(bytes, TARGET_PART) {
            Err(NoRoom::ForCanister)
        } else {
            Ok(())
        }
    }

    /// Adds an authenticated call that is about `target`. One that is there already stays, unless its signer's
    /// authority ends earlier or it is the same with more bytes.
    pub(crate) fn insert(&mut self, call: Ingress, target: Principal) -> Result<(), NoRoom> {
        let known = self.by_id.get::<[u8; 32]>(&call.id).copied();
        if let Some(known) = self.get(&call.id) {
            let better = (call.authority_until_ns, known.bytes.len());
            if better <= (known.authority_until_ns, call.bytes.len()) {
                return Ok(());
            }
        }
        let bytes = call.bytes.len();
        self.check_room(&call.sender, &target, bytes)?;
        known.into_iter().for_each(|key| self.remove(key));
        let key = self.arrivals;
        self.arrivals += 1;
        self.by_id.insert(*call.id, key);
        self.by_end.insert((call.end_ns(), key));
        self.taken.add(bytes);
        self.by_sender.entry(call.sender).or_default().add(bytes);
        self.by_target.entry(target).or_default().add(bytes);
        if !self.offered.contains_key::<[u8; 32]>(&call.id) {
            self.ready.insert(key);
        }
        let call = Arc::new(call);
        self.calls.insert(key, Waiting { call, target });
        Ok(())
    }

    fn remove(&mut self, key: Key) {
        let Some(Waiting { call, target }) = self.calls.remove(&key) else {
            return;
        };
        let bytes = call.bytes.len();
        self.by_id.remove::<[u8; 32]>(&call.id);
        self.by_end.remove(&(call.end_ns(), key));
        self.ready.remove(&key);
        self.taken.take(bytes);
        give_back(&mut self.by_sender, &call.sender, bytes);
        give_back(&mut self.by_target, &target, bytes);
    }

    /// Notes a block that may become final.
    pub(crate) fn offer(&mut self, parent_time_ns: u64, time_ns: u64, ids: Vec<[u8; 32]>) {
        for id in &ids {
            *self.offered.entry(*id).or_default() += 1;
            if let Some(key) = self.by_id.get(id) {
                self.ready.remove(key);
            }
        }
        let offer = self.offers.entry((time_ns, parent_time_ns)).or_default();
        offer.extend(ids);
        if self.offers.len() > OFFERS_MAX
            && let Some((_, ids)) = self.offers.pop_first()
        {
            self.take_back(&ids);
        }
    }

    /// Forgets that calls were offered once.
    fn take_back(&mut self, ids: &[[u8; 32]]) {
        for id in ids {
            let Some(count) = self.offered.get_mut(id) else {
                continue;
            };
            *count -= 1;
            if *count > 0 {
                continue;
            }
            self.offered.remove(id);
            if let Some(key) = self.by_id.get(id) {
                self.ready.insert(*key);
            }
        }
    }

    /// Offered blocks up to `parent_time_ns` that are not executed.
    pub(crate) fn unexecuted(&self, parent_time_ns: u64) -> usize {
        self.offers.range(..=(parent_time_ns, u64::MAX)).count()
    }

    /// Drops what `state` has taken in since its history was `before`, and what is too late for it, and forgets
    /// offers of blocks that are executed or can be no more: their parents' times have passed.
    pub(crate) fn executed(&mut self, state: &ReplicatedState, before: &History) {
        state.history.changes(before, |id, _| {
            let key = <[u8; 32]>::try_from(id).ok();
            if let Some(key) = key.and_then(|id| self.by_id.get(&id)).copied() {
                self.remove(key);
            }
        });
        while let Some((end_ns, key)) = self.by_end.first().copied()
            && end_ns < state.time_ns
        {
            self.remove(key);
        }
        let offers = std::mem::take(&mut self.offers);
        for ((time_ns, parent_time_ns), ids) in offers {
            if parent_time_ns < state.time_ns {
                self.take_back(&ids);
            } else {
                self.offers.insert((time_ns, parent_time_ns), ids);
            }
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
        let ready = ready.map(|waiting| &waiting.call);
        ready.filter(move |call| call.check_again(time_ns).is_ok())
    }
}

fn give_back(rooms: &mut BTreeMap<Principal, Room>, who: &Principal, bytes: usize) {
    if let Some(room) = rooms.get_mut(who) {
        room.take(bytes);
        if *room == Room::default() {
            rooms.remove(who);
        }
    }
}

/// The envelopes of calls.
pub(crate) fn envelopes(calls: &[Arc<Ingress>]) -> Vec<Bytes> {
    calls.iter().map(|call| call.bytes.clone()).collect()
}

#[cfg(test)]
mod tests;
