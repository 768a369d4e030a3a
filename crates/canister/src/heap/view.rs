//! A heap in the address space of a Wasm instance.
//!
//! # Design
//! Every linear memory is a *slot*: addresses for all that Wasm can reach and a guard behind them. A
//! *view* maps a version's file there, privately: what the instance writes stays its own, and the
//! operating system knows which pages those are. Growth maps zeros.
//!
//! # Errors
//! Failures are this machine's; a caller in replicated code ends the replica.
use super::{
    Heap, LEAF_BYTES, Leaf, PAGE_BYTES, dirty,
    image::{Delta, Image, Number},
    provided,
};
use crate::gate::{self, GateMemory};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::{
    collections::BTreeMap,
    io,
    marker::PhantomData,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Written pages that are compared again at every fork rather than mapped anew.
const WRITTEN_MAX: usize = if cfg!(test) { 4 } else { 4096 };

/// Addresses of one linear memory.
#[derive(Debug)]
pub(crate) struct Slot {
    start: NonNull<u8>,
    reserved: usize,
    capacity: usize,
    size: AtomicUsize,
}

// SAFETY: a slot is a range of addresses; what is there is accessed by the instance that owns it, and
// by its view while that instance does not run.
unsafe impl Send for Slot {}
// SAFETY: as above.
unsafe impl Sync for Slot {}

impl Slot {
    pub(super) fn reserve(capacity: usize, guard: usize) -> io::Result<Self> {
        let reserved = capacity + guard;
        // SAFETY: new addresses, which nothing refers to.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            reserved,
            capacity,
            size: AtomicUsize::new(0),
        })
    }

    fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    /// Replaces what is mapped at `range`.
    fn map(&self, range: Range<usize>, content: Content<'_>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        assert!(
            range.end <= self.capacity,
            "beyond the slot: {range:?} of {}",
            self.capacity
        );
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let length = range.len();
        // SAFETY: the addresses are within the reservation.
        let at = unsafe { self.start.add(range.start) }.as_ptr().cast();
        // SAFETY: the addresses are this slot's; no reference to what was mapped there exists, since the
        // instance does not run.
        unsafe {
            match content {
                Content::Nothing => mmap_anonymous(at, length, ProtFlags::empty(), flags),
                Content::Zeros => {
                    mmap_anonymous(at, length, ProtFlags::READ | ProtFlags::WRITE, flags)
                }
                Content::Image(image) => mmap(
                    at,
                    length,
                    ProtFlags::READ | ProtFlags::WRITE,
                    flags,
                    image.file(),
                    range.start as u64,
                ),
            }
        }?;
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: the whole reservation; the instance that used it is gone.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.reserved) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

enum Content<'a> {
    /// Access traps.
    Nothing,
    Zeros,
    Image(&'a Image),
}

/// Makes slots for the Wasm engine and finds them again by their address.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    made: Mutex<BTreeMap<usize, Weak<Slot>>>,
}

impl Slots {
    /// The slot whose memory starts at `start`.
    pub(crate) fn find(&self, start: *const u8) -> Option<Arc<Slot>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.remove(&start.addr())?.upgrade()
    }
}

// SAFETY: a slot is as large as asked for, page aligned, has its guard, and never moves.
unsafe impl MemoryCreator for Slots {
    fn new_memory(
        &self,
        ty: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved.ok_or("a memory of no fixed reservation")?;
        if gate::is_gate(&ty) {
            let gate = GateMemory::new(capacity).map_err(|error| error.to_string())?;
            return Ok(Box::new(gate));
        }
        let make = || {
            let slot = Slot::reserve(capacity, guard)?;
            slot.map(0..minimum, Content::Zeros)?;
            slot.size.store(minimum, Ordering::Relaxed);
            io::Result::Ok(Arc::new(slot))
        };
        let slot = make().map_err(|error| error.to_string())?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.retain(|_, slot| slot.strong_count() > 0);
        made.insert(slot.start.addr().get(), Arc::downgrade(&slot));
        Ok(Box::new(SlotMemory(slot)))
    }
}

struct SlotMemory(Arc<Slot>);

// SAFETY: `byte_size` bytes are mapped, and `byte_capacity` reserved, at an address that stays.
unsafe impl LinearMemory for SlotMemory {
    fn byte_size(&self) -> usize {
        self.0.size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.capacity
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let old = self.0.size();
        if new_size > old {
            self.0.map(old..new_size, Content::Zeros)?;
            self.0.size.store(new_size, Ordering::Relaxed);
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.start.as_ptr()
    }
}

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

impl View {
    /// Puts a snapshot in the place of what the slot holds. The slot's instance does not run.
    pub(crate) fn new(slot: Arc<Slot>, snapshot: Snapshot) -> Self {
        provided(Self::try_new(slot, snapshot))
    }

    fn try_new(slot: Arc<Slot>, snapshot: Snapshot) -> io::Result<Self> {
        let in_heap = snapshot.heap.size_bytes() as usize;
        let size = snapshot.size;
        slot.map(size..slot.size().max(size), Content::Nothing)?;
        slot.map(in_heap..size, Content::Zeros)?;
        slot.size.store(size, Ordering::Relaxed);
        let mut view = Self {
            slot,
            snapshot,
            entered: None,
        };
        if let Some((image, version)) = view.snapshot.heap.version() {
            let patches = image.enter(version)?;
            let image = Arc::clone(image);
            view.slot.map(0..in_heap, Content::Image(&image))?;
            view.entered = Some(Entered { image, version });
            for (leaf, bytes) in patches {
                // A later version may have been larger.
                if (leaf as usize) < in_heap / LEAF_BYTES {
                    *view.leaf_mut(leaf) = *bytes;
                }
            }
        }
        let changes = Arc::clone(&view.snapshot.changes);
        for (leaf, bytes) in changes.iter() {
            *view.leaf_mut(leaf) = *bytes;
        }
        Ok(view)
    }

    /// What the instance would see.
    #[cfg(test)]
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped for writing; there is no instance in tests of a view alone.
        unsafe { std::slice::from_raw_parts_mut(self.slot.start.as_ptr(), self.slot.size()) }
    }

    /// Grows as the instance would.
    #[cfg(test)]
    pub(super) fn grow(&mut self, size: usize) {
        SlotMemory(Arc::clone(&self.slot)).grow_to(size).unwrap();
    }

    /// The heap as the instance has left it. It does not run any more.
    pub(crate) fn commit(self) -> Heap {
        let delta = provided(self.delta());
        let size = self.slot.size() as u64;
        drop(self.entered);
        provided(self.snapshot.heap.changed_by(delta, size))
    }

    /// What the instance has done so far as a version, on which it goes on: nobody copies it. The instance
    /// waits in an import.
    pub(crate) fn version(&mut self) -> Snapshot {
        let delta = provided(self.delta());
        let size = self.slot.size() as u64;
        let changed = delta.leaves().count();
        if changed == 0 && size == self.snapshot.heap.size_bytes() {
            return self.snapshot.clone();
        }
        let heap = provided(self.snapshot.heap.changed_by(delta, size));
        let written = provided(self.written()).count();
        let goes_on = match (&mut self.entered, heap.version()) {
            // What differs from the file are pages that the instance has to itself, and so the file can
            // change under it. Worth it unless most of those pages are as in the file by now.
            (Some(entered), Some((image, version)))
                if Arc::ptr_eq(&entered.image, image) && written <= WRITTEN_MAX + 4 * changed =>
            {
                provided(image.advance(version));
                entered.version = version;
                true
            }
            _ => false,
        };
        let snapshot = Snapshot::from(&heap);
        if goes_on {
            self.snapshot = snapshot;
        } else {
            self.entered = None;
            *self = Self::new(Arc::clone(&self.slot), snapshot);
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
        let leaves = self.written()?.map(|leaf| (leaf, self.leaf(leaf)));
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
        let old = |leaf: &Leaf| u64::from(*leaf) < old_leaves;
        let at_most = grown + provided(self.written()).filter(old).count() as u64;
        if at_most <= limit {
            return at_most;
        }
        // Changed are the leaves that are neither as in the version nor as the snapshot's changes say, and
        // those that were changed there and are now as in the version.
        let delta = provided(self.delta());
        let differs = |leaf: &Leaf| match snapshot.changes.get(*leaf) {
            Some(bytes) => self.leaf(*leaf) != bytes,
            None => true,
        };
        let restored = snapshot
            .changes
            .leaves()
            .filter(|leaf| delta.get(*leaf).is_none());
        let changed =
            delta.leaves().filter(old).filter(differs).count() + restored.filter(old).count();
        grown + changed as u64
    }

    /// The leaves that may have been written.
    fn written(&self) -> io::Result<impl Iterator<Item = Leaf> + use<>> {
        let start = self.slot.start.addr().get();
        let ranges = dirty::written(start..start + self.slot.size())?;
        let addresses = ranges
            .into_iter()
            .flat_map(|range| range.step_by(LEAF_BYTES));
        Ok(addresses.map(move |address| ((address - start) / LEAF_BYTES) as Leaf))
    }

    /// A leaf of what the instance sees.
    fn leaf(&self, leaf: Leaf) -> &[u8; LEAF_BYTES] {
        let offset = leaf as usize * LEAF_BYTES;
        assert!(offset < self.slot.size(), "leaf outside of the heap");
        // SAFETY: within the mapping, of which a leaf is a whole page; the instance does not run.
        unsafe { self.slot.start.add(offset).cast().as_ref() }
    }

    fn leaf_mut(&mut self, leaf: Leaf) -> &mut [u8; LEAF_BYTES] {
        let offset = leaf as usize * LEAF_BYTES;
        assert!(offset < self.slot.size(), "leaf outside of the heap");
        // SAFETY: as in `leaf`, and borrowed mutably.
        unsafe { self.slot.start.add(offset).cast().as_mut() }
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
        // SAFETY: both within their mappings, which differ; neither instance runs, and no other window
        // has this part.
        unsafe {
            std::ptr::copy_nonoverlapping(
                task.slot.start.as_ptr().add(self.range.start),
                self.slot.start.as_ptr().add(self.range.start),
                self.range.len(),
            );
        }
    }
}
