//! Connections: which are accepted, for how long they are kept, how they end.
//!
//! # Design
//! Every connection has a task of its own. When the server is told to stop it accepts no more, tells its connections to
//! finish what is under way, and drops what is not done within the bound.
//!
//! # Errors
//! A connection's errors are its own: they end it and are counted. When the system has no more files or memory,
//! accepting pauses.
mod activity;
mod connection;
mod linger;

use crate::{
    answer::Reason,
    limits::{Client, Full, Rates, Share, Shares},
    metrics::Metrics,
    settings::Settings,
    tls::Tls,
};
use axum::Router;
use std::{
    future::Future,
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};

/// How long accepting pauses when the system has no more files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often certificates are looked after.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// What the connections of a listener share.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) settings: Arc<Settings>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) connections: Arc<Shares>,
    pub(crate) router: Router,
    pub(crate) tls: Option<Arc<Tls>>,
}

impl Server {
    /// Serves until `shutdown` completes.
    pub(crate) async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let (closing, closed) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let mut reload = interval(RELOAD_INTERVAL);
        reload.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.accept(stream, peer, &closed, &mut tasks),
                    Err(error) => pause_after(&error).await,
                },
                // A task that panicked has ended its connection, and that is all.
                Some(_) = tasks.join_next() => {}
                _ = reload.tick(), if self.tls.is_some() => self.reload(),
            }
        }
        drop(listener);
        closing.send_replace(true);
        let end = Instant::now() + self.settings.drain_timeout;
        while let Ok(Some(_)) = timeout_at(end, tasks.join_next()).await {}
        if !tasks.is_empty() {
            tracing::warn!(connections = tasks.len(), "stopped with requests under way");
        }
        tasks.shutdown().await;
    }

    fn accept(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        closed: &watch::Receiver<bool>,
        tasks: &mut JoinSet<()>,
    ) {
        let client = Client::of(peer.ip(), self.settings.limit_loopback);
        let source = client.source;
        let place = self.connections.take(source, 1).map_err(|full| match full {
            Full::All => Reason::Connections,
            Full::OfOne => Reason::AddressConnections,
        });
        let place = place.and_then(|place| {
            // A handshake costs more than most requests.
            let rate = source.filter(|_| self.tls.is_some());
            match rate.map_or(Ok(()), |source| self.rates.take(source, Instant::now())) {
                Ok(()) => Ok(place),
                Err(_) => Err(Reason::Rate),
            }
        });
        match place {
            Ok(place) => {
                let closed = closed.clone();
                tasks.spawn(self.clone().connection(stream, client, place, closed));
            }
            Err(reason) => self.turn_away(stream, reason),
        }
    }

    /// Says why there is no place, as far as that costs nothing, and closes.
    fn turn_away(&self, stream: TcpStream, reason: Reason) {
        const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\n\
            content-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
        self.metrics.refused(reason);
        tracing::debug!(refused = reason.name(), "turned away");
        // The runtime does not know yet that it can be written to.
        if self.tls.is_none()
            && let Ok(mut stream) = stream.into_std()
        {
            // A new connection has room for so little; if not, closing says it all.
            let _ = stream.write(ANSWER);
        }
    }

    async fn connection(
        self,
        stream: TcpStream,
        client: Client,
        place: Share,
        closed: watch::Receiver<bool>,
    ) {
        let _counted = (place, self.metrics.connection());
        // Answers are written whole. A socket that refuses this serves as well.
        let _ = stream.set_nodelay(true);
        let ended = match &self.tls {
            None => connection::serve(&self, stream, client, closed).await,
            Some(tls) => {
                let handshake = tls.acceptor().accept(stream);
                match timeout(self.settings.handshake_timeout, handshake).await {
                    Ok(Ok(stream)) => connection::serve(&self, stream, client, closed).await,
                    Ok(Err(_)) | Err(_) => Err(Reason::Handshake),
                }
            }
        };
        if let Err(reason) = ended {
            self.metrics.refused(reason);
            tracing::debug!(refused = reason.name(), "dropped");
        }
    }

    fn reload(&self) {
        let Some(tls) = self.tls.clone() else { return };
        tokio::task::spawn_blocking(move || match tls.reload() {
            Ok(true) => tracing::info!("the TLS certificate was read anew"),
            Ok(false) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "the TLS certificate stays as it was");
            }
        });
    }
}

/// Waits after an error of accepting that concerns more than one connection.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::ConnectionAborted | Kind::ConnectionReset | Kind::ConnectionRefused => {}
        _ => {
            tracing::warn!(%error, "cannot accept connections");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests;
