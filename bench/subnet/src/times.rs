//! Durations of many requests.
use serde::Serialize;
use std::time::Duration;

/// What the durations of many requests amount to, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Times {
    /// How many there are.
    pub count: usize,
    /// Half of them take no longer.
    pub median_ms: f64,
    /// 99 of 100 take no longer.
    pub p99_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Times {
    /// Sorts the durations.
    #[must_use]
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100).max(1);
            durations
                .get(rank - 1)
                .map_or(0.0, |duration| ms(*duration))
        };
        Self {
            count: durations.len(),
            median_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

/// A duration in milliseconds.
#[must_use]
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
