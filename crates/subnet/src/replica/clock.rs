//! The time that proposals carry and requests are checked against.
use std::{future::Future, pin::Pin, time::Duration};

/// A clock and a timer. Reading it never decides a replicated value: a block carries its time.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since 1970.
    fn now_ns(&self) -> u64;

    /// Completes after `duration`.
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The machine's clock and tokio's timer.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "proposals need the time; it reaches the state only through blocks"
    )]
    fn now_ns(&self) -> u64 {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_1970.map_or(0, |duration| {
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
        })
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(tokio::time::sleep(duration))
    }
}
