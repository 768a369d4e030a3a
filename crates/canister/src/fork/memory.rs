//! Memory for the tasks that run at a time.
//!
//! # Design
//! A task may write every page of its heap before its quota of private pages is checked at its end. So that
//! tasks that do cannot take this machine's memory, as many run at a time as fit if all of them did.
//!
//! # Determinism
//! A task is a function of its snapshot and index: when it runs has no influence on the result.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the tasks of all forks share. A fork that runs holds a part; the forks of its tasks run within it.
#[derive(Debug)]
pub(crate) struct TaskMemory {
    bytes: u64,
    taken: Mutex<u64>,
    given_back: Condvar,
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
            .wait_while(taken, |taken| *taken > 0 && room(*taken) == 0);
        let mut taken = wait.unwrap_or_else(PoisonError::into_inner);
        let tasks = (tasks as u64).min(room(*taken)).max(1);
        let bytes = tasks.saturating_mul(each);
        *taken = taken.saturating_add(bytes);
        Share {
            memory: self,
            bytes,
            tasks: tasks as usize,
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
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
        *self.memory.lock() -= self.bytes;
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
