//! Addresses for linear memories.
//!
//! # Design
//! A *slot* is a reservation of all addresses that Wasm can reach in one memory, and a guard behind them.
//! What is mapped there is said by a [`View`](super::View) while an instance runs. Behind it an image's file
//! stays mapped for a next view of the same: a mapping costs more than most messages do. So do private pages,
//! if they are few: they are likely to be written again, and to bring their content up to date is cheaper
//! than that the system copies the file's. A mapping does not keep the image, which frees its file's memory
//! when it goes.
//!
//! Reservations of slots that are gone are kept for later ones.
//!
//! # Errors
//! Failures are this machine's.
use super::{ImageId, LEAF_BYTES, Leaf, dirty::Touched, image::Image};
use crate::gate::{self, GateMemory};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Most reservations kept for later slots.
const KEPT_MAX: usize = 64;
/// What one table of the system's page tables is for. To look for touched pages is to go through all tables
/// there are.
const TABLE_BYTES: usize = if cfg!(test) { 1 << 16 } else { 2 << 20 };
/// Most private pages of a mapping that stays.
const PRIVATE_MAX: usize = if cfg!(test) { 4 } else { 32 };
/// Most tables of a mapping that stays.
const TABLES_MAX: usize = if cfg!(test) { 2 } else { 16 };

/// Addresses that nothing else in this process gets.
#[derive(Debug)]
struct Reservation {
    start: NonNull<u8>,
    capacity: usize,
    guard: usize,
}

// SAFETY: a range of addresses; who may access what is mapped there is said by the slot.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(capacity: usize, guard: usize) -> io::Result<Self> {
        // SAFETY: new addresses, which nothing refers to.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                capacity + guard,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Ok(Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            capacity,
            guard,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let length = self.capacity + self.guard;
        // SAFETY: the whole reservation; the slot that used it is gone.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), length) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// Addresses of one linear memory.
#[derive(Debug)]
pub(crate) struct Slot {
    /// There until the slot is dropped.
    reservation: Option<Reservation>,
    size: AtomicUsize,
    /// Whether a view has it.
    viewed: AtomicBool,
    mapped: Mutex<Mapped>,
    home: Arc<Home>,
}

/// An image that is mapped from the slot's start.
#[derive(Debug, Default)]
struct Mapped {
    image: Weak<Image>,
    bytes: usize,
    /// Which leaves are not the file's, between views.
    private: Vec<Leaf>,
    /// Where pages have been touched since it was mapped.
    tables: BTreeSet<usize>,
}

impl Slot {
    /// What the instance may reach. Mapped are the first [`Self::size`] bytes, private to whoever has the
    /// slot: its instance, or its view while that instance does not run.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.reservation().start
    }

    fn reservation(&self) -> &Reservation {
        let reservation = self.reservation.as_ref();
        reservation.expect("taken when the slot is dropped")
    }

    pub(super) fn size(&self) -> usize {
        self.size.load(Ordering::Relaxed)
    }

    pub(super) fn set_size(&self, size: usize) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Replaces what is mapped at `range`.
    pub(super) fn map(&self, range: Range<usize>, content: Content<'_>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        assert!(
            range.end <= self.reservation().capacity,
            "beyond the slot: {range:?} of {}",
            self.reservation().capacity
        );
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let length = range.len();
        // SAFETY: the addresses are within the reservation.
        let at = unsafe { self.start().add(range.start) }.as_ptr().cast();
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

    /// Makes the pages that lie whole in a range of what is mapped private in one go: their content stays,
    /// and writing them costs no fault each. A matter of speed, where the system can.
    pub(super) fn prepare(&self, range: Range<usize>) {
        let start = range.start.next_multiple_of(LEAF_BYTES);
        let end = range.end.min(self.size()) / LEAF_BYTES * LEAF_BYTES;
        if start >= end {
            return;
        }
        // SAFETY: mapped for writing; what is there stays. Older systems know no such advice, and then pages
        // come one by one.
        unsafe {
            let at = self.start().add(start).as_ptr().cast();
            madvise(at, end - start, Advice::LinuxPopulateWrite).ok();
        }
    }

    /// Takes the slot for a view, which puts something in the place of what is there.
    pub(super) fn enter(&self) {
        let taken = self.viewed.swap(true, Ordering::Acquire);
        assert!(!taken, "a slot has one view at a time");
    }

    /// Maps the first `bytes` of an image, if they are not what the last view has left there. Returns the
    /// leaves in which anything may be instead.
    pub(super) fn show(&self, image: &Arc<Image>, bytes: usize) -> io::Result<Vec<Leaf>> {
        let mut mapped = lock(&self.mapped);
        if mapped.bytes == bytes && std::ptr::eq(mapped.image.as_ptr(), Arc::as_ptr(image)) {
            return Ok(std::mem::take(&mut mapped.private));
        }
        self.map(0..bytes, Content::Image(image))?;
        *mapped = Mapped {
            image: Arc::downgrade(image),
            bytes,
            private: Vec::new(),
            tables: BTreeSet::new(),
        };
        Ok(Vec::new())
    }

    /// The image that is mapped, if it is still there.
    pub(crate) fn image(&self) -> Option<ImageId> {
        let image = lock(&self.mapped).image.upgrade()?;
        Some(ImageId::of(Arc::as_ptr(&image)))
    }

    /// Whatever is mapped, it is not an image that may stay.
    pub(super) fn forget(&self) {
        *lock(&self.mapped) = Mapped::default();
    }

    /// Ends what [`Self::enter`] began: nothing is mapped any more but an image, if the view has touched little
    /// of it.
    pub(super) fn leave(&self, touched: &[Touched]) -> io::Result<()> {
        let mut mapped = lock(&self.mapped);
        assert!(self.size() >= mapped.bytes, "a view shows a whole image");
        let start = self.start().addr().get();
        let image = start..start + mapped.bytes;
        mapped.tables.extend(tables(touched, &image));
        if mapped.bytes == 0 || mapped.tables.len() > TABLES_MAX {
            *mapped = Mapped::default();
            self.clear()?;
        } else {
            let written = written(touched, &image);
            let pages = written
                .clone()
                .map(|addresses| addresses.len() / LEAF_BYTES);
            if pages.sum::<usize>() <= PRIVATE_MAX {
                let pages = written.flat_map(|addresses| addresses.step_by(LEAF_BYTES));
                let leaves = pages.map(|address| ((address - start) / LEAF_BYTES) as Leaf);
                mapped.private = leaves.collect();
            } else {
                self.drop_pages(written)?;
            }
            self.map(mapped.bytes..self.size(), Content::Nothing)?;
            self.set_size(mapped.bytes);
        }
        drop(mapped);
        self.viewed.store(false, Ordering::Release);
        Ok(())
    }

    /// Puts the file's pages back in the place of private ones, which lie in its mapping.
    fn drop_pages(
        &self,
        mut private: impl DoubleEndedIterator<Item = Range<usize>>,
    ) -> io::Result<()> {
        let Some(first) = private.next() else {
            return Ok(());
        };
        // All in one go, with what is the file's between them: to tell other processors costs more.
        let last = private.next_back().unwrap_or(first.clone());
        let offset = first.start - self.start().addr().get();
        // SAFETY: within the mapping of the image, to which no reference exists.
        unsafe {
            let at = self.start().add(offset).as_ptr().cast();
            madvise(at, last.end - first.start, Advice::LinuxDontNeed)?;
        }
        Ok(())
    }

    fn clear(&self) -> io::Result<()> {
        self.map(0..self.size(), Content::Nothing)?;
        self.set_size(0);
        Ok(())
    }
}

/// The tables of the touched pages in a range, some of them twice.
fn tables(touched: &[Touched], range: &Range<usize>) -> impl Iterator<Item = usize> {
    let within = touched.iter().filter_map(|touched| touched.within(range));
    within.flat_map(|addresses| addresses.start / TABLE_BYTES..addresses.end.div_ceil(TABLE_BYTES))
}

/// The written pages in a range.
fn written(
    touched: &[Touched],
    range: &Range<usize>,
) -> impl DoubleEndedIterator<Item = Range<usize>> + Clone {
    let written = touched.iter().filter(|touched| touched.written);
    written.filter_map(|touched| touched.within(range))
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Addresses under which something is left are given back to the system, with what is there.
        if self.clear().is_ok()
            && let Some(reservation) = self.reservation.take()
        {
            self.home.keep(reservation);
        }
    }
}

pub(super) enum Content<'a> {
    /// Access traps.
    Nothing,
    /// New pages.
    Zeros,
    /// The file, from the same place as in the slot.
    Image(&'a Image),
}

/// Where slots come from and their reservations go back to.
#[derive(Debug, Default)]
struct Home {
    kept: Mutex<Vec<Reservation>>,
}

impl Home {
    fn slot(self: &Arc<Self>, capacity: usize, guard: usize) -> io::Result<Slot> {
        let fits = |kept: &Reservation| (kept.capacity, kept.guard) == (capacity, guard);
        let mut kept = lock(&self.kept);
        let found = kept
            .iter()
            .position(fits)
            .map(|index| kept.swap_remove(index));
        drop(kept);
        Ok(Slot {
            reservation: Some(match found {
                Some(reservation) => reservation,
                None => Reservation::new(capacity, guard)?,
            }),
            size: AtomicUsize::new(0),
            viewed: AtomicBool::new(false),
            mapped: Mutex::default(),
            home: Arc::clone(self),
        })
    }

    fn keep(&self, reservation: Reservation) {
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT_MAX {
            kept.push(reservation);
        }
    }
}

/// Makes slots for the Wasm engine and finds them again by their address.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    home: Arc<Home>,
    made: Mutex<BTreeMap<usize, Weak<Slot>>>,
}

impl Slots {
    /// The slot whose memory starts at `start`; each is found once.
    pub(crate) fn find(&self, start: *const u8) -> Option<Arc<Slot>> {
        lock(&self.made).remove(&start.addr())?.upgrade()
    }

    /// A slot without an instance.
    #[cfg(test)]
    pub(super) fn slot(&self, capacity: usize, guard: usize) -> Arc<Slot> {
        Arc::new(self.home.slot(capacity, guard).unwrap())
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
            let gate = GateMemory::new(capacity, guard).map_err(|error| error.to_string())?;
            return Ok(Box::new(gate));
        }
        let make = || {
            let slot = self.home.slot(capacity, guard)?;
            slot.map(0..minimum, Content::Zeros)?;
            slot.set_size(minimum);
            io::Result::Ok(Arc::new(slot))
        };
        let slot = make().map_err(|error| error.to_string())?;
        let mut made = lock(&self.made);
        made.retain(|_, slot| slot.strong_count() > 0);
        made.insert(slot.start().addr().get(), Arc::downgrade(&slot));
        Ok(Box::new(SlotMemory(slot)))
    }
}

/// A slot as the Wasm engine sees it.
pub(super) struct SlotMemory(pub(super) Arc<Slot>);

// SAFETY: `byte_size` bytes are mapped while the instance runs, and `byte_capacity` reserved, at an
// address that stays.
unsafe impl LinearMemory for SlotMemory {
    fn byte_size(&self) -> usize {
        self.0.size()
    }

    fn byte_capacity(&self) -> usize {
        self.0.reservation().capacity
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let old = self.0.size();
        if new_size > old {
            self.0.map(old..new_size, Content::Zeros)?;
            self.0.set_size(new_size);
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.0.start().as_ptr()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
