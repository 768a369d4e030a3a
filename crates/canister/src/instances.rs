//! Instances that have run, kept for the next message or task of their module.
//!
//! # Design
//! Making an instance costs a reservation of addresses and the engine's own set-up; taking one from here
//! costs setting its globals and mapping a heap. Not even that, if its last heap was of the same image: so
//! canisters of a module have instances of their own, as far as room goes. Those not used for longest are
//! taken by others, and dropped, first.
//!
//! # Determinism
//! A cache: whether an instance was found or made has no influence on what it computes.
use crate::{heap::ImageId, instance::Instance};
use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Most instances kept, and most of one module.
const KEPT_MAX: usize = 256;
const KEPT_OF_MODULE_MAX: usize = 128;
/// Room left for those that run.
const RUNNING: usize = 16;

/// A compiled module's number in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleId(u64);

/// What is kept, least recently used first.
#[derive(Default)]
pub(crate) struct Instances {
    kept: Mutex<VecDeque<Kept>>,
    next_id: AtomicU64,
}

struct Kept {
    module: ModuleId,
    /// What was mapped in its memory when it came.
    image: Option<ImageId>,
    instance: Instance,
}

impl Instances {
    pub(crate) fn next_id(&self) -> ModuleId {
        ModuleId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// An instance of a module for a heap of an image: one that has it mapped, or one with nothing mapped or, when
    /// room is short, with another.
    pub(crate) fn take(&self, module: ModuleId, image: Option<ImageId>) -> Option<Instance> {
        let mut kept = self.lock();
        let of_image = |kept: &Kept| kept.module == module && kept.image == image;
        let free = |kept: &Kept| kept.module == module && kept.instance.image().is_none();
        let index = kept.iter().rposition(of_image);
        let index = index.or_else(|| kept.iter().rposition(free));
        let index = index.or_else(|| {
            let short = kept.len() + RUNNING >= KEPT_MAX
                || of_module(&kept, module).count() + RUNNING >= KEPT_OF_MODULE_MAX;
            of_module(&kept, module).next().filter(|_| short)
        });
        kept.remove(index?).map(|kept| kept.instance)
    }

    /// Keeps an instance that does not run, in the place of others if need be.
    pub(crate) fn keep(&self, module: ModuleId, instance: Instance) {
        let image = instance.image();
        let mut kept = self.lock();
        let surplus = if of_module(&kept, module).count() >= KEPT_OF_MODULE_MAX {
            of_module(&kept, module).next()
        } else if kept.len() >= KEPT_MAX {
            Some(0)
        } else {
            None
        };
        let dropped = surplus.and_then(|index| kept.remove(index));
        kept.push_back(Kept {
            module,
            image,
            instance,
        });
        drop(kept);
        // Without the lock: it takes a while.
        drop(dropped);
    }

    /// Drops the instances of a module that is gone.
    pub(crate) fn forget(&self, module: ModuleId) {
        let mut kept = self.lock();
        let (forgotten, rest): (VecDeque<_>, _) =
            kept.drain(..).partition(|kept| kept.module == module);
        *kept = rest;
        drop(kept);
        drop(forgotten);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the instances of a module are.
fn of_module(kept: &VecDeque<Kept>, module: ModuleId) -> impl Iterator<Item = usize> {
    let kept = kept.iter().enumerate();
    kept.filter_map(move |(index, kept)| (kept.module == module).then_some(index))
}
