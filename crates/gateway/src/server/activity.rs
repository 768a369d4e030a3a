//! What a connection is busy with: which decides how long it is kept.
use crate::settings::Settings;
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};
use tokio::time::Instant;

#[derive(Debug)]
struct State {
    /// When the requests under way began, by their number.
    under_way: BTreeMap<u64, Instant>,
    begun: u64,
    /// When the last one ended; before it the start of the connection.
    ended: Instant,
}

/// The requests of one connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

impl Activity {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            under_way: BTreeMap::new(),
            begun: 0,
            ended: Instant::now(),
        })))
    }

    /// A request begins. It ends when what is returned is dropped.
    pub(super) fn begin(&self) -> UnderWay {
        let mut state = self.lock();
        let number = state.begun;
        state.begun += 1;
        state.under_way.insert(number, Instant::now());
        UnderWay {
            activity: self.clone(),
            number,
        }
    }

    /// Until when the connection is kept if nothing more happens, and whether something is under way.
    pub(super) fn kept_until(&self, settings: &Settings) -> (Instant, bool) {
        let state = self.lock();
        // Requests are numbered in the order in which they began.
        match state.under_way.first_key_value() {
            Some((_, began)) => (*began + settings.request_timeout, true),
            None if state.begun == 0 => (state.ended + settings.header_timeout, false),
            None => (state.ended + settings.idle_timeout, false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct UnderWay {
    activity: Activity,
    number: u64,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.activity.lock();
        state.under_way.remove(&self.number);
        state.ended = Instant::now();
    }
}

/// The body of an answer, with which its request ends.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
