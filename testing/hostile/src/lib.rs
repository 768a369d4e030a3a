//! A canister that does what its messages say, bad things included, and the way to say it.
//!
//! A message's argument is a program ([`encode`]). The canister keeps a sum over everything it has done
//! and seen ([`Step::ReplySum`]), so that two executions that differ anywhere differ there. Methods are
//! `canister_update run` and `canister_query read`; `canister_init` and the hooks of upgrades run programs
//! too.
use serde::{Deserialize, Serialize};

#[cfg(target_arch = "wasm32")]
mod canister;

/// Something to do. Programs are run step by step; a step that traps ends the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Replies with these bytes.
    Reply(Vec<u8>),
    /// Replies with the sum, eight bytes, little-endian.
    ReplySum,
    /// Replies with the message's argument: in a reply's callback, the reply.
    ReplyArgument,
    /// Replies with a rejection's code, four bytes, and its text.
    ReplyRejection,
    /// Rejects.
    Reject(String),
    /// Calls `ic0.trap`.
    Trap(String),
    /// Executes `unreachable`.
    Unreachable,
    /// Reads beyond the heap.
    OutOfBounds,
    /// Prints.
    Print(String),
    /// Goes round a loop so many times.
    Spin(u64),
    /// Calls itself so many deep.
    Recurse(u32),
    /// Writes into so many pages of 4 KiB of a heap that it grows for it.
    Touch(u32),
    /// Grows the heap by so many pages of 64 KiB.
    Grow(u32),
    /// Grows stable memory by so many pages of 64 KiB.
    StableGrow(u64),
    /// Fills a part of stable memory.
    StableWrite {
        /// From here.
        offset: u64,
        /// With this.
        byte: u8,
        /// So many bytes.
        size: u32,
    },
    /// Adds a part of stable memory to the sum.
    StableRead {
        /// From here.
        offset: u64,
        /// So many bytes.
        size: u32,
    },
    /// Calls a canister.
    Call(Call),
    /// Accepts cycles.
    Accept(u64),
    /// Burns cycles.
    Burn(u64),
    /// Sets the global timer, to run a program so many nanoseconds from now.
    Timer {
        /// After which time.
        delay_ns: u64,
        /// What runs.
        program: Vec<Step>,
    },
    /// Sets the program of the heartbeat.
    Heartbeat(Vec<Step>),
    /// Sets the program of `canister_pre_upgrade`.
    PreUpgrade(Vec<Step>),
    /// Sets the certified data.
    Certify(Vec<u8>),
    /// Forks.
    Fork {
        /// Elements, of which a task gets three.
        elements: u32,
        /// Turns of a loop per task, times its number.
        spin: u32,
        /// The task that traps.
        trap: Option<u32>,
    },
    /// Adds the time, the version, the balance and whatever else the system tells to the sum.
    Observe,
}

/// A call to a canister.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Whom to call.
    pub callee: Vec<u8>,
    /// The method.
    pub method: String,
    /// Its argument.
    pub argument: Vec<u8>,
    /// Cycles to send.
    pub cycles: u64,
    /// After how many seconds to stop waiting.
    pub timeout_seconds: Option<u32>,
    /// Runs when a reply arrives.
    pub on_reply: Vec<Step>,
    /// Runs when a rejection arrives.
    pub on_reject: Vec<Step>,
    /// Runs when either traps.
    pub on_cleanup: Option<Vec<Step>>,
}

impl Call {
    /// A call of `run` with a program; what comes back is passed on.
    #[must_use]
    pub fn run(callee: &[u8], program: &[Step]) -> Self {
        Self {
            callee: callee.to_vec(),
            method: "run".into(),
            argument: encode(program),
            cycles: 0,
            timeout_seconds: None,
            on_reply: vec![Step::ReplyArgument],
            on_reject: vec![Step::ReplyRejection],
            on_cleanup: None,
        }
    }
}

/// A program as the argument of a message.
///
/// # Panics
/// Never: every program has a form.
#[must_use]
pub fn encode(program: &[Step]) -> Vec<u8> {
    postcard::to_allocvec(program).expect("steps have a form")
}
