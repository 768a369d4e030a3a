//! Work on threads that may block: so much at a time, so much that waits, the rest is refused.
//!
//! # Design
//! Who waits does so behind those of the same network. Networks take turns: one that asks for much waits for itself, and
//! another for no more than what is being done and one piece of work of each.
mod turns;

use super::{Full, Share, Shares, Source};
use crate::{
    answer::{Reason, Refusal},
    settings::Settings,
};
use axum::http::StatusCode;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;
use turns::{Place, Turns};

/// The places for work of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// For what computes and what waits.
    taken_in: Arc<Shares>,
    /// For what computes.
    turns: Arc<Turns>,
    wait_max: Duration,
}

impl Work {
    /// For work of which so much may be done at a time.
    pub(crate) fn new(at_a_time: usize, settings: &Settings) -> Self {
        let at_a_time = at_a_time.max(1);
        let all_max = at_a_time.saturating_add(settings.computing_waiting_max);
        Self {
            taken_in: Shares::quarters(all_max),
            turns: Turns::new(at_a_time),
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
        source: Option<Source>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let place = self.place(source).await?;
        tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        })
        .await
        .map_err(|_| Refusal::internal())
    }

    async fn place(&self, source: Option<Source>) -> Result<(Share, Place), Refusal> {
        let taken_in = self.taken_in.take(source, 1).map_err(|full| match full {
            Full::All => overload(),
            Full::OfOne => Refusal::because(
                StatusCode::TOO_MANY_REQUESTS,
                Reason::AddressOverload,
                "too many requests from your address wait to be worked on".to_owned(),
            ),
        })?;
        let place = self.turns.place(source.map(|source| source.widest()));
        let place = timeout(self.wait_max, place);
        Ok((taken_in, place.await.map_err(|_| overload())?))
    }
}

fn overload() -> Refusal {
    Refusal::because(
        StatusCode::SERVICE_UNAVAILABLE,
        Reason::Overload,
        "the replica has too many requests to work on; try again later".to_owned(),
    )
}
