//! Shares of what there is so much of: in all, for one address, and for the network around an IPv6 address.
use super::{Network, Source};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// How many times the bound of an address its /48 network has.
const AROUND: usize = 4;

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those with bounds of their own.
    of: HashMap<Network, usize>,
}

/// What there is so much of, and who has how much of it.
#[derive(Debug)]
pub(crate) struct Shares {
    all_max: usize,
    of_one_max: usize,
    of_around_max: usize,
    counts: Mutex<Counts>,
}

/// Why there is no more of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All of it is taken.
    All,
    /// One address, or the network around it, has as much as it may.
    OfOne,
}

impl Shares {
    /// So much in all, and so much for one address.
    pub(crate) fn new(all_max: usize, of_one_max: usize) -> Arc<Self> {
        Arc::new(Self {
            all_max,
            of_one_max,
            of_around_max: of_one_max.saturating_mul(AROUND),
            counts: Mutex::default(),
        })
    }

    /// So much in all, of which an address has a quarter and the network around it half: others always find some.
    pub(crate) fn quarters(all_max: usize) -> Arc<Self> {
        Arc::new(Self {
            all_max,
            of_one_max: all_max.div_ceil(4),
            of_around_max: all_max.div_ceil(2),
            counts: Mutex::default(),
        })
    }

    /// Takes so much of it, for as long as the share is held.
    pub(crate) fn take(
        self: &Arc<Self>,
        source: Option<Source>,
        count: usize,
    ) -> Result<Share, Full> {
        let mut share = Share {
            shares: Arc::clone(self),
            source,
            count: 0,
        };
        share.grow(count)?;
        Ok(share)
    }

    /// The networks of a source, each with its bound.
    fn bounds(&self, source: Option<Source>) -> impl Iterator<Item = (Network, usize)> {
        let own = source.map(|source| (source.own, self.of_one_max));
        let around = source.and_then(|source| source.around);
        let around = around.map(|around| (around, self.of_around_max));
        own.into_iter().chain(around)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.lock().all
    }

    #[cfg(test)]
    pub(super) fn networks(&self) -> usize {
        self.lock().of.len()
    }
}

/// What somebody has taken.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    source: Option<Source>,
    count: usize,
}

impl Share {
    /// Takes more; without effect if there is not as much.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Full> {
        let shares = &self.shares;
        let mut counts = shares.lock();
        let fits = |count: usize, max| count.checked_add(more).is_some_and(|count| count <= max);
        if !fits(counts.all, shares.all_max) {
            return Err(Full::All);
        }
        for (network, max) in shares.bounds(self.source) {
            let count = counts.of.get(&network).copied().unwrap_or_default();
            if !fits(count, max) {
                return Err(Full::OfOne);
            }
        }
        counts.all += more;
        for (network, _) in shares.bounds(self.source) {
            *counts.of.entry(network).or_default() += more;
        }
        self.count += more;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.shares.lock();
        counts.all -= self.count;
        for (network, _) in self.shares.bounds(self.source) {
            if let Some(count) = counts.of.get_mut(&network) {
                *count -= self.count;
                if *count == 0 {
                    counts.of.remove(&network);
                }
            }
        }
    }
}
