//! Lets one long execution go on slice by slice.
//!
//! # Design
//! An execution asks for a slice when it has used up the ones before it, and waits where it is, on its own
//! thread and stack, until the slice is granted. What it does does not depend on that: an execution that
//! takes `T` instructions of the time takes the first `T / slice` slices, rounded up, and at least one.
//!
//! # Safety
//! The executing thread waits in a signal handler, so what it does here are operations on one atomic word
//! and system calls that wait for it to change.
use crate::engine::Instructions;
use rustix::thread::futex;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// How far an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has used up its slices so far and waits for another one.
    Paused,
    /// It has ended.
    Ended,
}

/// Grants slices to one execution. Dropped, it cancels the execution, so that no thread waits for nobody.
#[derive(Debug)]
pub struct Pacer(Pace);

/// What an execution is given to ask its [`Pacer`] for slices.
#[derive(Clone, Debug)]
pub struct Pace {
    slice: Instructions,
    /// The flags, and above them the number of slices granted.
    word: Arc<AtomicU32>,
}

const PAUSED: u32 = 1;
const ENDED: u32 = 1 << 1;
const CANCELLED: u32 = 1 << 2;
const ONE_SLICE: u32 = 1 << 3;

impl Pacer {
    /// For one execution, whose first slice is granted.
    ///
    /// # Panics
    /// A slice has no instructions.
    #[must_use]
    pub fn new(slice: Instructions) -> Self {
        assert!(slice > 0, "a slice has instructions");
        Self(Pace {
            slice,
            word: Arc::new(AtomicU32::new(ONE_SLICE)),
        })
    }

    /// What the execution is given.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.0
    }

    /// Blocks until the execution has ended or used up its slices so far. It may not have begun yet.
    #[must_use]
    pub fn wait(&self) -> Progress {
        loop {
            let word = self.0.load();
            match word {
                _ if word & ENDED != 0 => return Progress::Ended,
                _ if word & PAUSED != 0 => return Progress::Paused,
                _ => self.0.sleep(word),
            }
        }
    }

    /// Grants one more slice.
    ///
    /// # Panics
    /// More than 500 million slices are granted.
    pub fn resume(&self) {
        self.0.change(|word| {
            let more = word.checked_add(ONE_SLICE);
            more.expect("fewer slices") & !PAUSED
        });
    }

    /// Makes the execution end at the end of its slice, if it has not ended before. What it gives is to be
    /// dropped then: where it ended depends on when it was cancelled.
    pub fn cancel(&self) {
        self.0.change(|word| (word | CANCELLED) & !PAUSED);
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Pace {
    pub(crate) fn slice(&self) -> Instructions {
        self.slice
    }

    /// Waits until so many slices are granted; false when there will be no more.
    pub(crate) fn take(&self, slices: u64) -> bool {
        loop {
            let word = self.load();
            if word & CANCELLED != 0 {
                return false;
            }
            if u64::from(word / ONE_SLICE) >= slices {
                return true;
            }
            let paused = word | PAUSED;
            if self
                .word
                .compare_exchange(word, paused, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
            {
                self.wake();
                self.sleep(paused);
            }
        }
    }

    /// Tells that the execution has ended.
    pub(crate) fn end(&self) {
        self.change(|word| word | ENDED);
    }

    fn load(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    fn change(&self, to: impl Fn(u32) -> u32) {
        let mut word = self.load();
        while let Err(other) =
            self.word
                .compare_exchange(word, to(word), Ordering::AcqRel, Ordering::Acquire)
        {
            word = other;
        }
        self.wake();
    }

    /// Waits while the word is this one, or for no reason.
    fn sleep(&self, word: u32) {
        // An error says that the word has changed, or a signal came.
        let _ = futex::wait(&self.word, futex::Flags::PRIVATE, word, None);
    }

    fn wake(&self) {
        // Cannot fail for an address that exists.
        let _ = futex::wake(&self.word, futex::Flags::PRIVATE, u32::MAX >> 1);
    }
}
