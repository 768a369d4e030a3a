//! One event per request: counted, and told to whoever subscribes to `tracing`.
//!
//! # Design
//! An event carries the request's number, route, status, duration and sizes, and which bound refused it; never a body,
//! a principal or a key. The number goes back to the client as `x-request-id`. A request whose client goes away is
//! told as abandoned.
use crate::{Gateway, answer::Reason, metrics::Counted};
use axum::{
    body::HttpBody,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, Method, StatusCode},
    middleware::Next,
    response::Response,
};
use std::sync::atomic::Ordering::Relaxed;
use tokio::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that is under way.
struct Observed {
    gateway: Gateway,
    number: u64,
    route: String,
    method: Method,
    bytes_in: u64,
    began: Instant,
    answered: bool,
    _under_way: Counted,
}

impl Observed {
    fn tell(&self, status: Option<StatusCode>, reason: Option<Reason>, bytes_out: Option<u64>) {
        let elapsed = self.began.elapsed();
        let class = status.map_or("abandoned", class);
        let metrics = &self.gateway.metrics;
        metrics.answered(&self.route, class, elapsed.as_secs_f64());
        if let Some(reason) = reason {
            metrics.refused(reason);
        }
        tracing::info!(
            request = self.number,
            method = self.method.as_str(),
            route = self.route.as_str(),
            status = status.map(|status| status.as_u16()),
            duration_us = elapsed.as_micros() as u64,
            bytes_in = self.bytes_in,
            bytes_out,
            refused = reason.map(Reason::name),
            "{}",
            if status.is_some() {
                "answered"
            } else {
                "abandoned"
            },
        );
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if !self.answered {
            self.tell(None, None, None);
        }
    }
}

/// Counts and tells what becomes of a request.
pub(crate) async fn observe(
    State(gateway): State<Gateway>,
    request: Request,
    next: Next,
) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let mut observed = Observed {
        number: gateway.requests.fetch_add(1, Relaxed),
        // As it stands in the router: there are few of them, whatever clients ask for.
        route: route.map_or("other", MatchedPath::as_str).to_owned(),
        method: request.method().clone(),
        bytes_in: request.body().size_hint().lower(),
        began: Instant::now(),
        answered: false,
        _under_way: gateway.metrics.request(),
        gateway,
    };
    let mut response = next.run(request).await;
    observed.answered = true;
    observed.tell(
        Some(response.status()),
        response.extensions().get::<Reason>().copied(),
        response.body().size_hint().exact(),
    );
    response
        .headers_mut()
        .insert(REQUEST_ID, observed.number.into());
    response
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}
