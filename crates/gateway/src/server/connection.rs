//! One connection: HTTP/1.1 or HTTP/2, as its first bytes say, watched by the clock.
use super::{
    Server,
    activity::{Activity, Answer, Unsent},
    linger::Lingering,
};
use crate::{
    answer::Reason,
    limits::{Client, Share},
};
use axum::{body::Body, http::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until},
};
use tower_service::Service;

/// Bytes of a stream's body that a client may send before they are read.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Serves a connection until it ends.
///
/// # Errors
/// The reason, if the server ended it.
pub(super) async fn serve<S>(
    server: &Server,
    stream: S,
    client: Client,
    mut closed: watch::Receiver<bool>,
) -> Result<(), Reason>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &server.settings;
    let activity = Activity::new();
    let service = service_fn(|request: Request<Incoming>| {
        let under_way = activity.begin();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(client);
        let answer = server.router.clone().call(request);
        async move {
            let mut answer = answer.await?;
            let unsent = Arc::new(Unsent {
                _under_way: under_way,
                _room: answer.extensions_mut().remove::<Arc<Share>>(),
            });
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answer { body, unsent }))
        }
    });
    let builder = builder(server);
    let stream = TokioIo::new(Lingering::new(stream, settings.linger_timeout));
    let connection = builder.serve_connection(stream, service);
    tokio::pin!(connection);
    let mut closing_at = None;
    let mut stops = false;
    loop {
        let (kept_until, _) = activity.kept_until(settings);
        // What begins or ends meanwhile does so no earlier than now, and has its time from then on.
        let change = settings.idle_timeout.min(settings.request_timeout);
        let look_at = closing_at.unwrap_or_else(|| kept_until.min(Instant::now() + change));
        tokio::select! {
            // Whatever ended it: there is nobody to tell.
            _ = connection.as_mut() => return Ok(()),
            _ = closed.wait_for(|closed| *closed), if !stops => {
                connection.as_mut().graceful_shutdown();
                closing_at = Some(Instant::now() + settings.drain_timeout);
                stops = true;
            }
            () = sleep_until(look_at) => {
                let (kept_until, busy) = activity.kept_until(settings);
                let is_over = kept_until <= Instant::now();
                match closing_at {
                    // A request came when the connection was told to close: it is the last.
                    Some(_) if busy && !is_over && !stops => closing_at = Some(kept_until),
                    Some(_) => return Err(Reason::SlowConnection),
                    None if busy && is_over => return Err(Reason::SlowConnection),
                    None if is_over => {
                        // One that sends a header too slowly or does not read its answer is dropped after this.
                        connection.as_mut().graceful_shutdown();
                        closing_at = Some(Instant::now() + settings.linger_timeout);
                    }
                    None => {}
                }
            }
        }
    }
}

fn builder(server: &Server) -> Builder<TokioExecutor> {
    let settings = &server.settings;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // The clock of the connection sees to it, before the protocol is known as well.
        .header_read_timeout(None)
        .max_buf_size(settings.header_bytes_max.max(8 * 1024) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings.streams_max)
        .max_header_list_size(settings.header_bytes_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}
