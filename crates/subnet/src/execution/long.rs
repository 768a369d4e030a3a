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
//! [`LONG_MAX`] messages of canisters and one installation are under way at a time. What turns out to be
//! long beside them has not begun: it waits in the queue until there is a place, and its canister with it,
//! which can be managed meanwhile.
use super::{management::Installation, round::lock, turn::Turn};
use crate::{
    application::Height,
    state::{Long, LongWork, ReplicatedState},
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::Module,
    pacer::{Pace, Pacer, Progress},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    panic,
    sync::{Arc, Mutex},
    thread,
};

/// Long messages of canisters under way at a time.
const LONG_MAX: usize = 4;

/// The threads of long messages, which lanes share.
#[derive(Debug, Default)]
pub(super) struct LongRuns {
    /// Of canisters.
    pub(super) turns: Threads<Turn>,
    /// Of the management canister.
    pub(super) installations: Threads<Installation>,
    /// Canisters whose last message was long.
    expected: Mutex<BTreeSet<Principal>>,
    /// Modules that are being installed: they need not be compiled again.
    modules: Mutex<BTreeMap<Principal, Arc<Module>>>,
    /// Whom management calls are about that wait, by their keys.
    targets: Mutex<BTreeMap<u64, Principal>>,
}

impl LongRuns {
    /// Whether the canister's next message is likely to be long, and may have a thread.
    pub(super) fn expects(&self, id: &Principal) -> bool {
        lock(&self.expected).contains(id) && lock(&self.turns.0).len() < LONG_MAX
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

    /// Keeps the module that is being installed into a canister.
    pub(super) fn keep_module(&self, id: Principal, module: Arc<Module>) {
        lock(&self.modules).insert(id, module);
    }

    /// Whom a management call is about that has waited.
    pub(super) fn target(&self, key: u64) -> Option<Principal> {
        lock(&self.targets).get(&key).copied()
    }

    /// Notes whom a management call is about that waits.
    pub(super) fn note_target(&self, key: u64, target: Principal) {
        lock(&self.targets).insert(key, target);
    }

    /// Drops what belongs to nothing that is under way or waits.
    pub(super) fn trim(&self, state: &ReplicatedState) {
        lock(&self.turns.0).retain(|id, _| state.is_busy(id));
        lock(&self.installations.0).retain(|id, _| state.is_busy(id));
        lock(&self.modules).retain(|id, _| state.is_busy(id));
        lock(&self.targets).retain(|key, _| state.queue.contains_key(key));
        lock(&self.expected).retain(|id| state.canisters().contains_key(id));
    }
}

/// Threads that wait, by the canister that is not changed meanwhile.
#[derive(Debug)]
pub(super) struct Threads<T>(Mutex<BTreeMap<Principal, LongRun<T>>>);

impl<T> Default for Threads<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Threads<T> {
    /// The thread of a canister's long message, if it is as far as that.
    pub(super) fn take(&self, id: &Principal, long: &Long) -> Option<LongRun<T>> {
        let run = lock(&self.0).remove(id)?;
        ((run.begun, run.slices) == (long.begun, long.slices)).then_some(run)
    }

    /// Drops a canister's thread, if there is one.
    pub(super) fn forget(&self, id: &Principal) {
        lock(&self.0).remove(id);
    }

    /// Keeps a thread.
    pub(super) fn put(&self, id: Principal, run: LongRun<T>) {
        lock(&self.0).insert(id, run);
    }
}

/// How many more canisters' messages may begin to be long.
pub(super) fn free_places(state: &ReplicatedState) -> usize {
    let canisters = state.canisters().values();
    let long = canisters.filter_map(|canister| canister.ledger.long.as_ref());
    let taken = long.filter(|long| !matches!(long.work, LongWork::Installation { .. }));
    LONG_MAX.saturating_sub(taken.count())
}

/// The canister into which code is being installed that takes long.
pub(super) fn installed_into(state: &ReplicatedState) -> Option<Principal> {
    let mut canisters = state.canisters().iter();
    let found = canisters.find(|(_, canister)| {
        let long = canister.ledger.long.as_ref();
        long.is_some_and(|long| matches!(long.work, LongWork::Installation { .. }))
    });
    found.map(|(id, _)| *id)
}

/// A message on a thread of its own, which gives `T` at its end.
#[derive(Debug)]
pub(super) struct LongRun<T> {
    begun: Height,
    /// Slices granted.
    slices: u64,
    pacer: Pacer,
    thread: thread::JoinHandle<T>,
}

impl<T: Send + 'static> LongRun<T> {
    /// Begins a message with one slice.
    ///
    /// # Panics
    /// When this machine has no more threads.
    pub(super) fn begin(
        slice: NonZeroU64,
        begun: Height,
        run: impl FnOnce(Pace) -> T + Send + 'static,
    ) -> Self {
        let pacer = Pacer::new(slice);
        let pace = pacer.pace().clone();
        let run = move || {
            let _ending = pace.ending();
            run(pace.clone())
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

    /// Lets it have so many slices in all: what it gives, if that was enough.
    ///
    /// # Panics
    /// When the execution does.
    pub(super) fn go_on(mut self, slices: u64) -> Result<T, Self> {
        while self.slices < slices {
            self.pacer.resume();
            self.slices += 1;
        }
        match self.pacer.wait() {
            Progress::Paused => Err(self),
            Progress::Ended => {
                let result = self.thread.join();
                Ok(result.unwrap_or_else(|reason| panic::resume_unwind(reason)))
            }
        }
    }
}
