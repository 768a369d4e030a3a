//! Where a message gets its instructions from, chunk by chunk, and waits for them.
//!
//! # Design
//! Compiled code counts down what it has in a register. Below zero it reads the next *grant* from a memory
//! of the engine's own, adds it, and moves its *cursor* on. Grants lie in two pages, one of which can be
//! read. Behind its last grant code comes to the closed one: the processor faults, the operating system
//! calls the handler below on the faulting thread, and the handler waits for a slice if that is what is
//! missing, fills the page, closes the other and returns; the read is done again and finds a grant. No
//! register changes hands, so the compiler treats the place as the plain load that it is: a call there,
//! which is hardly ever made, would cost registers in every round of every loop. If nothing is left, the
//! handler leaves the fault to the Wasm engine, which ends the message.
//!
//! Imports charge on their own stack and wait without a fault.
//!
//! # Invariants
//! Grants end at every multiple of [`CHUNK`], at the end of every slice, and at the limit. A message has taken a
//! slice if and only if it has used more than all before it.
//!
//! # Units and bounds
//! What code holds in registers is lost when it traps in the middle. It is charged for the chunk it is in
//! then: its charge is the next multiple of [`CHUNK`], or the limit, whatever the slices are. A trap by `unreachable`
//! or in an import is charged exactly.
//!
//! # Safety
//! The handler uses atomics, writes to its own page, and makes system calls (`mprotect`, `futex`) that take no lock of this
//! process; it allocates nothing and does not panic.
#![allow(unsafe_code)]

use crate::{engine::Instructions, heap::LEAF_BYTES, pacer::Pace};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use std::{
    io,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};
use wasmtime::{LinearMemory, MemoryType, Store, unix::StoreExt};

/// What a grant gives at most.
pub(crate) const CHUNK: Instructions = 1 << 16;

const GRANT_BYTES: usize = size_of::<u64>();
const GRANTS: usize = LEAF_BYTES / GRANT_BYTES;
/// The cursor starts anew behind the second page.
pub(crate) const CURSOR_MASK: i32 = 2 * LEAF_BYTES as i32 - 1;
/// No page: both are closed.
const NONE: usize = 2;
/// What the cursor moves on by.
pub(crate) const CURSOR_STEP: i32 = GRANT_BYTES as i32;
/// Most pages of Wasm that a memory of 32 bits has: no other memory of an instrumented module says so.
pub(crate) const MEMORY_PAGES_MAX: u64 = 1 << 16;

/// Whether the memory is a gate's.
pub(crate) fn is_gate(memory: &MemoryType) -> bool {
    !memory.is_64() && memory.maximum() == Some(MEMORY_PAGES_MAX)
}

/// The two pages, closed.
pub(crate) struct GateMemory {
    pages: NonNull<u8>,
    capacity: usize,
    /// Addresses in all.
    reserved: usize,
}

// SAFETY: addresses; what is there is accessed by the instance and its gate.
unsafe impl Send for GateMemory {}
// SAFETY: as above.
unsafe impl Sync for GateMemory {}

impl GateMemory {
    /// For a reservation of `capacity` bytes and a guard, of which nothing but the pages is used: the Wasm
    /// engine takes a fault anywhere in it for this memory's, so no other may lie there.
    pub(crate) fn new(capacity: usize, guard: usize) -> io::Result<Self> {
        let reserved = capacity + guard;
        // SAFETY: new addresses, which nothing refers to.
        let pages = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let pages = NonNull::new(pages.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            pages,
            capacity,
            reserved,
        })
    }
}

impl Drop for GateMemory {
    fn drop(&mut self) {
        // SAFETY: the whole mapping; the instance that used it is gone.
        let unmapped = unsafe { munmap(self.pages.as_ptr().cast(), self.reserved) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

// SAFETY: nothing is accessible, and nothing but the two pages is accessed.
unsafe impl LinearMemory for GateMemory {
    fn byte_size(&self) -> usize {
        0
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        wasmtime::ensure!(size == 0, "a gate does not grow");
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.pages.as_ptr()
    }
}

/// The instructions of one execution.
#[derive(Debug)]
pub(crate) struct Gate {
    pages: usize,
    limit: Instructions,
    pace: Option<Pace>,
    /// Slices taken.
    slices: AtomicU64,
    /// All grants so far, those of the open page included.
    granted: AtomicU64,
    open: AtomicUsize,
    /// Whether something was asked for that is not there.
    refused: AtomicBool,
    cancelled: AtomicBool,
    failed: AtomicBool,
}

impl Gate {
    /// The gate at a [`GateMemory`]'s start, which waits in the store's code from now on. `open` is the page
    /// that an earlier execution has left open.
    pub(crate) fn new<T: 'static>(
        pages: *mut u8,
        open: Option<usize>,
        limit: Instructions,
        pace: Option<Pace>,
        store: &mut Store<T>,
    ) -> Arc<Self> {
        let gate = Arc::new(Self {
            pages: pages.expose_provenance(),
            limit,
            pace,
            slices: AtomicU64::new(0),
            granted: AtomicU64::new(0),
            open: AtomicUsize::new(open.unwrap_or(NONE)),
            refused: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        });
        gate.begin();
        let handler = Arc::clone(&gate);
        // SAFETY: what the handler does is async-signal-safe; see the module's documentation.
        unsafe {
            store.set_signal_handler(move |signal, information, _| {
                signal == libc::SIGSEGV && handler.fault((*information).si_addr().addr())
            });
        }
        gate
    }

    /// Whether a fault at this address was that of a closed page, which is open now.
    fn fault(&self, address: usize) -> bool {
        match address.wrapping_sub(self.pages) / LEAF_BYTES {
            page @ (0 | 1) => self.fill(page),
            _ => false,
        }
    }

    /// Fills the page that is open, or the first; closes it if there is nothing to fill it with.
    fn begin(&self) {
        let open = self.open.load(Ordering::Relaxed);
        if open == NONE {
            if self.limit > 0 {
                self.fill(0);
            }
        } else if self.limit > 0 && self.take_slice(0) {
            self.write(open);
        } else if self.protect(open, MprotectFlags::empty()) {
            self.open.store(NONE, Ordering::Relaxed);
        }
    }

    /// Fills and opens a page, waiting for a slice if need be, and closes the other. False when nothing is
    /// left.
    fn fill(&self, page: usize) -> bool {
        let granted = self.granted.load(Ordering::Relaxed);
        if !self.take_slice(granted) {
            return false;
        }
        if !self.protect(page, MprotectFlags::READ | MprotectFlags::WRITE) {
            return false;
        }
        self.write(page);
        match self.open.swap(page, Ordering::Relaxed) {
            NONE => true,
            other => self.protect(other, MprotectFlags::empty()),
        }
    }

    /// Takes the slice in which more is used than so many instructions. False when nothing is left.
    fn take_slice(&self, granted: Instructions) -> bool {
        let taken = granted < self.limit && self.reach(granted + 1);
        if !taken {
            self.refused.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Writes grants into a page that is open.
    fn write(&self, page: usize) {
        let mut granted = self.granted.load(Ordering::Relaxed);
        for index in 0..GRANTS {
            let end = self.end_of_grant(granted);
            // SAFETY: within the page, which is mapped and writable; the instance does not run.
            unsafe { self.grant(page, index).write(end - granted) };
            granted = end;
        }
        self.granted.store(granted, Ordering::Relaxed);
    }

    fn protect(&self, page: usize, flags: MprotectFlags) -> bool {
        let start = std::ptr::with_exposed_provenance_mut(self.pages + page * LEAF_BYTES);
        // SAFETY: one of the two pages, accessed by nobody now.
        let protected = unsafe { mprotect(start, LEAF_BYTES, flags) }.is_ok();
        if !protected {
            self.failed.store(true, Ordering::Relaxed);
        }
        protected
    }

    fn grant(&self, page: usize, index: usize) -> *mut u64 {
        let address = self.pages + page * LEAF_BYTES + index * GRANT_BYTES;
        std::ptr::with_exposed_provenance_mut(address)
    }

    /// The end of the slices taken.
    fn slices_end(&self) -> Instructions {
        let slices = self.slices.load(Ordering::Relaxed);
        let pace = self.pace.as_ref();
        pace.map_or(u64::MAX, |pace| pace.slices_end(slices))
    }

    /// Where a grant that starts there ends: there, if slices or instructions are used up.
    fn end_of_grant(&self, start: Instructions) -> Instructions {
        let chunk = (start / CHUNK + 1).saturating_mul(CHUNK);
        chunk.min(self.slices_end()).min(self.limit)
    }

    /// Takes the slices in which so many instructions are used, waiting for them; at least one. False when they
    /// are refused.
    fn reach(&self, used: Instructions) -> bool {
        loop {
            let taken = self.slices.load(Ordering::Relaxed);
            if taken > 0 && used <= self.slices_end() {
                return true;
            }
            let granted = self.pace.as_ref().is_none_or(|pace| pace.take(taken + 1));
            if !granted {
                self.cancelled.store(true, Ordering::Relaxed);
                return false;
            }
            self.slices.store(taken + 1, Ordering::Relaxed);
        }
    }

    /// All grants before the cursor.
    pub(crate) fn taken(&self, cursor: i32) -> Instructions {
        let granted = self.granted.load(Ordering::Relaxed);
        let (page, index) = (
            cursor as usize / LEAF_BYTES,
            cursor as usize % LEAF_BYTES / GRANT_BYTES,
        );
        if granted == 0 || page != self.open.load(Ordering::Relaxed) {
            return granted;
        }
        // SAFETY: within the open page; the instance does not run.
        let ahead = (index..GRANTS).map(|index| unsafe { self.grant(page, index).read() });
        granted - ahead.sum::<u64>()
    }

    /// Grants what is lacking when so many instructions are used: all grants then, and where the cursor
    /// goes on. Nothing, if the limit does not allow it, or if slices are refused.
    pub(crate) fn skip(&self, used: Instructions) -> Option<(Instructions, i32)> {
        if used > self.limit || !self.reach(used) {
            return None;
        }
        let granted = self.end_of_grant(used.saturating_sub(1));
        self.granted.store(granted, Ordering::Relaxed);
        let closed = self.open().map_or(0, |page| 1 - page);
        Some((granted, (closed * LEAF_BYTES) as i32))
    }

    /// Where the cursor begins.
    pub(crate) fn cursor(&self) -> i32 {
        self.open().map_or(0, |page| (page * LEAF_BYTES) as i32)
    }

    /// The page that is open.
    pub(crate) fn open(&self) -> Option<usize> {
        Some(self.open.load(Ordering::Relaxed)).filter(|page| *page != NONE)
    }

    /// What an execution that has used so many is charged, all slices of it being taken then, and whether it
    /// asked for more than there is.
    pub(crate) fn settle(&self, used: Instructions) -> (Instructions, bool) {
        if self.refused.load(Ordering::Relaxed) {
            return (self.limit, true);
        }
        let charged = used.min(self.limit);
        (charged, !self.reach(charged) || used > self.limit)
    }

    /// What an execution has used that lost its count.
    pub(crate) fn round(&self, taken: Instructions) -> Instructions {
        taken.next_multiple_of(CHUNK).min(self.limit)
    }

    /// Whether the pacer ended the execution.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether this machine could not change its pages.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}
