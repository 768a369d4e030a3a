//! Lets a long message go on slice by slice.
//!
//! # Design
//! An execution asks for a slice when it has used up the ones before it, and waits where it is, on its own
//! thread and stack, until the slice is granted. What it does does not depend on that: a message whose
//! executions take `T` instructions of the time takes the first `T / slice` slices, rounded up, and at least
//! one.
//!
//! A message of which nobody knows that it is long is better executed where no thread is left waiting:
//! [`Pace::only_slice`] ends it where it would ask for a second slice, and it is executed again.
//!
//! # Safety
//! The executing thread waits in a signal handler, so what it does here are operations on one atomic word
//! and system calls that wait for it to change.
use crate::engine::Instructions;
use rustix::thread::futex;
use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// How far an execution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has used up its slices so far and waits for another one.
    Paused,
    /// It has ended.
    Ended,
}

/// Grants slices to one message. Dropped, it cancels the execution, so that no thread waits for nobody.
#[derive(Debug)]
pub struct Pacer(Pace);

/// What an execution is given to ask for slices.
#[derive(Clone, Debug)]
pub struct Pace {
    slice: Instructions,
    /// Instructions of the time of the message's earlier executions.
    spent: Instructions,
    /// The flags, and above them the number of slices granted.
    word: Arc<AtomicU32>,
}

const PAUSED: u32 = 1;
const ENDED: u32 = 1 << 1;
const CANCELLED: u32 = 1 << 2;
const REFUSED: u32 = 1 << 3;
const ONE_SLICE: u32 = 1 << 4;

impl Pacer {
    /// For one message, whose first slice is granted.
    #[must_use]
    pub fn new(slice: NonZeroU64) -> Self {
        Self(Pace::with_word(slice, ONE_SLICE))
    }

    /// What the execution is given.
    #[must_use]
    pub fn pace(&self) -> &Pace {
        &self.0
    }

    /// Blocks until the message has ended or used up its slices so far. It may not have begun yet.
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
    /// More than 250 million slices are granted.
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
    /// One slice and no more.
    #[must_use]
    pub fn only_slice(slice: NonZeroU64) -> Self {
        Self::with_word(slice, ONE_SLICE | CANCELLED)
    }

    fn with_word(slice: NonZeroU64, word: u32) -> Self {
        Self {
            slice: slice.get(),
            spent: 0,
            word: Arc::new(AtomicU32::new(word)),
        }
    }

    /// For a further execution of the message, whose earlier ones have taken so much of the time.
    #[must_use]
    pub fn after(&self, spent: Instructions) -> Self {
        Self {
            spent,
            ..self.clone()
        }
    }

    /// Whether more slices were asked for than there will be: what was executed is to be dropped.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.load() & REFUSED != 0
    }

    /// Tells the pacer that the message has ended, when it is dropped.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    /// The end of the first so many slices, counted from the start of the execution.
    pub(crate) fn slices_end(&self, slices: u64) -> Instructions {
        let end = self.slice.saturating_mul(slices);
        end.saturating_sub(self.spent)
    }

    /// Waits until so many slices are granted; false when there will be no more.
    pub(crate) fn take(&self, slices: u64) -> bool {
        loop {
            let word = self.load();
            if u64::from(word / ONE_SLICE) >= slices {
                return true;
            }
            if word & CANCELLED != 0 {
                self.change(|word| word | REFUSED);
                return false;
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

/// Tells a pacer, when dropped, that its message has ended, in whatever way.
#[derive(Debug)]
pub struct Ending(Pace);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.change(|word| word | ENDED);
    }
}
