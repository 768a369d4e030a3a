//! Messages that take more than a slice of the time.
use crate::application::Height;
use ic_principal::Principal;
use lockstep_canister::{engine::Cycles, session::SessionIds};
use serde::{Deserialize, Serialize};

/// What runs without being called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// `canister_on_low_wasm_memory`.
    LowWasmMemory,
    /// `canister_heartbeat`.
    Heartbeat,
    /// `canister_global_timer`.
    GlobalTimer,
}

/// What a long message executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LongWork {
    /// A task.
    Task(Task),
    /// The message with this key, which stays in the queue until it has ended.
    Message(u64),
    /// The call of the management canister with this key, which installs code.
    Installation {
        /// The call's key.
        key: u64,
        /// The canister whose chunks the code is made of, if it is another one: they stay until then.
        lender: Option<Principal>,
    },
}

impl LongWork {
    /// The key of the message, which is in the queue.
    #[must_use]
    pub fn key(&self) -> Option<u64> {
        match self {
            Self::Task(_) => None,
            Self::Message(key) | Self::Installation { key, .. } => Some(*key),
        }
    }
}

/// A message that has had slices of its time and needs more.
///
/// Its canister is as it was before it: what it has done so far is not in the state, and can be done again
/// from what is here. Until it ends nothing else changes the canister.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Long {
    /// What it executes.
    pub work: LongWork,
    /// The height of its first slice.
    pub begun: Height,
    /// The time it sees: that of its first slice, nanoseconds since 1970.
    pub time_ns: u64,
    /// Slices that it has had.
    pub slices: u64,
    /// Bytes by which the canister may grow in it.
    pub memory_available: u64,
    /// Bytes that its calls may have together.
    pub message_bytes: u64,
    /// The ids of sessions that it starts.
    pub session_ids: SessionIds,
    /// Cycles that the canister has owed since, for messages to it.
    pub owed: Cycles,
}

impl Long {
    /// A message that has had its first slice, with which neither memories nor calls grow.
    #[must_use]
    pub fn new(work: LongWork, begun: Height, time_ns: u64) -> Self {
        Self {
            work,
            begun,
            time_ns,
            slices: 1,
            memory_available: 0,
            message_bytes: 0,
            session_ids: SessionIds { next: 0, step: 1 },
            owed: 0,
        }
    }
}
