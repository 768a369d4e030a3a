//! Work on threads that may block: so much at a time, so much that waits, the rest is refused.
use crate::{
    answer::{Reason, Refusal},
    settings::Settings,
};
use axum::http::StatusCode;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// The places for work.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// For what computes and what waits.
    taken_in: Arc<Semaphore>,
    /// For what computes.
    computing: Arc<Semaphore>,
    wait_max: Duration,
}

impl Work {
    pub(crate) fn new(settings: &Settings) -> Self {
        let computing = settings.computing_max.max(1);
        Self {
            taken_in: Arc::new(Semaphore::new(computing + settings.computing_waiting_max)),
            computing: Arc::new(Semaphore::new(computing)),
            wait_max: settings.computing_wait_timeout,
        }
    }

    /// Runs `work` on a thread that may block. It keeps its place until it ends, whether or not anybody still waits
    /// for it.
    ///
    /// # Errors
    /// A refusal if there is too much of it, or if it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = self.place().await.ok_or_else(|| {
            Refusal::because(
                StatusCode::SERVICE_UNAVAILABLE,
                Reason::Overload,
                "the replica has too many requests to work on; try again later".to_owned(),
            )
        })?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        })
        .await
        .map_err(|_| Refusal::internal())
    }

    async fn place(&self) -> Option<[OwnedSemaphorePermit; 2]> {
        let taken_in = Arc::clone(&self.taken_in).try_acquire_owned().ok()?;
        let computing = Arc::clone(&self.computing).acquire_owned();
        let computing = timeout(self.wait_max, computing).await.ok()?.ok()?;
        Some([taken_in, computing])
    }
}
