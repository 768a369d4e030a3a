//! One connection: HTTP/1.1 or HTTP/2, as its first bytes say, watched by the clock.
use super::{
    Server,
    activity::{Activity, Answer},
    linger::Lingering,
};
use crate::{answer::Reason, limits::Source};
use axum::{body::Body, http::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
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
    source: Option<Source>,
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
        if let Some(source) = source {
            request.extensions_mut().insert(source);
        }
        let answer = server.router.clone().call(request);
        async move {
            let answer = answer.await?;
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answer {
                body,
                _under_way: under_way,
            }))
        }
    });
    let builder = builder(server);
    let stream = TokioIo::new(Lingering::new(stream, settings.linger_timeout));
    let connection = builder.serve_connection(stream, service);
    tokio::pin!(connection);
    let mut closing_at = None;
    loop {
        let (kept_until, busy) = activity.kept_until(settings);
        // A request that ends meanwhile ends no earlier than now, and the connection is kept for a while after that.
        let look_at = match closing_at {
            Some(closing_at) => closing_at,
            None if busy => kept_until.min(Instant::now() + settings.idle_timeout),
            None => kept_until,
        };
        tokio::select! {
            // Whatever ended it: there is nobody to tell.
            _ = connection.as_mut() => return Ok(()),
            _ = closed.wait_for(|closed| *closed), if closing_at.is_none() => {
                connection.as_mut().graceful_shutdown();
                closing_at = Some(Instant::now() + settings.drain_timeout);
            }
            () = sleep_until(look_at) => {
                let (kept_until, busy) = activity.kept_until(settings);
                if closing_at.is_some() || (busy && kept_until <= Instant::now()) {
                    return Err(Reason::SlowConnection);
                }
                if !busy && kept_until <= Instant::now() {
                    // One that sends a header too slowly or does not read its answer is dropped after this.
                    connection.as_mut().graceful_shutdown();
                    closing_at = Some(Instant::now() + settings.linger_timeout);
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
