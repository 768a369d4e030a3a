//! The console: pages for people, from the binary.
//!
//! # Design
//! `/` leads to `/console/`, which works from any replica's port. Files whose names change with their content may be
//! kept by browsers for ever; the page itself is asked for again each time, by its tag.
//!
//! # Safety
//! The policy sent with the page lets it run only the script from this address, and talk only to this replica and to
//! the others that it was told of ([`Peers`]).
use crate::{answer::Refusal, limits::Client, people::Peers};
use axum::{
    Router,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use lockstep_console::{Asset, asset};

/// The routes.
pub(crate) fn routes(peers: Peers) -> Router {
    let to_console = || async { Redirect::temporary("/console/") };
    Router::new()
        .route("/", get(to_console))
        .route("/console", get(to_console))
        .route("/console/", get(page))
        .route("/console/{*path}", get(file))
        .with_state(peers)
}

/// Lets those on this machine see it.
pub(crate) async fn local(client: Client, request: Request, next: Next) -> Response {
    if client.is_local {
        return next.run(request).await;
    }
    let text = "this is shown on the replica's own machine only".to_owned();
    Refusal::saying(StatusCode::FORBIDDEN, text).into_response()
}

async fn page(State(peers): State<Peers>, headers: HeaderMap) -> Response {
    answer(asset(""), &peers, &headers)
}

async fn file(
    State(peers): State<Peers>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    answer(asset(&path), &peers, &headers)
}

fn answer(asset: Option<&'static Asset>, peers: &Peers, request: &HeaderMap) -> Response {
    let Some(asset) = asset else {
        return (StatusCode::NOT_FOUND, "the console has no such file\n").into_response();
    };
    let tag = format!("\"{}\"", asset.tag);
    let caching = if asset.is_immutable {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let is_known = request
        .get(header::IF_NONE_MATCH)
        .and_then(|tags| tags.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, asset.content_type)], asset.bytes).into_response()
    };
    let headers = response.headers_mut();
    let mut set = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::ETAG, &tag);
    set(header::CACHE_CONTROL, caching);
    set(header::CONTENT_SECURITY_POLICY, &policy(peers));
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    response
}

fn policy(peers: &Peers) -> String {
    let mut policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'"
        .to_owned();
    for url in peers.urls() {
        policy.push(' ');
        policy.push_str(&url);
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, peers: &Peers, known: Option<&str>) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(known) = known {
            headers.insert(header::IF_NONE_MATCH, known.parse().unwrap());
        }
        answer(asset(path), peers, &headers)
    }

    #[test]
    fn pages_are_kept_by_their_tags() {
        let first = get("", &Peers::default(), None);
        assert_eq!(first.status(), StatusCode::OK);
        assert_eq!(first.headers()[header::CACHE_CONTROL], "no-cache");
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        let list = format!("\"other\", {tag}");
        for known in [tag.as_str(), list.as_str()] {
            let again = get("", &Peers::default(), Some(known));
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        }
        let other = get("", &Peers::default(), Some("\"other\""));
        assert_eq!(other.status(), StatusCode::OK);
        let missing = get("no/such.js", &Peers::default(), None);
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_policy_names_peers_and_nothing_inline() {
        let peers = Peers::default();
        peers.set(1, "http://127.0.0.1:4944");
        peers.set(2, "https://evil.example; script-src *");
        let response = get("", &peers, None);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str();
        let policy = policy.unwrap();
        assert!(
            policy.ends_with("connect-src 'self' http://127.0.0.1:4944"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(!policy.contains("evil"), "{policy}");
    }
}
