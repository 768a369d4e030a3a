//! Calls that wait to be ordered, and what has been offered in blocks but not executed.
//!
//! # Units and bounds
//! At most [`CALLS_MAX`] calls and [`BYTES_MAX`] bytes wait; a block carries at most
//! [`BLOCK_CALLS_MAX`] calls and [`BLOCK_BYTES_MAX`] bytes.
use crate::{
    ingress::{Ingress, RequestId, check_expiry},
    state::ReplicatedState,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most calls that wait.
pub(crate) const CALLS_MAX: usize = 10_000;
/// Most bytes that wait.
pub(crate) const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most calls in a block.
pub(crate) const BLOCK_CALLS_MAX: usize = 1_000;
/// Most bytes of calls in a block.
pub(crate) const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most unexecuted blocks that are remembered.
const OFFERS_MAX: usize = 1_000;

/// There is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// Calls in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct Mempool {
    calls: BTreeMap<u64, Arc<Ingress>>,
    by_id: BTreeMap<[u8; 32], u64>,
    bytes: usize,
    arrivals: u64,
    /// Request ids in blocks that were proposed or voted for, by the blocks' times.
    offers: BTreeMap<u64, Vec<[u8; 32]>>,
}

impl Mempool {
    pub(crate) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn contains(&self, id: &RequestId) -> bool {
        self.by_id.contains_key::<[u8; 32]>(id)
    }

    /// Adds a call; one that is there already stays.
    pub(crate) fn insert(&mut self, call: Ingress) -> Result<(), Full> {
        if self.contains(&call.id) {
            return Ok(());
        }
        if self.calls.len() >= CALLS_MAX || self.bytes + call.bytes.len() > BYTES_MAX {
            return Err(Full);
        }
        self.bytes += call.bytes.len();
        self.by_id.insert(*call.id, self.arrivals);
        self.calls.insert(self.arrivals, Arc::new(call));
        self.arrivals += 1;
        Ok(())
    }

    /// Notes a block that may become final.
    pub(crate) fn offer(&mut self, time_ns: u64, ids: Vec<[u8; 32]>) {
        self.offers.entry(time_ns).or_default().extend(ids);
        if self.offers.len() > OFFERS_MAX {
            self.offers.pop_first();
        }
    }

    /// Offered blocks up to `parent_time_ns` that are not executed.
    pub(crate) fn unexecuted(&self, parent_time_ns: u64) -> usize {
        self.offers.range(..=parent_time_ns).count()
    }

    /// Drops what `state` has taken in or what is too late for it, and forgets offers up to its time.
    pub(crate) fn executed(&mut self, state: &ReplicatedState) {
        self.offers = self.offers.split_off(&(state.time_ns + 1));
        let over = |call: &Ingress| {
            call.expiry_ns < state.time_ns || state.history.get(&call.id).is_some()
        };
        let gone: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| over(call))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            let call = self.calls.remove(&key).expect("the key was just seen");
            self.by_id.remove::<[u8; 32]>(&call.id);
            self.bytes -= call.bytes.len();
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
        let offered: BTreeSet<&[u8; 32]> = self.offers.values().flatten().collect();
        self.calls.values().filter(move |call| {
            check_expiry(call.expiry_ns, time_ns).is_ok() && !offered.contains::<[u8; 32]>(&call.id)
        })
    }
}

/// The envelopes of calls.
pub(crate) fn envelopes(calls: &[Arc<Ingress>]) -> Vec<Bytes> {
    calls.iter().map(|call| call.bytes.clone()).collect()
}
