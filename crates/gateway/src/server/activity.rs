//! What a connection is busy with, which decides how long it is kept: requests, from their headers to the last byte of
//! their answers.
use crate::{limits::Share, settings::Settings};
use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Buf, Frame, SizeHint};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
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

/// What lasts until the last byte of an answer is sent.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) _under_way: UnderWay,
    pub(super) _room: Option<Arc<Share>>,
}

/// The body of an answer.
///
/// # Design
/// The protocol takes a body over long before its client does: HTTP/2 as a whole as soon as there is a window of one byte.
/// What the request holds therefore goes with the bytes, which the protocol drops when they are sent, or when the stream or
/// the connection ends.
pub(super) struct Answer {
    pub(super) body: Body,
    pub(super) unsent: Arc<Unsent>,
}

impl HttpBody for Answer {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|bytes| Chunk {
                    bytes,
                    _unsent: Arc::clone(&self.unsent),
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer that are not sent yet.
pub(super) struct Chunk {
    bytes: Bytes,
    _unsent: Arc<Unsent>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
