//! The Internet Computer's HTTP interface in front of a replica.
//!
//! # Design
//! A [`Gateway`] answers on listeners until it is told to stop, over HTTP/1.1 and HTTP/2, with or without TLS. Bodies are
//! CBOR. A synchronous call (v3, v4) waits up to [`CALL_WAIT`] for its certificate; the caller polls after that.
//! Whatever computes (signatures, queries, witnesses) runs on threads that may block.
//!
//! # Units and bounds
//! [`Settings`] has every bound on what clients may take: connections, requests, bytes, time.
//!
//! # Errors
//! A request that breaks a rule gets status 400 or 403 and a line of text that says which; one that is too much gets
//! 408, 413, 429 or 503 and is counted by its reason. What a canister or the subnet rejects is a regular answer, as the
//! interface demands.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "nothing here is replicated"
)]

mod access;
mod answer;
mod call;
mod console;
mod limits;
mod metrics;
mod people;
mod read;
mod server;
mod settings;
mod status;
mod tls;

pub use people::Peers;
pub use settings::Settings;
pub use tls::{Tls, TlsError};

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef, Request},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use limits::{Rates, Shares, Work};
use lockstep_subnet::replica::{Clock, Replica, SystemClock};
use metrics::{Finalized, Metrics};
use server::Server;
use std::{
    fmt,
    future::Future,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};

/// How long a synchronous call waits for its certificate.
pub const CALL_WAIT: Duration = Duration::from_secs(10);

/// Serves `replica` on `listener` until `shutdown` completes, within the default [`Settings`]; requests under way are
/// finished.
///
/// # Errors
/// None: what is wrong with a connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    replica: Arc<Replica>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let gateway = Gateway::new(replica, Settings::default());
    gateway.serve(listener, None, shutdown).await;
    Ok(())
}

/// A replica with the bounds within which it is served. All listeners of a gateway share them.
#[derive(Clone)]
pub struct Gateway {
    replica: Arc<Replica>,
    peers: Peers,
    clock: Arc<dyn Clock>,
    settings: Arc<Settings>,
    metrics: Arc<Metrics>,
    finalized: Finalized,
    rates: Arc<Rates>,
    connections: Arc<Shares>,
    /// Signatures, witnesses.
    work: Work,
    /// Queries, which run far longer and are not to hold those up.
    queries: Work,
    /// Bytes of requests.
    bodies: Arc<Shares>,
    /// Bytes of answers that are not sent.
    answers: Arc<Shares>,
    /// Requests so far.
    requests: Arc<AtomicU64>,
    /// Whether the replica has caught up.
    ready: watch::Sender<bool>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Gateway")
            .field("replica", &self.replica)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl FromRef<Gateway> for Arc<Replica> {
    fn from_ref(gateway: &Gateway) -> Self {
        Self::clone(&gateway.replica)
    }
}

impl Gateway {
    /// A gateway before a replica.
    #[must_use]
    pub fn new(replica: Arc<Replica>, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let finalized = Finalized::default();
        Self {
            clock: Arc::new(SystemClock),
            metrics: Arc::new(Metrics::new(&replica, &finalized)),
            finalized,
            rates: Arc::new(Rates::new(&settings)),
            connections: connections(&settings),
            work: Work::new(settings.computing_max, &settings),
            queries: Work::new(settings.queries_max, &settings),
            bodies: Shares::quarters(settings.bodies_bytes_max),
            answers: Shares::quarters(settings.answers_bytes_max),
            requests: Arc::default(),
            ready: watch::Sender::new(true),
            peers: Peers::default(),
            replica,
            settings,
        }
    }

    /// With a console that shows the replicas at `peers` side by side.
    #[must_use]
    pub fn with_peers(self, peers: Peers) -> Self {
        Self { peers, ..self }
    }

    /// With a replica that has not caught up: until [`Self::set_ready`] clients wait for
    /// [`Settings::ready_wait`] and are asked to come back then, and only `/health`, `/ready`, `/metrics` and
    /// `/_/lockstep/status` are answered.
    #[must_use]
    pub fn catching_up(self) -> Self {
        let ready = watch::Sender::new(false);
        Self { ready, ..self }
    }

    /// Whether clients are answered from now on.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// Whether clients are answered.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Sets where the height of the last final block is asked for when metrics are read. The first one stays.
    pub fn set_finalized(&self, height: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.finalized.set(Box::new(height));
    }

    /// Serves clients on `listener`, over TLS if there is a certificate, until `shutdown` completes. Then nothing more
    /// is accepted, and requests under way have [`Settings::drain_timeout`] to finish.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Arc<Tls>>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        self.server(self.router(), tls)
            .run(listener, shutdown)
            .await;
    }

    /// Serves `/metrics`, `/health` and `/ready` on `listener` until `shutdown` completes: for an address that only
    /// operators reach.
    pub async fn serve_metrics(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let router = probes(Router::new()).route("/metrics", get(metrics::metrics));
        let router = self.bounded(router.with_state(self.clone()));
        // Clients cannot take the places of operators.
        let connections = connections(&self.settings);
        let server = Server {
            connections,
            ..self.server(router, None)
        };
        server.run(listener, shutdown).await;
    }

    /// The routes for clients.
    pub fn router(&self) -> Router {
        let mut router = probes(Router::new())
            .route("/api/v2/status", get(status::status))
            .route("/_/lockstep/status", get(status::for_people))
            .route("/api/v2/canister/{id}/call", post(call::asynchronous))
            .route("/api/v4/subnet/{id}/call", post(call::to_subnet))
            .route("/api/v3/subnet/{id}/query", post(read::subnet_query));
        for version in ["v3", "v4"] {
            router = router.route(
                &format!("/api/{version}/canister/{{id}}/call"),
                post(call::synchronous),
            );
        }
        for version in ["v2", "v3"] {
            router = router
                .route(
                    &format!("/api/{version}/canister/{{id}}/query"),
                    post(read::query),
                )
                .route(
                    &format!("/api/{version}/canister/{{id}}/read_state"),
                    post(read::canister_state),
                )
                .route(
                    &format!("/api/{version}/subnet/{{id}}/read_state"),
                    post(read::subnet_state),
                );
        }
        if self.settings.public_metrics {
            router = router.route("/metrics", get(metrics::metrics));
        }
        let mut console = people::canister_routes()
            .with_state(self.clone())
            .merge(console::routes(self.peers.clone()));
        if !self.settings.public_console {
            console = console.route_layer(middleware::from_fn(console::local));
        }
        self.bounded(
            router
                .merge(people::routes())
                .with_state(self.clone())
                .merge(console),
        )
    }

    /// Routes within the bounds on requests. What is added last sees a request first.
    fn bounded(&self, router: Router) -> Router {
        router
            // Bodies are in memory by then, and no longer than they may be.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(self.clone(), limits::gather))
            .layer(middleware::from_fn_with_state(
                self.clone(),
                status::when_ready,
            ))
            .layer(middleware::from_fn(preflight))
            .layer(middleware::from_fn_with_state(self.clone(), limits::limit))
            .layer(middleware::from_fn_with_state(self.clone(), limits::hold))
            .layer(middleware::from_fn(cross_origin))
            .layer(middleware::from_fn_with_state(
                self.clone(),
                access::observe,
            ))
    }

    fn server(&self, router: Router, tls: Option<Arc<Tls>>) -> Server {
        Server {
            settings: Arc::clone(&self.settings),
            metrics: Arc::clone(&self.metrics),
            rates: Arc::clone(&self.rates),
            connections: Arc::clone(&self.connections),
            router,
            tls,
        }
    }
}

/// Places for connections.
fn connections(settings: &Settings) -> Arc<Shares> {
    Shares::new(
        settings.connections_max,
        settings.connections_per_address_max,
    )
}

/// Adds what load balancers and supervisors ask.
fn probes(router: Router<Gateway>) -> Router<Gateway> {
    router
        .route("/health", get(status::health))
        .route("/ready", get(status::ready))
}

/// Answers what browsers ask before they let a page send a request: it may.
async fn preflight(request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    }
}

/// Lets pages of any origin use the interface: it knows no cookies.
async fn cross_origin(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
