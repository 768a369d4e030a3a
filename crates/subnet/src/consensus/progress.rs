//! How far a replica is: the heights that are final, executed and certified.
//!
//! # Design
//!
//! Consensus orders blocks faster than a replica may execute them. Two rules keep the distance
//! small. A replica neither proposes nor votes while more than [`BACKLOG_MAX`] final blocks wait
//! for execution; it always catches up, because what is final can always be fetched and executed,
//! so this cannot stop the chain for good. And a leader waits a moment while certification is more
//! than [`BACKLOG_MAX`] heights behind, but no longer: ordering does not depend on it.
use crate::application::Height;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, Notify, futures::Notified};

/// How many final blocks may wait for execution, and executed ones for a certificate.
pub const BACKLOG_MAX: u64 = 10;

/// The heights reached so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heights {
    /// The highest block known to be final.
    pub finalized: Height,
    /// The highest block that is executed and durable.
    pub executed: Height,
    /// The highest height whose certificate this node has had since it started.
    pub certified: Height,
}

/// Shared between the tasks of one node.
///
/// # Determinism
///
/// Waiters are woken in the order in which they came; a simulation replays.
#[derive(Default)]
pub(crate) struct Progress {
    heights: Mutex<Heights>,
    moved: Notify,
    /// Held while the application's state changes.
    turn: AsyncMutex<()>,
    restored: Notify,
}

impl Progress {
    pub(crate) fn new(executed: Height) -> Self {
        let progress = Self::default();
        *progress.lock() = Heights {
            finalized: executed,
            executed,
            certified: 0,
        };
        progress
    }

    pub(crate) fn heights(&self) -> Heights {
        *self.lock()
    }

    pub(crate) fn note_finalized(&self, height: Height) {
        raise(&mut self.lock().finalized, height);
        self.moved.notify_waiters();
    }

    pub(crate) fn note_certified(&self, height: Height) {
        raise(&mut self.lock().certified, height);
        self.moved.notify_waiters();
    }

    /// Waits until nobody else changes the application's state, and keeps others from it.
    pub(crate) async fn turn(&self) -> AsyncMutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Records that the application has taken over another state.
    pub(crate) fn note_restored(&self, height: Height) {
        self.note_executed(height);
        self.restored.notify_waiters();
    }

    /// Resolves when the application takes over another state from now on.
    pub(crate) fn restored(&self) -> Notified<'_> {
        self.restored.notified()
    }

    pub(crate) fn note_executed(&self, height: Height) {
        let mut state = self.lock();
        raise(&mut state.finalized, height);
        raise(&mut state.executed, height);
        drop(state);
        self.moved.notify_waiters();
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

    /// Waits until the heights are so.
    pub(crate) async fn until(&self, reached: impl Fn(&Heights) -> bool) {
        loop {
            let moved = self.moved.notified();
            if reached(&self.heights()) {
                return;
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Heights> {
        self.heights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(height: &mut Height, to: Height) {
    *height = to.max(*height);
}
