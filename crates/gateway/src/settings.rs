//! The bounds within which the gateway serves.
use lockstep_subnet::ingress::MESSAGE_BYTES_MAX;
use std::{
    num::{NonZeroU32, NonZeroUsize},
    thread::available_parallelism,
    time::Duration,
};

/// Bounds of a gateway. All durations are measured by tokio's clock; sizes are bytes.
///
/// # Units and bounds
/// What a client costs before it is authenticated: a connection, of which there are at most [`Self::connections_max`];
/// one header that is not complete, at most [`Self::header_bytes_max`] (twice that while it is parsed); the headers and
/// bodies of its requests, together at most [`Self::bodies_bytes_max`] over all connections; and answers, together at
/// most [`Self::answers_bytes_max`].
///
/// An *address* is an IPv4 address or the /64 network of an IPv6 address; the /48 network around the latter has four
/// times its bounds, or half where an address has a quarter of all. Loopback addresses are the operator's own or a
/// proxy's, which cannot be told apart here: they have no bounds of their own unless [`Self::limit_loopback`] is set.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections at a time. Default 2,048.
    pub connections_max: usize,
    /// Connections at a time from one address. Default 64.
    pub connections_per_address_max: usize,
    /// Requests per second from one address, in the long run; a new TLS connection counts as one. Default 100.
    pub requests_per_second: NonZeroU32,
    /// Requests that an address may make at once after a rest. Default 200.
    pub requests_burst: NonZeroU32,
    /// Addresses whose rates are remembered. Beyond it those that were quiet the longest are forgotten. Default 65,536.
    pub addresses_max: usize,
    /// Whether loopback addresses are bounded like others. Default false.
    pub limit_loopback: bool,
    /// Time for a TLS handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// Time from the start of a connection to the whole header of its first request. Default 10 s.
    pub header_timeout: Duration,
    /// Time for which a connection is kept without a request under way. The header of every request but the first has
    /// to come within it. Default 60 s.
    pub idle_timeout: Duration,
    /// Time for the body of a request, from its header to its last byte. Default 60 s.
    pub body_timeout: Duration,
    /// Time for the next [`Self::body_part_bytes`] of a body, or for what is left of it. Default 5 s.
    pub body_part_timeout: Duration,
    /// Bytes of a body that have to come within [`Self::body_part_timeout`]. Default 64 KiB.
    pub body_part_bytes: usize,
    /// Time from a request's header until the client has taken the last byte of its answer; then the connection is
    /// closed. Default 180 s.
    pub request_timeout: Duration,
    /// Time for requests under way when the server stops. Default 15 s.
    pub drain_timeout: Duration,
    /// Time for which a closed connection's input is read and dropped, so that the client sees the answer and not a
    /// reset. Default 2 s.
    pub linger_timeout: Duration,
    /// Bytes of a request's header. Default 32 KiB.
    pub header_bytes_max: u32,
    /// Bytes of a request's body. Default: the longest envelope and 64 KiB, so that the replica can say what is wrong
    /// with one that is somewhat longer.
    pub body_bytes_max: usize,
    /// Bytes of headers and bodies in memory, until what they ask has been read; an address has a quarter of it. Default
    /// 256 MiB.
    pub bodies_bytes_max: usize,
    /// Bytes of answers in memory that clients have not taken; an address has a quarter of it. Default 256 MiB.
    pub answers_bytes_max: usize,
    /// Requests at a time on one HTTP/2 connection. Default 64.
    pub streams_max: u32,
    /// Requests that compute at a time: signatures, witnesses. Default: twice the processors, at least 4.
    pub computing_max: usize,
    /// Queries at a time. Default: one less than the processors, at least 1, so that blocks are executed meanwhile.
    pub queries_max: usize,
    /// Requests that wait to compute, and as many queries; of an address a quarter. Default 1,024.
    pub computing_waiting_max: usize,
    /// How long a request or a query waits to compute. Default 5 s.
    pub computing_wait_timeout: Duration,
    /// How old the certified state may be for the replica to be ready. Default 30 s.
    pub behind_max: Duration,
    /// How long a request waits for a replica that has not caught up. Default zero.
    pub ready_wait: Duration,
    /// Whether `/metrics` is among the public routes. Default false.
    pub public_metrics: bool,
    /// Whether the console and what it asks about canisters are shown to all clients, not only to those on this machine.
    /// Who is behind a proxy on this machine is on it, too. Default false.
    pub public_console: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        let processors = available_parallelism().map_or(1, NonZeroUsize::get);
        let number = |value| NonZeroU32::new(value).expect("a literal above zero");
        Self {
            connections_max: 2_048,
            connections_per_address_max: 64,
            requests_per_second: number(100),
            requests_burst: number(200),
            addresses_max: 65_536,
            limit_loopback: false,
            handshake_timeout: seconds(10),
            header_timeout: seconds(10),
            idle_timeout: seconds(60),
            body_timeout: seconds(60),
            body_part_timeout: seconds(5),
            body_part_bytes: 64 * 1024,
            request_timeout: seconds(180),
            drain_timeout: seconds(15),
            linger_timeout: seconds(2),
            header_bytes_max: 32 * 1024,
            body_bytes_max: MESSAGE_BYTES_MAX + 64 * 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            answers_bytes_max: 256 * 1024 * 1024,
            streams_max: 64,
            computing_max: (2 * processors).max(4),
            queries_max: processors.saturating_sub(1).max(1),
            computing_waiting_max: 1_024,
            computing_wait_timeout: seconds(5),
            behind_max: seconds(30),
            ready_wait: Duration::ZERO,
            public_metrics: false,
            public_console: false,
        }
    }
}
