//! Places of which networks take turns.
//!
//! # Invariants
//! Nobody waits while a place is free, and every network of which somebody waits has one turn ahead.
use super::super::Network;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Whose turn it is: those without a network are one.
type Waiter = Option<Network>;

#[derive(Debug)]
struct State {
    free: usize,
    /// Whose turn is next.
    next: VecDeque<Waiter>,
    waiting: HashMap<Waiter, VecDeque<oneshot::Sender<Place>>>,
}

impl State {
    /// Who gets the next place.
    fn pop(&mut self) -> Option<oneshot::Sender<Place>> {
        let waiter = self.next.pop_front()?;
        let line = self.waiting.get_mut(&waiter)?;
        let first = line.pop_front();
        if line.is_empty() {
            self.waiting.remove(&waiter);
        } else {
            self.next.push_back(waiter);
        }
        first
    }
}

/// So many places.
#[derive(Debug)]
pub(super) struct Turns(Mutex<State>);

impl Turns {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: places,
            next: VecDeque::new(),
            waiting: HashMap::new(),
        })))
    }

    /// Waits for a place.
    pub(super) async fn place(self: &Arc<Self>, waiter: Waiter) -> Place {
        let receiver = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Place(Some(Arc::clone(self)));
            }
            let (sender, receiver) = oneshot::channel();
            let line = state.waiting.entry(waiter).or_default();
            let is_new = line.is_empty();
            // Those who have given up take no memory.
            line.retain(|sender| !sender.is_closed());
            line.push_back(sender);
            if is_new {
                state.next.push_back(waiter);
            }
            receiver
        };
        match receiver.await {
            Ok(place) => place,
            // A sender goes only with the place that it sends, or with all of this.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives a place to whoever is next, or frees it.
    fn pass_on(self: &Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                let next = state.pop();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Place(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // That one has given up; the place is still to be passed on, by this loop.
                Err(mut place) => place.0 = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that somebody has.
#[derive(Debug)]
pub(super) struct Place(Option<Arc<Turns>>);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}
