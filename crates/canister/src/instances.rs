//! Instances that have run, kept for the next message or task of their module.
//!
//! # Design
//! Making an instance costs a reservation of addresses and the engine's own set-up; taking one from here
//! costs setting its globals and mapping a heap. Those not used for longest are dropped first.
//!
//! # Determinism
//! A cache: whether an instance was found or made has no influence on what it computes.
use crate::instance::Instance;
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Most instances kept, and most of one module.
const KEPT_MAX: usize = 128;
const KEPT_OF_MODULE_MAX: usize = 16;

/// A compiled module's number in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleId(u64);

/// What is kept, least recently used first.
#[derive(Default)]
pub(crate) struct Instances {
    kept: Mutex<VecDeque<(ModuleId, Instance)>>,
    next_id: AtomicU64,
}

impl Instances {
    pub(crate) fn next_id(&self) -> ModuleId {
        ModuleId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// The most recently used instance of a module, if there is one.
    pub(crate) fn take(&self, module: ModuleId) -> Option<Instance> {
        let mut kept = self.lock();
        let index = kept.iter().rposition(|(id, _)| *id == module)?;
        kept.remove(index).map(|(_, instance)| instance)
    }

    /// Keeps an instance that does not run, in the place of others if need be.
    pub(crate) fn keep(&self, module: ModuleId, instance: Instance) {
        let mut kept = self.lock();
        let of_module = |(id, _): &(ModuleId, Instance)| *id == module;
        let surplus = if kept.iter().filter(|entry| of_module(entry)).count() >= KEPT_OF_MODULE_MAX
        {
            kept.iter().position(of_module)
        } else if kept.len() >= KEPT_MAX {
            Some(0)
        } else {
            None
        };
        let dropped = surplus.and_then(|index| kept.remove(index));
        kept.push_back((module, instance));
        drop(kept);
        // Without the lock: it takes a while.
        drop(dropped);
    }

    /// Drops the instances of a module that is gone.
    pub(crate) fn forget(&self, module: ModuleId) {
        let mut kept = self.lock();
        let (forgotten, rest): (VecDeque<_>, _) = kept.drain(..).partition(|(id, _)| *id == module);
        *kept = rest;
        drop(kept);
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(ModuleId, Instance)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
