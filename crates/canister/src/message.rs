//! What enters a canister and what comes out of it.
use crate::{
    engine::{ExecutionError, Instructions},
    heap::Heap,
    memory::PagedMemory,
    session::SessionState,
    state::GlobalValue,
};
use ic_principal::Principal;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Amount of cycles.
pub type Cycles = u128;

/// A function of the module's first table and what it is called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// Index in the table.
    pub function: u64,
    /// The argument.
    pub environment: u64,
}

/// Which export or callback a message enters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryPoint {
    /// Instantiate (data segments, `start`), then `canister_init`.
    Init,
    /// `canister_pre_upgrade` of the old code.
    PreUpgrade,
    /// Instantiate with stable memory kept, then `canister_post_upgrade`.
    PostUpgrade {
        /// Whether the heap is kept too (`wasm_memory_persistence = keep`): data segments are not
        /// placed and the heap is grown to the new module's initial size; globals start anew.
        keep_heap: bool,
    },
    /// `canister_update NAME`.
    Update(String),
    /// `canister_query NAME` or `canister_composite_query NAME`, not replicated: changes are dropped. The
    /// calls of a composite query are for [`query::evaluate`](crate::query::evaluate) to make.
    Query(String),
    /// `canister_query NAME` called as an update: replicated, changes are dropped, cycles are not.
    ReplicatedQuery(String),
    /// `canister_inspect_message` for the method.
    Inspect(String),
    /// `canister_global_timer`.
    GlobalTimer,
    /// `canister_heartbeat`.
    Heartbeat,
    /// `canister_on_low_wasm_memory`.
    LowWasmMemory,
    /// The callback of a call that was replied to; the reply is the argument.
    Reply(Closure),
    /// The callback of a call that was rejected.
    Reject(Closure, Rejection),
    /// What a call asked for in case its callback traps; with the rejection, if that was the callback of
    /// one.
    Cleanup(Closure, Option<Rejection>),
}

/// Why a call was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    /// 1 `SYS_FATAL` to 6 `SYS_UNKNOWN`.
    pub code: u8,
    /// For people.
    pub message: String,
}

/// As callers see the error of whom they called.
impl From<&ExecutionError> for Rejection {
    fn from(error: &ExecutionError) -> Self {
        Self {
            // The first of three digits.
            code: (error.code / 100) as u8,
            message: error.to_string(),
        }
    }
}

/// What a caller's identity says about them (`sender_info`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerInfo {
    /// What is said.
    #[serde(with = "serde_bytes")]
    pub data: Vec<u8>,
    /// Which canister signed it.
    pub signer: Principal,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Call {
    /// Where it enters.
    pub entry: EntryPoint,
    /// Who sent it; in callbacks, who sent the call that the call context is about.
    pub caller: Principal,
    /// What is known about them.
    pub caller_info: Option<CallerInfo>,
    /// Its argument, or the reply.
    pub argument: Vec<u8>,
    /// Cycles that came with the call and have not been accepted.
    pub cycles_available: Cycles,
    /// Cycles that came back with the response.
    pub cycles_refunded: Cycles,
    /// When the caller stops waiting, nanoseconds since 1970; 0: never.
    pub deadline_ns: u64,
    /// Whether the call context has been answered.
    pub answered: bool,
    /// Instructions of the call context's earlier messages.
    pub context_instructions: Instructions,
}

impl Call {
    /// A message without cycles in a call context of its own.
    #[must_use]
    pub fn new(entry: EntryPoint, caller: Principal, argument: Vec<u8>) -> Self {
        Self {
            entry,
            caller,
            caller_info: None,
            argument,
            cycles_available: 0,
            cycles_refunded: 0,
            deadline_ns: 0,
            answered: false,
            context_instructions: 0,
        }
    }
}

/// How a message answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// `msg_reply`.
    Reply(Vec<u8>),
    /// `msg_reject`, with its text.
    Reject(String),
    /// Neither: an update or a callback that leaves the answer to a later callback, if there will be one.
    None,
}

/// A call to another canister (`ic0.call_perform`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutgoingCall {
    /// Whom it is for.
    pub callee: Principal,
    /// The method.
    pub method: String,
    /// Its argument.
    pub argument: Vec<u8>,
    /// Cycles that go with it.
    pub cycles: Cycles,
    /// After how many seconds the caller stops waiting; `None`: a response is guaranteed.
    pub timeout_seconds: Option<u32>,
    /// Runs when a reply arrives.
    pub on_reply: Closure,
    /// Runs when a rejection arrives.
    pub on_reject: Closure,
    /// Runs when either traps.
    pub on_cleanup: Option<Closure>,
    /// What the response's transmission and execution may cost at most; what they do not cost
    /// comes back.
    pub prepaid: Cycles,
}

/// What a message changed; to be applied as a whole or dropped.
#[derive(Clone, Debug)]
pub struct Effects {
    /// The heap after it.
    pub heap: Heap,
    /// Mutable globals after it.
    pub globals: Vec<GlobalValue>,
    /// Stable memory after it.
    pub stable: PagedMemory,
    /// Certified data, if set.
    pub certified_data: Option<Vec<u8>>,
    /// Global timer, if set.
    pub global_timer_ns: Option<u64>,
    /// Sessions started or changed (`None`: closed), by id; new ids follow
    /// [`SessionIds`](crate::session::SessionIds).
    pub sessions: BTreeMap<u64, Option<SessionState>>,
    /// Whether `accept_message` was called.
    pub accepted: bool,
    /// Calls made, in order.
    pub calls: Vec<OutgoingCall>,
    /// Of the call's cycles, those that went to the canister.
    pub cycles_accepted: Cycles,
    /// What left the canister: burned, sent with calls, and the fees of calls with what they prepay.
    pub cycles_spent: Cycles,
}

impl Effects {
    /// Those of a message that did nothing.
    #[must_use]
    pub fn none(heap: Heap, globals: Vec<GlobalValue>, stable: PagedMemory) -> Self {
        Self {
            heap,
            globals,
            stable,
            certified_data: None,
            global_timer_ns: None,
            sessions: BTreeMap::new(),
            accepted: false,
            calls: Vec::new(),
            cycles_accepted: 0,
            cycles_spent: 0,
        }
    }
}
