//! Ctrl-c: it stops an answer, not the program.

use anyhow::{Context as _, Result};
use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

/// What shells report of a program that an interrupt has ended.
const EXIT_CODE: i32 = 130;

/// Hears SIGINT.
pub(super) struct Interrupt {
    answering: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    _runtime: Runtime,
}

impl Interrupt {
    /// Begins to listen. Between answers, an interrupt ends the program if `ends` is set.
    pub(super) fn listen(ends: bool) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("starting a thread for signals")?;
        let (answering, stopped) = (Arc::default(), Arc::default());
        let (is_answering, stop): (Arc<AtomicBool>, Arc<AtomicBool>) =
            (Arc::clone(&answering), Arc::clone(&stopped));
        let inside = runtime.enter();
        let mut interrupts = signal(SignalKind::interrupt()).context("listening for signals")?;
        drop(inside);
        runtime.spawn(async move {
            while interrupts.recv().await.is_some() {
                if is_answering.load(Ordering::SeqCst) {
                    stop.store(true, Ordering::SeqCst);
                } else if ends {
                    process::exit(EXIT_CODE);
                }
            }
        });
        Ok(Self {
            answering,
            stopped,
            _runtime: runtime,
        })
    }

    /// Runs `answer`, which asks whether it was interrupted.
    pub(super) fn during<T>(&self, answer: impl FnOnce(&dyn Fn() -> bool) -> T) -> T {
        self.stopped.store(false, Ordering::SeqCst);
        self.answering.store(true, Ordering::SeqCst);
        let result = answer(&|| self.stopped.load(Ordering::SeqCst));
        self.answering.store(false, Ordering::SeqCst);
        result
    }
}
