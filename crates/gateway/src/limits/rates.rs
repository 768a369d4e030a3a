//! Request rates per address.
//!
//! # Design
//! A token bucket, kept as one moment per address: the time at which the bucket is full again (the generic cell rate
//! algorithm of ITU-T I.371). Addresses lie in two generations. A full young one becomes the old one, and what was old
//! is forgotten: memory is bounded, and an address that keeps asking is never forgotten.
use super::{Client, Network, Source};
use crate::{
    Gateway,
    answer::{Reason, Refusal},
    settings::Settings,
};
use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// How many times the rate of an address its /48 network has.
const AROUND: u32 = 4;

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Network, Instant>,
    old: HashMap<Network, Instant>,
}

impl Generations {
    /// When the bucket of a network is full, if it is known.
    fn full_at(&self, network: Network) -> Option<Instant> {
        let young = self.young.get(&network);
        young.or_else(|| self.old.get(&network)).copied()
    }

    fn set(&mut self, network: Network, full_at: Instant, generation_max: usize) {
        if self.young.len() >= generation_max && !self.young.contains_key(&network) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(network, full_at);
    }
}

/// The rates of all addresses.
#[derive(Debug)]
pub(crate) struct Rates {
    /// What a request costs an address; the network around it a quarter of that, of which it may have as much.
    interval: Duration,
    /// What a full bucket holds.
    depth: Duration,
    /// Most addresses in a generation.
    generation_max: usize,
    generations: Mutex<Generations>,
}

impl Rates {
    pub(crate) fn new(settings: &Settings) -> Self {
        let interval = Duration::from_secs(1) / settings.requests_per_second.get();
        Self {
            interval,
            depth: interval * settings.requests_burst.get(),
            generation_max: (settings.addresses_max / 2).max(1),
            generations: Mutex::default(),
        }
    }

    /// Takes a request of an address at `now`.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(crate) fn take(&self, source: Source, now: Instant) -> Result<(), Duration> {
        let mut generations = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = Some((source.own, self.interval));
        let around = source.around.map(|around| (around, self.interval / AROUND));
        // All of them have room, or it costs none anything.
        let mut buckets = [None; 2];
        for (bucket, (network, cost)) in buckets.iter_mut().zip(own.into_iter().chain(around)) {
            let known = generations.full_at(network);
            let full_at = known.map_or(now, |full_at| full_at.max(now)) + cost;
            let too_soon = (full_at - now).saturating_sub(self.depth);
            if !too_soon.is_zero() {
                return Err(too_soon);
            }
            *bucket = Some((network, full_at));
        }
        for (network, full_at) in buckets.into_iter().flatten() {
            generations.set(network, full_at, self.generation_max);
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        let generations = self.generations.lock().expect("nothing panicked");
        generations.young.len() + generations.old.len()
    }
}

/// Refuses requests of addresses that make too many.
pub(crate) async fn limit(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let Client { source, .. } = Client::who_sent(&request);
    match source.map_or(Ok(()), |source| gateway.rates.take(source, Instant::now())) {
        Ok(()) => next.run(request).await,
        Err(wait) => Refusal::because(
            StatusCode::TOO_MANY_REQUESTS,
            Reason::Rate,
            "too many requests from your address; try again later".to_owned(),
        )
        .after(wait)
        .into_response(),
    }
}
