//! A fork-join pool with a fixed partition of the work.
//!
//! # Design
//! `run` splits `0..count` into one contiguous range per thread; the caller takes the first. Workers wait by spinning
//! briefly, then yielding, then parking, so that a stream of small kernels costs little and an idle pool costs
//! nothing. A range whose worker has not begun when the caller is through with its own is taken back and run by the
//! caller, so that other processes on the cores do not stall the pool.
//!
//! # Determinism
//! The partition depends on `count` and the number of threads alone. Tasks write disjoint outputs, so no result
//! depends on it. Every thread that runs a task asserts the default floating-point environment first.
//!
//! # Panics
//! A panic in a task reaches the caller of `run` after all threads have finished; the one of the lowest range wins.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};

use crate::environment;

/// Polls without giving up the core; some tens of microseconds, longer than the pauses between the kernels of a token.
const SPIN_POLLS: u32 = 1_000;
/// Polls that yield the core before a worker parks.
const YIELD_POLLS: u32 = 100;

type Task<'a> = dyn Fn(Range<usize>) + Sync + 'a;

thread_local! {
    /// Whether this thread is inside a task; a nested `run` then executes in place.
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Worker threads; the calling thread is worker 0.
pub struct Pool {
    threads: usize,
    workers: Vec<Worker>,
    /// Held for the length of a run, so that callers on several threads take turns.
    turn: Mutex<()>,
}

struct Worker {
    slot: Arc<Slot>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// What passes between the caller and one worker; a cache line of its own.
#[repr(align(128))]
struct Slot {
    state: AtomicUsize,
    job: Mutex<Job>,
}

/// The worker may sleep.
const IDLE: usize = 0;
/// A job waits to be taken.
const READY: usize = 1;
/// The worker runs the job.
const RUNNING: usize = 2;
/// The job is finished, its outcome stored.
const DONE: usize = 3;
/// The worker shall end.
const STOP: usize = 4;

#[derive(Default)]
struct Job {
    task: Option<&'static Task<'static>>,
    range: Range<usize>,
    panic: Option<Box<dyn Any + Send>>,
}

impl Pool {
    /// A pool of `threads`, of which all but the caller's are started now.
    ///
    /// # Panics
    /// The operating system refuses to start a thread.
    #[must_use]
    pub fn new(threads: NonZeroUsize) -> Self {
        Self::start(threads, None)
    }

    /// As [`Self::new`]; tasks find a stack of at least `stack_bytes`, but for the caller's part.
    ///
    /// # Panics
    /// The operating system refuses to start a thread.
    #[must_use]
    pub fn with_stack_bytes(threads: NonZeroUsize, stack_bytes: usize) -> Self {
        Self::start(threads, Some(stack_bytes))
    }

    fn start(threads: NonZeroUsize, stack_bytes: Option<usize>) -> Self {
        let threads = threads.get();
        let workers = (1..threads)
            .map(|index| Worker::start(index, stack_bytes))
            .collect();
        Self {
            threads,
            workers,
            turn: Mutex::new(()),
        }
    }

    /// Number of threads, the caller's included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `task` with contiguous ranges that together cover `0..count` once, and returns when all are done.
    ///
    /// Inside a task, a nested call runs in place on the calling thread.
    ///
    /// # Panics
    /// If `task` does, or if the floating-point environment is not the default.
    pub fn run(&self, count: usize, task: &Task<'_>) {
        if count == 0 {
            return;
        }
        if self.threads == 1 || count == 1 || INSIDE_TASK.get() {
            environment::assert_default();
            return task(0..count);
        }
        let _turn = lock(&self.turn);
        let parts = self.threads.min(count);
        // SAFETY: the reference outlives every use of it: nothing between here and the last `join` unwinds, `join` waits
        // until the job is done, and a job that is taken leaves no reference behind.
        let erased = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        let busy = &self.workers[..parts - 1];
        for (index, worker) in busy.iter().enumerate() {
            worker.give(erased, part(count, parts, index + 1));
        }
        let mine = run_task(task, part(count, parts, 0));
        // Whatever has not begun yet is done here, lest it waits for a core that others hold.
        busy.iter().for_each(|worker| worker.slot.try_job());
        let first_panic = busy.iter().fold(mine, |first, worker| {
            let panic = worker.join();
            first.or(panic)
        });
        if let Some(panic) = first_panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.slot.state.store(STOP, Ordering::Release);
            worker.thread.unpark();
        }
        for worker in &mut self.workers {
            if let Some(handle) = worker.handle.take() {
                // A worker catches the panics of its tasks, so it cannot fail to end.
                let _ = handle.join();
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pool({} threads)", self.threads)
    }
}

impl Worker {
    fn start(index: usize, stack_bytes: Option<usize>) -> Self {
        let slot = Arc::new(Slot {
            state: AtomicUsize::new(IDLE),
            job: Mutex::default(),
        });
        let shared = Arc::clone(&slot);
        let mut thread = thread::Builder::new().name(format!("lockstep-kernel-{index}"));
        if let Some(bytes) = stack_bytes {
            thread = thread.stack_size(bytes);
        }
        let handle = thread
            .spawn(move || shared.serve())
            .expect("the operating system starts a thread");
        Self {
            slot,
            thread: handle.thread().clone(),
            handle: Some(handle),
        }
    }

    fn give(&self, task: &'static Task<'static>, range: Range<usize>) {
        *lock(&self.slot.job) = Job {
            task: Some(task),
            range,
            panic: None,
        };
        self.slot.state.store(READY, Ordering::Release);
        // Costs a system call only if the worker is parked.
        self.thread.unpark();
    }

    /// Waits until the job is done and returns its panic, if any.
    fn join(&self) -> Option<Box<dyn Any + Send>> {
        let mut polls = 0;
        while self.slot.state.load(Ordering::Acquire) != DONE {
            polls += 1;
            if polls < SPIN_POLLS {
                std::hint::spin_loop()
            } else {
                thread::yield_now()
            }
        }
        let panic = lock(&self.slot.job).panic.take();
        self.slot.state.store(IDLE, Ordering::Release);
        panic
    }
}

impl Slot {
    fn serve(&self) {
        while self.wait() != STOP {
            self.try_job();
        }
    }

    /// Does the job on this thread if nobody has begun it.
    fn try_job(&self) {
        let begun =
            self.state
                .compare_exchange(READY, RUNNING, Ordering::AcqRel, Ordering::Acquire);
        if begun.is_err() {
            return;
        }
        let (task, range) = {
            let mut job = lock(&self.job);
            (job.task.take(), job.range.clone())
        };
        let panic = task.and_then(|task| run_task(task, range));
        lock(&self.job).panic = panic;
        self.state.store(DONE, Ordering::Release);
    }

    /// Waits until there is a job or the end.
    fn wait(&self) -> usize {
        let mut polls = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state == READY || state == STOP {
                return state;
            }
            polls += 1;
            if polls < SPIN_POLLS {
                std::hint::spin_loop();
            } else if polls < SPIN_POLLS + YIELD_POLLS {
                thread::yield_now();
            } else {
                thread::park();
            }
        }
    }
}

/// Range `index` of `parts` ranges over `0..count`, the longer ones first.
fn part(count: usize, parts: usize, index: usize) -> Range<usize> {
    let (length, longer) = (count / parts, count % parts);
    let start = index * length + index.min(longer);
    start..start + length + usize::from(index < longer)
}

/// Runs the task on this thread and returns its panic, if any.
fn run_task(task: &Task<'_>, range: Range<usize>) -> Option<Box<dyn Any + Send>> {
    INSIDE_TASK.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        environment::assert_default();
        task(range);
    }));
    INSIDE_TASK.set(false);
    outcome.err()
}

/// No code panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slice whose disjoint parts several threads write.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    length: usize,
    marker: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access is through `part`, whose contract excludes two references to one element.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            length: slice.len(),
            marker: std::marker::PhantomData,
        }
    }

    /// The elements in `range`.
    ///
    /// # Safety
    /// No element of `range` is part of another live slice from this function.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "part out of range: {range:?}"
        );
        // SAFETY: in bounds of the exclusively borrowed slice; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The elements in `range`, to read.
    ///
    /// # Safety
    /// No element of `range` is part of a live slice from [`Self::part`].
    pub(crate) unsafe fn read(&self, range: Range<usize>) -> &[T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "part out of range: {range:?}"
        );
        // SAFETY: in bounds of the exclusively borrowed slice; not written by the caller's promise.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests;
