//! Long messages: a slice at each height, on a thread that waits in between.
//!
//! # Design
//! Nobody knows of a message how long it is. It is executed with one slice, where its lane runs; if that
//! is not enough, what it did is dropped, and the canister's books say that it is under way ([`Long`]). At
//! the next heights it runs on a thread of its own, which waits where it is for its next slice. A canister
//! whose last message was long has its messages begun on such a thread.
//!
//! # Determinism
//! Threads are a cache: without one, a message is executed again from its start up to where it was. It is a
//! function of its canister and the canister's sessions, which nothing else changes until it ends, of its
//! own bytes, which stay in the queue, and of what [`Long`] keeps. Which threads live and where messages
//! are begun can therefore not be seen.
//!
//! # Bounds
//! [`LONG_MAX`] messages go on at a time, those that began first; the others wait where they are, without
//! a thread.
use super::{
    round::lock,
    turn::{Turn, Work},
};
use crate::{
    application::Height,
    state::{Long, ReplicatedState},
};
use ic_principal::Principal;
use lockstep_canister::pacer::{Pacer, Progress};
use std::{
    collections::{BTreeMap, BTreeSet},
    panic,
    sync::Mutex,
    thread,
};

/// Long messages that go on at a height.
const LONG_MAX: usize = 4;

/// The threads of long messages, which lanes share.
#[derive(Debug, Default)]
pub(super) struct LongRuns {
    live: Mutex<BTreeMap<Principal, LongRun>>,
    /// Canisters whose last message was long.
    expected: Mutex<BTreeSet<Principal>>,
}

impl LongRuns {
    /// The thread of a canister's long message, if it is as far as that.
    pub(super) fn take(&self, id: &Principal, long: &Long) -> Option<LongRun> {
        let run = lock(&self.live).remove(id)?;
        ((run.begun, run.slices) == (long.begun, long.slices)).then_some(run)
    }

    /// Keeps a thread that waits.
    pub(super) fn put(&self, id: Principal, run: LongRun) {
        lock(&self.live).insert(id, run);
    }

    /// Whether the canister's next message is likely to be long.
    pub(super) fn expects(&self, id: &Principal) -> bool {
        lock(&self.expected).contains(id)
    }

    /// Notes whether the canister's last message was long.
    pub(super) fn note(&self, id: Principal, was_long: bool) {
        let mut expected = lock(&self.expected);
        if was_long {
            expected.insert(id);
        } else {
            expected.remove(&id);
        }
    }

    /// Drops the threads of messages that do not go on.
    pub(super) fn trim(&self, state: &ReplicatedState) {
        let next = going_on(state);
        lock(&self.live).retain(|id, _| next.contains(id));
        lock(&self.expected).retain(|id| state.canisters().contains_key(id));
    }
}

/// The canisters whose long messages get a slice at a height.
pub(super) fn going_on(state: &ReplicatedState) -> BTreeSet<Principal> {
    let canisters = state.canisters().iter();
    let mut long: Vec<(Height, Principal)> = canisters
        .filter_map(|(id, canister)| Some((canister.ledger.long.as_ref()?.begun, *id)))
        .collect();
    long.sort_unstable();
    long.into_iter().take(LONG_MAX).map(|(_, id)| id).collect()
}

/// A message on a thread of its own.
#[derive(Debug)]
pub(super) struct LongRun {
    begun: Height,
    /// Slices granted.
    slices: u64,
    pacer: Pacer,
    thread: thread::JoinHandle<Turn>,
}

impl LongRun {
    /// Begins a message with one slice.
    ///
    /// # Panics
    /// When this machine has no more threads.
    pub(super) fn begin(mut turn: Turn, work: Work, begun: Height) -> Self {
        let pacer = Pacer::new(turn.round.genesis.slice_instructions);
        let pace = pacer.pace().clone();
        let run = move || {
            let _ending = pace.ending();
            turn.run(&work, pace.clone());
            turn
        };
        let thread = thread::Builder::new()
            .name("long message".into())
            .spawn(run);
        Self {
            begun,
            slices: 1,
            pacer,
            thread: thread.unwrap_or_else(|error| panic!("a long message has no thread: {error}")),
        }
    }

    /// Lets it have so many slices in all: what it has done, if that was enough.
    ///
    /// # Panics
    /// When the execution does.
    pub(super) fn go_on(mut self, slices: u64) -> Result<Turn, Self> {
        while self.slices < slices {
            self.pacer.resume();
            self.slices += 1;
        }
        match self.pacer.wait() {
            Progress::Paused => Err(self),
            Progress::Ended => {
                let turn = self.thread.join();
                Ok(turn.unwrap_or_else(|reason| panic::resume_unwind(reason)))
            }
        }
    }
}
