//! One task of a message's fork, run again by itself.
use super::{Outcome, of_task};
use crate::{
    engine::{Execution, Instructions, TaskExecution},
    host::{HostTrap, code},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Which task to run, and what it did.
#[derive(Debug)]
pub(crate) struct Replay {
    /// Number of the fork in its message.
    pub(super) fork: u32,
    /// Index of the task in the fork.
    pub(super) task: u32,
    done: Mutex<Option<Done>>,
}

/// What the task did.
#[derive(Debug)]
struct Done {
    used: Instructions,
    debug: Vec<String>,
    /// Its window; `None` when it trapped, and the message with it.
    window: Option<Vec<u8>>,
}

impl Replay {
    pub(crate) fn new(fork: u32, task: u32) -> Self {
        Self {
            fork,
            task,
            done: Mutex::default(),
        }
    }

    /// Notes what the task did, if there was one, and ends the message: as it would end if the task traps.
    pub(super) fn settle(&self, outcomes: Vec<Outcome>, window: Vec<u8>) -> wasmtime::Result<()> {
        let mut end = HostTrap::Refused {
            code: code::TRAPPED,
            text: "a message ends with the task that was asked for".into(),
        };
        for outcome in outcomes {
            let window = outcome.trap.is_none().then(|| window.clone());
            let (used, debug) = (outcome.used, outcome.debug);
            *self.lock() = Some(Done {
                used,
                debug,
                window,
            });
            if let Some(failure) = outcome.trap {
                end = of_task(failure, self.task as usize);
            }
        }
        Err(end.into())
    }

    /// What the task did, once the message has ended.
    pub(crate) fn finish(&self, message: Execution) -> Option<TaskExecution> {
        let done = self.lock().take()?;
        let result = match (done.window, message.result) {
            (Some(window), _) => Ok(window),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => unreachable!("a message ends with a task that traps"),
        };
        Some(TaskExecution {
            result,
            instructions: done.used,
            debug: done.debug,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Done>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
