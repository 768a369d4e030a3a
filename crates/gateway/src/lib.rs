//! The Internet Computer's HTTP interface in front of a replica.
//!
//! # Design
//! [`serve`] answers on a listener until it is told to stop. Bodies are CBOR. A synchronous call
//! (v3, v4) waits up to [`CALL_WAIT`] for its certificate; the caller polls after that. Whatever
//! computes (signatures, queries, witnesses) runs on threads that may block.
//!
//! # Errors
//! A request that breaks a rule gets status 400 or 403 and a line of text that says which. What a
//! canister or the subnet rejects is a regular answer, as the interface demands.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "nothing here is replicated"
)]

mod answer;
mod call;
mod console;
mod people;
mod read;
mod status;

pub use people::Peers;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use lockstep_subnet::{ingress::MESSAGE_BYTES_MAX, replica::Replica};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// How long a synchronous call waits for its certificate.
pub const CALL_WAIT: Duration = Duration::from_secs(10);

/// Serves `replica` on `listener` until `shutdown` completes; requests under way are finished. The console shows the
/// replicas at `peers` side by side.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: TcpListener,
    replica: Arc<Replica>,
    peers: Peers,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(replica, peers))
        .with_graceful_shutdown(shutdown)
        .await
}

/// The routes.
pub fn router(replica: Arc<Replica>, peers: Peers) -> Router {
    let mut router = Router::new()
        .route("/api/v2/status", get(status::status))
        .route("/_/lockstep/status", get(status::for_people))
        .route("/api/v2/canister/{id}/call", post(call::asynchronous))
        .route("/api/v4/subnet/{id}/call", post(call::to_subnet));
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
    router
        .with_state(Arc::clone(&replica))
        .merge(people::routes(replica, peers.clone()))
        .merge(console::routes(peers))
        // An envelope has to fit with room to spare, so that the replica can say what is wrong.
        .layer(DefaultBodyLimit::max(MESSAGE_BYTES_MAX + 64 * 1024))
        .layer(middleware::from_fn(cross_origin))
}

/// Lets pages of any origin use the interface: it knows no cookies.
async fn cross_origin(request: axum::extract::Request, next: Next) -> Response {
    let mut response = if request.method() == axum::http::Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, OPTIONS"),
    );
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("*"),
    );
    response
}
