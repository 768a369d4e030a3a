//! How many connections there are, in all and per address.
use super::Source;
use crate::{answer::Reason, settings::Settings};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    /// Those with a bound of their own.
    of: HashMap<Source, usize>,
}

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    all_max: usize,
    of_one_max: usize,
    counts: Mutex<Counts>,
}

impl Connections {
    pub(crate) fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self {
            all_max: settings.connections_max,
            of_one_max: settings.connections_per_address_max,
            counts: Mutex::default(),
        })
    }

    /// Takes in a connection, if there is room; it is counted as long as its place is held.
    pub(crate) fn admit(self: &Arc<Self>, source: Option<Source>) -> Result<Place, Reason> {
        let mut counts = self.lock();
        if counts.all >= self.all_max {
            return Err(Reason::Connections);
        }
        if let Some(source) = source {
            let of_one = counts.of.get(&source).copied().unwrap_or_default();
            if of_one >= self.of_one_max {
                return Err(Reason::AddressConnections);
            }
            counts.of.insert(source, of_one + 1);
        }
        counts.all += 1;
        drop(counts);
        Ok(Place {
            connections: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.lock().of.len()
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    source: Option<Source>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.lock();
        counts.all -= 1;
        let Some(source) = self.source else { return };
        if let Some(of_one) = counts.of.get_mut(&source) {
            *of_one -= 1;
            if *of_one == 0 {
                counts.of.remove(&source);
            }
        }
    }
}
