//! A heap in the address space of a Wasm instance.
//!
//! # Design
//! A *view* maps a version's file into an instance's slot, privately: what the instance writes stays its
//! own, and the operating system knows which pages those are. Growth maps zeros. When the view ends, its
//! slot decides what of that stays mapped.
//!
//! # Errors
//! Failures are this machine's; a caller in replicated code ends the replica.
use super::{
    Heap, ImageId, LEAF_BYTES, Leaf, PAGE_BYTES,
    dirty::{self, Touched},
    image::{Delta, Image, Number},
    provided,
    slot::{Content, Slot},
};
use std::{collections::BTreeSet, io, marker::PhantomData, ops::Range, sync::Arc};

/// Written pages that are compared again at every fork rather than mapped anew.
const WRITTEN_MAX: usize = if cfg!(test) { 4 } else { 4096 };
/// Bytes of a window from which on its pages are made private in one go.
const PREPARED_MIN: usize = 64 * 1024;

/// What an instance starts from: a version, or one with something changed that is no version.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    heap: Heap,
    changes: Arc<Delta>,
    size: usize,
}

impl Snapshot {
    pub(crate) fn size_pages(&self) -> u64 {
        (self.size / PAGE_BYTES) as u64
    }

    /// The image to be mapped for it.
    pub(crate) fn image(&self) -> Option<ImageId> {
        let (image, _) = self.heap.version()?;
        Some(ImageId::of(Arc::as_ptr(image)))
    }
}

impl From<&Heap> for Snapshot {
    fn from(heap: &Heap) -> Self {
        Self {
            heap: heap.clone(),
            changes: Arc::default(),
            size: heap.size_bytes() as usize,
        }
    }
}

/// A snapshot in a slot. The instance must learn the new size by growing by nothing.
#[derive(Debug)]
pub(crate) struct View {
    slot: Arc<Slot>,
    snapshot: Snapshot,
    entered: Option<Entered>,
    /// Leaves in which versions that the instance made differ from those before them.
    changed: BTreeSet<Leaf>,
    /// What the instance has touched and what differs from the snapshot, once it has ended.
    ended: Option<(Vec<Touched>, Delta)>,
}

#[derive(Debug)]
struct Entered {
    image: Arc<Image>,
    version: Number,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.image.leave();
    }
}

impl Drop for View {
    fn drop(&mut self) {
        let leave = || match &self.ended {
            Some((touched, _)) => self.slot.leave(touched),
            None if dirty::can_scan() => self.slot.leave(&self.touched()?),
            None => {
                self.slot.forget();
                self.slot.leave(&[])
            }
        };
        // Should the system refuse, the slot stays taken, and whoever wants it next ends the replica.
        let left = leave();
        debug_assert!(left.is_ok(), "{left:?}");
    }
}

impl View {
    /// Puts a snapshot in the place of what the slot holds. The slot's instance does not run.
    pub(crate) fn new(slot: Arc<Slot>, snapshot: Snapshot) -> Self {
        provided(Self::try_new(slot, snapshot))
    }

    fn try_new(slot: Arc<Slot>, snapshot: Snapshot) -> io::Result<Self> {
        slot.enter();
        let mut view = Self {
            slot,
            snapshot,
            entered: None,
            changed: BTreeSet::new(),
            ended: None,
        };
        view.map()?;
        Ok(view)
    }

    /// Puts the snapshot in the place of what is mapped.
    fn map(&mut self) -> io::Result<()> {
        let in_heap = self.snapshot.heap.size_bytes() as usize;
        let size = self.snapshot.size;
        self.slot
            .map(size..self.slot.size().max(size), Content::Nothing)?;
        self.slot.map(in_heap..size, Content::Zeros)?;
        self.slot.set_size(size);
        self.entered = None;
        let version = self.snapshot.heap.version();
        let version = version.map(|(image, version)| (Arc::clone(image), version));
        if let Some((image, version)) = version {
            let stale = self.slot.show(&image, in_heap)?;
            image.enter(version, &stale, |leaf, bytes| {
                // A later version may have been larger.
                if (leaf as usize) < in_heap / LEAF_BYTES {
                    *self.leaf_mut(leaf) = *bytes;
                }
            })?;
            self.entered = Some(Entered { image, version });
        } else {
            self.slot.forget();
        }
        let changes = Arc::clone(&self.snapshot.changes);
        for (leaf, bytes) in changes.iter() {
            *self.leaf_mut(leaf) = *bytes;
        }
        Ok(())
    }

    /// What the instance would see.
    #[cfg(test)]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing; there is no instance in tests of a view alone.
        unsafe { std::slice::from_raw_parts_mut(self.slot.start().as_ptr(), self.slot.size()) }
    }

    /// Grows as the instance would.
    #[cfg(test)]
    pub(super) fn grow(&mut self, size: usize) {
        use wasmtime::LinearMemory;
        let mut memory = super::slot::SlotMemory(Arc::clone(&self.slot));
        memory.grow_to(size).unwrap();
    }

    /// How many leaves the instance has changed: since it began or, if it made versions, from each to the
    /// next, each leaf counted once. It does not run any more.
    pub(crate) fn changed_leaves(&mut self) -> u64 {
        let (touched, last) = self.take_ended();
        let further = last.leaves().filter(|leaf| !self.changed.contains(leaf));
        let count = self.changed.len() + further.count();
        self.ended = Some((touched, last));
        count as u64
    }

    fn take_ended(&mut self) -> (Vec<Touched>, Delta) {
        self.ended.take().unwrap_or_else(|| {
            let touched = provided(self.touched());
            let delta = provided(self.delta_of(&self.written(&touched)));
            (touched, delta)
        })
    }

    /// The heap as the instance has left it. It does not run any more.
    pub(crate) fn commit(mut self) -> Heap {
        let (touched, delta) = self.take_ended();
        self.ended = Some((touched, Delta::default()));
        let size = self.slot.size() as u64;
        self.entered = None;
        provided(self.snapshot.heap.changed_by(delta, size))
    }

    /// What the instance has done so far as a version, on which it goes on: nobody copies it. The instance
    /// waits in an import.
    pub(crate) fn version(&mut self) -> Snapshot {
        let written = self.written(&provided(self.touched()));
        let delta = provided(self.delta_of(&written));
        let size = self.slot.size() as u64;
        let changed = delta.leaves().count();
        if changed == 0 && size == self.snapshot.heap.size_bytes() {
            return self.snapshot.clone();
        }
        self.changed.extend(delta.leaves());
        let heap = provided(self.snapshot.heap.changed_by(delta, size));
        let goes_on = match (&mut self.entered, heap.version()) {
            // What differs from the file are pages that the instance has to itself, and so the file can
            // change under it. Worth it unless most of those pages are as in the file by now.
            (Some(entered), Some((image, version)))
                if Arc::ptr_eq(&entered.image, image)
                    && written.len() <= WRITTEN_MAX + 4 * changed =>
            {
                provided(image.advance(version));
                entered.version = version;
                true
            }
            _ => false,
        };
        self.snapshot = Snapshot::from(&heap);
        if !goes_on {
            self.slot.forget();
            provided(self.map());
        }
        self.snapshot.clone()
    }

    /// What the instance has done so far as changes of what is mapped: everybody copies them. The instance
    /// waits in an import.
    pub(crate) fn changes(&self) -> Snapshot {
        Snapshot {
            heap: self.snapshot.heap.clone(),
            changes: Arc::new(provided(self.delta())),
            size: self.slot.size(),
        }
    }

    /// What differs from the version that is mapped.
    fn delta(&self) -> io::Result<Delta> {
        self.delta_of(&self.written(&self.touched()?))
    }

    fn delta_of(&self, written: &[Leaf]) -> io::Result<Delta> {
        let leaves = written.iter().map(|leaf| (*leaf, self.leaf(*leaf)));
        match &self.entered {
            Some(Entered { image, version }) => image.differences(*version, leaves),
            None => {
                let mut delta = Delta::default();
                leaves
                    .filter(|(_, bytes)| **bytes != [0; LEAF_BYTES])
                    .for_each(|(leaf, bytes)| delta.insert(leaf, bytes));
                Ok(delta)
            }
        }
    }

    /// In how many pages this heap differs from its snapshot, counting all by which it has grown; exact
    /// when above `limit`, which is all that is asked then.
    pub(crate) fn private_pages(&self, limit: u64) -> u64 {
        let snapshot = &self.snapshot;
        let old_leaves = (snapshot.size / LEAF_BYTES) as u64;
        let grown = (self.slot.size() / LEAF_BYTES) as u64 - old_leaves;
        if old_leaves + grown <= limit {
            return grown;
        }
        let mut written = self.written(&provided(self.touched()));
        written.retain(|leaf| u64::from(*leaf) < old_leaves);
        let at_most = grown + written.len() as u64;
        if at_most <= limit {
            return at_most;
        }
        // Counted, not collected: it may be all of the heap.
        let (changed, rest): (Vec<_>, Vec<_>) = written
            .into_iter()
            .partition(|leaf| snapshot.changes.get(*leaf).is_some());
        let differs = |leaf: &&Leaf| snapshot.changes.get(**leaf) != Some(self.leaf(**leaf));
        let again = changed.iter().filter(differs).count() as u64;
        let rest = rest.into_iter().map(|leaf| (leaf, self.leaf(leaf)));
        let first = match &self.entered {
            Some(Entered { image, version }) => provided(image.count_differences(*version, rest)),
            None => rest.filter(|(_, bytes)| **bytes != [0; LEAF_BYTES]).count() as u64,
        };
        grown + again + first
    }

    fn touched(&self) -> io::Result<Vec<Touched>> {
        let start = self.slot.start().addr().get();
        dirty::touched(start..start + self.slot.size())
    }

    /// The leaves that may have been written.
    fn written(&self, touched: &[Touched]) -> Vec<Leaf> {
        let start = self.slot.start().addr().get();
        let written = touched.iter().filter(|touched| touched.written);
        let addresses = written.flat_map(|touched| touched.addresses.clone().step_by(LEAF_BYTES));
        addresses
            .map(|address| ((address - start) / LEAF_BYTES) as Leaf)
            .collect()
    }

    /// A leaf of what the instance sees.
    fn leaf(&self, leaf: Leaf) -> &[u8; LEAF_BYTES] {
        let offset = leaf as usize * LEAF_BYTES;
        assert!(offset < self.slot.size(), "leaf outside of the heap");
        // SAFETY: within the mapping, of which a leaf is a whole page; the instance does not run.
        unsafe { self.slot.start().add(offset).cast().as_ref() }
    }

    fn leaf_mut(&mut self, leaf: Leaf) -> &mut [u8; LEAF_BYTES] {
        let offset = leaf as usize * LEAF_BYTES;
        assert!(offset < self.slot.size(), "leaf outside of the heap");
        // SAFETY: as in `leaf`, and borrowed mutably.
        unsafe { self.slot.start().add(offset).cast().as_mut() }
    }

    /// Bytes of this heap. The instance waits in an import.
    pub(crate) fn read(&self, range: Range<usize>) -> Vec<u8> {
        let leaf_bytes = |leaf| self.leaf(leaf as Leaf);
        let leaves = range.start / LEAF_BYTES..range.end.div_ceil(LEAF_BYTES);
        let skipped = range.start % LEAF_BYTES;
        let bytes = leaves.flat_map(|leaf| leaf_bytes(leaf).iter().copied());
        bytes.skip(skipped).take(range.len()).collect()
    }

    /// Makes it cheap to write a window that a task has to fill.
    pub(crate) fn prepare(&self, window: &Window<'_>) {
        if window.range.len() >= PREPARED_MIN {
            self.slot.prepare(window.range.clone());
        }
    }

    /// Parts of this heap that tasks will fill, in their order; `None` when two overlap or one lies
    /// outside. The instance waits in an import.
    pub(crate) fn windows(&mut self, ranges: &[Range<usize>]) -> Option<Vec<Window<'_>>> {
        let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let outside = ranges.iter().any(|range| range.end > self.slot.size());
        if outside || sorted.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return None;
        }
        let windows = ranges.iter().map(|range| Window {
            slot: &self.slot,
            range: range.clone(),
            view: PhantomData,
        });
        Some(windows.collect())
    }
}

/// A part of a heap that no other window of that heap touches.
#[derive(Debug)]
pub(crate) struct Window<'view> {
    slot: &'view Slot,
    range: Range<usize>,
    view: PhantomData<&'view mut View>,
}

impl Window<'_> {
    /// Copies the same part of a task's heap here. The task does not run any more.
    pub(crate) fn join(self, task: &View) {
        assert!(
            self.range.end <= task.slot.size()
                && !Arc::as_ptr(&task.slot).eq(&std::ptr::from_ref(self.slot)),
            "a task's heap is its own and at least as large"
        );
        if self.range.len() >= PREPARED_MIN {
            self.slot.prepare(self.range.clone());
        }
        // SAFETY: both within their mappings, which differ; neither instance runs, and no other window
        // has this part.
        unsafe {
            std::ptr::copy_nonoverlapping(
                task.slot.start().as_ptr().add(self.range.start),
                self.slot.start().as_ptr().add(self.range.start),
                self.range.len(),
            );
        }
    }
}
