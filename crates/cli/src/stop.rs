//! The wish of whoever runs this process that it ends.

use anyhow::{Context, Result};
use std::{ops::ControlFlow, time::Duration};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time,
};

/// Hears SIGINT and SIGTERM, which end the process no longer by themselves.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    /// What was waited for has come.
    Done,
    /// The process is to end.
    Stopped,
}

impl Stop {
    /// Begins to listen.
    pub(crate) fn new(runtime: &Runtime) -> Result<Self> {
        // Signals are delivered by the runtime.
        let _inside = runtime.enter();
        let listen = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Asks `check` every `period` until it is done or fails, or the process is to end.
    pub(crate) fn watch(
        &mut self,
        runtime: &Runtime,
        period: Duration,
        mut check: impl FnMut() -> Result<ControlFlow<()>>,
    ) -> Result<Watched> {
        runtime.block_on(async {
            let mut ticks = time::interval(period);
            loop {
                tokio::select! {
                    biased;
                    _ = self.interrupt.recv() => return Ok(Watched::Stopped),
                    _ = self.terminate.recv() => return Ok(Watched::Stopped),
                    _ = ticks.tick() => {
                        if check()?.is_break() {
                            return Ok(Watched::Done);
                        }
                    }
                }
            }
        })
    }
}
