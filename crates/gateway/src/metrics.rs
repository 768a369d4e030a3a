//! Metrics in the text format of OpenMetrics, which Prometheus reads.
//!
//! # Design
//! What the server counts lies in [`Metrics`]; what the replica and the process count themselves is asked for when the
//! metrics are read. Labels are routes as they are written in the router, classes of status and the reasons of
//! [`Reason`]: their number is that of the program's parts, whatever clients send.
mod process;
mod replica;

pub(crate) use replica::Finalized;

use crate::{Gateway, answer::Reason};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use lockstep_subnet::replica::Replica;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc};

/// Bounds of the buckets for durations, seconds.
const DURATIONS_S: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
}

/// What a gateway counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    refused: Family<Refused, Counter>,
    connections: Gauge,
    accepted: Counter,
    under_way: Gauge,
}

impl Metrics {
    pub(crate) fn new(replica: &Arc<Replica>, finalized: &Finalized) -> Self {
        let mut registry = Registry::with_prefix("lockstep");
        let durations: fn() -> Histogram = || Histogram::new(DURATIONS_S);
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(durations),
            refused: Family::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            under_way: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "http_requests",
            "Requests by route and class of status; abandoned are those whose client went away",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's header to the start of its answer, by route",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "http_refused",
            "Connections and requests that a bound of the server refused, by bound",
            metrics.refused.clone(),
        );
        registry.register(
            "http_connections",
            "Connections that are open",
            metrics.connections.clone(),
        );
        registry.register(
            "http_connections_accepted",
            "Connections accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            "http_requests_under_way",
            "Requests that are not answered",
            metrics.under_way.clone(),
        );
        registry.register_collector(Box::new(replica::Values {
            replica: Arc::clone(replica),
            finalized: Arc::clone(finalized),
        }));
        registry.register_collector(Box::new(process::Values));
        Self {
            registry,
            ..metrics
        }
    }

    pub(crate) fn refused(&self, reason: Reason) {
        let reason = reason.name();
        self.refused.get_or_create(&Refused { reason }).inc();
    }

    /// Counts a connection as long as what is returned lives.
    pub(crate) fn connection(&self) -> Counted {
        self.accepted.inc();
        Counted::new(&self.connections)
    }

    /// Counts a request under way as long as what is returned lives.
    pub(crate) fn request(&self) -> Counted {
        Counted::new(&self.under_way)
    }

    pub(crate) fn answered(&self, route: &str, class: &'static str, seconds: f64) {
        let route = route.to_owned();
        let of_route = Route {
            route: route.clone(),
        };
        self.durations.get_or_create(&of_route).observe(seconds);
        self.requests
            .get_or_create(&Answered { route, class })
            .inc();
    }

    /// All metrics as text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// One more in a gauge.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `/metrics`.
pub(crate) async fn metrics(State(gateway): State<Gateway>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match gateway.metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, TYPE)], text).into_response(),
        Err(_) => crate::answer::Refusal::internal().into_response(),
    }
}
