//! How far a replica is: the heights that are final, executed and certified, and recent roots.
//!
//! # Design
//!
//! Consensus orders blocks faster than a replica may execute them. Two rules keep the distance
//! small. A replica neither proposes nor votes while more than [`BACKLOG_MAX`] final blocks wait
//! for execution; it always catches up, because what is final can always be fetched and executed,
//! so this cannot stop the chain for good. And a leader waits a moment while certification is more
//! than [`BACKLOG_MAX`] heights behind, but no longer: certificates need new heights to move on.
use crate::application::{Application, Height};
use commonware_cryptography::sha256::Digest;
use commonware_utils::channel::oneshot;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify, futures::Notified};

/// How many final blocks may wait for execution, and executed ones for a certificate.
pub const BACKLOG_MAX: u64 = 10;

/// How many roots are kept in memory; older ones are the application's to remember.
const ROOTS_KEPT: usize = 256;

/// The heights reached so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heights {
    /// The highest block known to be final.
    pub finalized: Height,
    /// The highest block that is executed and durable.
    pub executed: Height,
    /// Every root up to here is certified, by this node or, as far as it knows, by others.
    pub certified: Height,
}

#[derive(Default)]
struct State {
    heights: Heights,
    recent: BTreeMap<Height, [u8; 32]>,
    waiting: BTreeMap<Height, Vec<oneshot::Sender<Digest>>>,
}

/// Shared between the tasks of one node.
///
/// # Determinism
///
/// Waiters are woken in the order in which they came; a simulation replays.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
    moved: Notify,
    /// Held while the application's state changes.
    turn: AsyncMutex<()>,
    restored: Notify,
}

impl Progress {
    pub(crate) fn new(executed: Height) -> Self {
        let progress = Self::default();
        progress.lock().heights = Heights {
            finalized: executed,
            executed,
            certified: 0,
        };
        progress
    }

    pub(crate) fn heights(&self) -> Heights {
        self.lock().heights
    }

    pub(crate) fn note_finalized(&self, height: Height) {
        raise(&mut self.lock().heights.finalized, height);
        self.moved.notify_waiters();
    }

    pub(crate) fn note_certified(&self, height: Height) {
        raise(&mut self.lock().heights.certified, height);
        self.moved.notify_waiters();
    }

    /// Waits until nobody else changes the application's state, and keeps others from it.
    pub(crate) async fn turn(&self) -> AsyncMutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Records that the application has taken over another state.
    pub(crate) fn note_restored(&self, height: Height, root: [u8; 32]) {
        self.note_executed(height, root);
        self.restored.notify_waiters();
    }

    /// Resolves when the application takes over another state from now on.
    pub(crate) fn restored(&self) -> Notified<'_> {
        self.restored.notified()
    }

    /// Records the root after `height` and answers those who wait for it.
    pub(crate) fn note_executed(&self, height: Height, root: [u8; 32]) {
        let mut state = self.lock();
        raise(&mut state.heights.finalized, height);
        raise(&mut state.heights.executed, height);
        state.recent.insert(height, root);
        while state.recent.len() > ROOTS_KEPT {
            state.recent.pop_first();
        }
        for waiter in state.waiting.remove(&height).unwrap_or_default() {
            let _ = waiter.send(Digest(root));
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// The root after `height`, as soon as it is executed. The sender is dropped if the height was
    /// executed before this start and the application no longer knows its root.
    pub(crate) fn root_after(
        &self,
        application: &dyn Application,
        height: Height,
    ) -> oneshot::Receiver<Digest> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        if let Some(root) = state.recent.get(&height) {
            let _ = sender.send(Digest(*root));
        } else if height > application.executed_height() {
            let waiting = state.waiting.entry(height).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(sender);
        } else if let Some(root) = application.root(height) {
            let _ = sender.send(Digest(root));
        }
        receiver
    }

    /// Waits until few enough final blocks wait for execution.
    pub(crate) async fn until_executed(&self) {
        self.until(|heights| heights.finalized - heights.executed <= BACKLOG_MAX)
            .await;
    }

    /// Waits until `height` is executed.
    pub(crate) async fn until_executed_at(&self, height: Height) {
        self.until(|heights| heights.executed >= height).await;
    }

    /// Waits until certification is close behind execution.
    pub(crate) async fn until_certified(&self) {
        self.until(|heights| heights.executed.saturating_sub(heights.certified) <= BACKLOG_MAX)
            .await;
    }

    async fn until(&self, reached: impl Fn(&Heights) -> bool) {
        loop {
            let moved = self.moved.notified();
            if reached(&self.heights()) {
                return;
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(height: &mut Height, to: Height) {
    *height = to.max(*height);
}
