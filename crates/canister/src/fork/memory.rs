//! Memory for the tasks that run at a time.
//!
//! # Design
//! A task may write every page of its heap before its quota of private pages is checked at its end. So that
//! tasks that do cannot take this machine's memory, as many run at a time as fit if all of them did. One
//! that grows waits until there is room for what it adds; one of those that wait goes on without, lest all
//! wait for each other.
//!
//! # Determinism
//! A task is a function of its snapshot and index: when it runs has no influence on the result.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What the tasks of all forks share. A fork that runs holds a part; the forks of its tasks run within it.
#[derive(Debug)]
pub(crate) struct TaskMemory {
    bytes: u64,
    taken: Mutex<Taken>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Taken {
    bytes: u64,
    /// Whether a task has grown by more than there was.
    overdrawn: bool,
}

impl TaskMemory {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            taken: Mutex::default(),
            given_back: Condvar::new(),
        }
    }

    /// Waits until there is room for at least one task of `each` bytes, and takes it for up to `tasks`. A
    /// task of more than there is runs when no other does.
    pub(super) fn take(&self, each: u64, tasks: usize) -> Share<'_> {
        let room = |taken: u64| self.bytes.saturating_sub(taken) / each.max(1);
        let taken = self.lock();
        let wait = self
            .given_back
            .wait_while(taken, |taken| taken.bytes > 0 && room(taken.bytes) == 0);
        let mut taken = wait.unwrap_or_else(PoisonError::into_inner);
        let tasks = (tasks as u64).min(room(taken.bytes)).max(1);
        let bytes = tasks * each;
        taken.bytes += bytes;
        Share {
            memory: self,
            bytes,
            tasks: tasks as usize,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory for some tasks, given back when dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    memory: &'a TaskMemory,
    bytes: u64,
    tasks: usize,
}

impl Share<'_> {
    /// How many tasks may run at a time.
    pub(super) fn tasks(&self) -> usize {
        self.tasks
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.memory.lock().bytes -= self.bytes;
        self.memory.given_back.notify_all();
    }
}

/// By what a task that runs in a share has grown; given back when dropped.
#[derive(Debug)]
pub(crate) struct Growth {
    memory: Arc<TaskMemory>,
    bytes: u64,
    overdrawn: bool,
}

impl Growth {
    pub(super) fn new(memory: Arc<TaskMemory>) -> Self {
        Self {
            memory,
            bytes: 0,
            overdrawn: false,
        }
    }

    /// Waits until the task may grow by so many bytes.
    pub(crate) fn add(&mut self, bytes: u64) {
        let memory = &*self.memory;
        let fits = |taken: &Taken| taken.bytes.saturating_add(bytes) <= memory.bytes;
        let own = self.overdrawn;
        let waits = |taken: &mut Taken| !own && taken.overdrawn && !fits(taken);
        let wait = memory.given_back.wait_while(memory.lock(), waits);
        let mut taken = wait.unwrap_or_else(PoisonError::into_inner);
        if !fits(&taken) {
            taken.overdrawn = true;
            self.overdrawn = true;
        }
        taken.bytes += bytes;
        self.bytes += bytes;
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        let mut taken = self.memory.lock();
        taken.bytes -= self.bytes;
        if self.overdrawn {
            taken.overdrawn = false;
        }
        drop(taken);
        self.memory.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        thread,
    };

    #[test]
    fn tasks_fit_or_run_alone() {
        let memory = TaskMemory::new(100);
        assert_eq!(memory.take(30, 8).tasks(), 3);
        assert_eq!(memory.take(30, 2).tasks(), 2);
        assert_eq!(memory.take(0, 8).tasks(), 8);
        assert_eq!(memory.take(1000, 8).tasks(), 1);
        let first = memory.take(40, 1);
        let second = memory.take(30, 4);
        assert_eq!((first.tasks(), second.tasks()), (1, 2));
    }

    #[test]
    fn tasks_that_grow_take_turns_and_never_wait_for_each_other() {
        let memory = Arc::new(TaskMemory::new(100));
        let share = memory.take(20, 4);
        assert_eq!(share.tasks(), 4);
        let (beyond, most) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let mut growth = Growth::new(Arc::clone(&memory));
                        growth.add(5);
                        thread::yield_now();
                        // Does not fit.
                        growth.add(1000);
                        let now = beyond.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        thread::yield_now();
                        growth.add(5);
                        beyond.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 1);
        drop(share);
        assert_eq!(memory.lock().bytes, 0);
        assert!(!memory.lock().overdrawn);
    }

    #[test]
    fn forks_wait_for_each_other() {
        let memory = TaskMemory::new(100);
        let (running, done) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let share = memory.take(40, 3);
                        let bytes = 40 * share.tasks() as u64;
                        assert!(running.fetch_add(bytes, Ordering::SeqCst) + bytes <= 100);
                        thread::yield_now();
                        running.fetch_sub(bytes, Ordering::SeqCst);
                        drop(share);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 800);
    }
}
