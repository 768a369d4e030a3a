//! HTTP/2 on the same port.
use super::*;
use axum::{
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode},
};
use hyper::{
    body::Incoming,
    client::conn::http2::{Connection, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// A client whose streams take so few bytes that they have not read.
pub(super) async fn narrow<S>(stream: S, window: u32) -> (SendRequest<Body>, JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream));
    driven(handshake.await.expect("it speaks HTTP/2"))
}

pub(super) async fn handshake<S>(stream: S) -> (SendRequest<Body>, JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let executor = TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream));
    driven(handshake.await.expect("it speaks HTTP/2"))
}

fn driven<S>(
    (sender, connection): (
        SendRequest<Body>,
        Connection<TokioIo<S>, Body, TokioExecutor>,
    ),
) -> (SendRequest<Body>, JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ended = tokio::spawn(async move {
        // However it ends.
        let _ = connection.await;
    });
    (sender, ended)
}

pub(super) fn get(path: &str) -> Request<Body> {
    let request = Request::get(format!("http://x{path}"));
    request.body(Body::empty()).expect("a request")
}

pub(super) async fn text(response: Response<Incoming>) -> (StatusCode, String) {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(Body::new(body), usize::MAX).await.expect("a body");
    (parts.status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn requests_share_a_connection() {
    let site = Site::new(settings()).await;
    let (mut sender, _ended) = handshake(site.connect().await).await;
    let held = tokio::spawn(sender.send_request(get("/hold")));
    site.until_under_way(1).await;
    let answer = sender
        .send_request(get("/named/a"))
        .await
        .expect("an answer");
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(text(answer).await, (StatusCode::OK, "named\n".into()));
    let long = Request::post("http://x/length").body(Body::from(vec![0; 2_000_000]));
    let answer = sender.send_request(long.expect("a request")).await;
    assert_eq!(text(answer.expect("an answer")).await.1, "2000000\n");
    site.released.add_permits(1);
    let held = held.await.expect("no panic").expect("an answer");
    assert_eq!(text(held).await.1, "held\n");
}

#[tokio::test]
async fn streams_are_bounded_and_a_body_too_large_ends_its_stream_alone() {
    let site = Site::new(Settings {
        streams_max: 1,
        body_bytes_max: 10,
        ..settings()
    })
    .await;
    let (mut sender, _ended) = handshake(site.connect().await).await;
    let answer = sender
        .send_request(get("/named/a"))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    drop(answer);
    let held = tokio::spawn(sender.send_request(get("/hold")));
    site.until_under_way(1).await;
    let waiting = tokio::spawn(sender.send_request(get("/named/a")));
    // A second connection is answered meanwhile.
    assert_answer(&site.get("/named/a").await, 200, "named");
    assert!(!waiting.is_finished(), "it waits for the first");
    site.released.add_permits(1);
    assert_eq!(
        text(held.await.expect("no panic").expect("an answer"))
            .await
            .1,
        "held\n"
    );
    let answer = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(text(answer).await.1, "named\n");
    let long = Request::post("http://x/length").body(Body::from(vec![0; 11]));
    let answer = sender
        .send_request(long.expect("a request"))
        .await
        .expect("an answer");
    assert_eq!(text(answer).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    let answer = sender
        .send_request(get("/named/a"))
        .await
        .expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_slow_body_is_refused_and_an_idle_connection_closed() {
    let site = Site::new(Settings {
        body_timeout: SOON,
        idle_timeout: SOON,
        ..settings()
    })
    .await;
    let (mut sender, ended) = handshake(site.connect().await).await;
    // One that says that it has a body and sends none.
    let body = Body::new(Silent);
    let slow = Request::post("http://x/length")
        .body(body)
        .expect("a request");
    let answer = sender.send_request(slow).await.expect("an answer");
    assert_eq!(text(answer).await.0, StatusCode::REQUEST_TIMEOUT);
    soon(ended).await.expect("the server ends it");
}

/// A body that never comes.
struct Silent;

impl axum::body::HttpBody for Silent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn a_connection_is_told_of_the_end() {
    let mut site = Site::new(settings()).await;
    let (mut sender, ended) = handshake(site.connect().await).await;
    let held = tokio::spawn(sender.send_request(get("/hold")));
    site.until_under_way(1).await;
    site.stop();
    site.until_deaf().await;
    site.released.add_permits(1);
    let held = held.await.expect("no panic").expect("an answer");
    assert_eq!(text(held).await.1, "held\n");
    drop(sender);
    soon(ended).await.expect("it ends");
    soon(&mut site.server).await.expect("it ends");
}
