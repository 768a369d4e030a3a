//! Stacks of known size for messages, on whichever thread they run.
//!
//! # Design
//! A message runs on a stack of its own, with a guard below. Stacks are kept for later messages, all but
//! their first pages given back to the system.
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

/// Bytes where an overflow ends the process.
const GUARD_BYTES: usize = 64 * 1024;
/// Bytes that a stack keeps.
const KEPT_BYTES: usize = 256 * 1024;
/// Most stacks kept.
const KEPT_MAX: usize = 32;

/// Stacks of one size that nobody runs on.
#[derive(Debug)]
pub(crate) struct Stacks {
    bytes: usize,
    kept: Mutex<Vec<Stack>>,
}

#[derive(Debug)]
struct Stack {
    start: NonNull<u8>,
    /// Guard included.
    bytes: usize,
}

// SAFETY: memory that belongs to this value, used through it alone.
unsafe impl Send for Stack {}

impl Stacks {
    /// Stacks of `bytes`, a multiple of the page size.
    pub(crate) fn new(bytes: usize) -> Self {
        Self {
            bytes,
            kept: Mutex::default(),
        }
    }

    /// Runs `work` on a stack of its own.
    ///
    /// # Panics
    /// When `work` does, or the system has no memory for a stack.
    pub(crate) fn run<T>(&self, work: impl FnOnce() -> T) -> T {
        let kept = self.kept().pop();
        let stack = kept.unwrap_or_else(|| {
            Stack::new(self.bytes).unwrap_or_else(|error| panic!("no memory for a stack: {error}"))
        });
        let result = stack.run(work);
        if stack.give_back().is_ok() {
            let mut kept = self.kept();
            if kept.len() < KEPT_MAX {
                kept.push(stack);
            }
        }
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Stack>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stack {
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes + GUARD_BYTES;
        // SAFETY: new addresses, which nothing refers to.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let stack = Self {
            start: NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            bytes,
        };
        // SAFETY: within the new mapping.
        unsafe { mprotect(start, GUARD_BYTES, rustix::mm::MprotectFlags::empty()) }?;
        Ok(stack)
    }

    fn run<T>(&self, work: impl FnOnce() -> T) -> std::thread::Result<T> {
        // SAFETY: aligned to pages, mapped for reading and writing, with a guard below, and nobody else
        // runs there; a panic does not leave the closure.
        unsafe {
            psm::on_stack(
                self.start.as_ptr().add(GUARD_BYTES),
                self.bytes - GUARD_BYTES,
                || catch_unwind(AssertUnwindSafe(work)),
            )
        }
    }

    /// Gives all but the first pages back to the system; nobody runs there.
    fn give_back(&self) -> io::Result<()> {
        // SAFETY: within the mapping, and what was there is not needed any more.
        unsafe {
            let start = self.start.as_ptr().add(GUARD_BYTES);
            let bytes = self.bytes - GUARD_BYTES - KEPT_BYTES;
            madvise(start.cast(), bytes, Advice::LinuxDontNeed)?;
        }
        Ok(())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, on which nobody runs.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_kept_also_after_a_panic() {
        let stacks = Stacks::new(1024 * 1024);
        fn descend(depth: usize) -> usize {
            let frame = std::hint::black_box([depth; 128]);
            if depth == 0 {
                0
            } else {
                frame[5] - depth + 1 + descend(depth - 1)
            }
        }
        // More than the kept pages, twice on the same stack.
        assert_eq!(stacks.run(|| descend(600)), 600);
        assert_eq!(stacks.kept().len(), 1);
        let panicked = catch_unwind(AssertUnwindSafe(|| stacks.run(|| panic!("expected"))));
        assert_eq!(
            *panicked.unwrap_err().downcast::<&str>().unwrap(),
            "expected"
        );
        assert_eq!(stacks.run(|| stacks.run(|| descend(600))), 600);
        assert_eq!(stacks.kept().len(), 2);
    }
}
