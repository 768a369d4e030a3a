//! Counts what panics on this thread.
//!
//! A panic ends the process of a node. Simulated nodes share a process, and tasks that consensus has spawned within a node
//! end alone: then nothing tells which node it was that should have ended.
use std::{cell::Cell, panic, sync::Once};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How many there were since the thread began.
pub(crate) fn count() -> u64 {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            COUNT.with(|count| count.set(count.get() + 1));
            report(info);
        }));
    });
    COUNT.with(Cell::get)
}
