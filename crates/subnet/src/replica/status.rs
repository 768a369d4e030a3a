//! What a replica says about itself.
use super::{Certified, Replica, lock};
use crate::execution::Outcome;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Work of this replica itself since its start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    blocks: AtomicU64,
    calls: AtomicU64,
    queries: AtomicU64,
    instructions: AtomicU64,
    session_work: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, outcome: &Outcome) {
        self.blocks.fetch_add(1, Relaxed);
        self.calls.fetch_add(outcome.calls, Relaxed);
        self.instructions.fetch_add(outcome.instructions, Relaxed);
        self.session_work.fetch_add(outcome.work, Relaxed);
    }

    pub(super) fn add_query(&self) {
        self.queries.fetch_add(1, Relaxed);
    }
}

/// A replica's condition, for people. Digests are in hexadecimal, principals in their text form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The node.
    pub node_id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// The last executed height.
    pub executed_height: u64,
    /// Root of the state tree after it.
    pub executed_root: String,
    /// BLAKE3 of the state after it.
    pub executed_state: String,
    /// Its time, nanoseconds since 1970.
    pub executed_time_ns: u64,
    /// The epoch of that height.
    pub epoch: u64,
    /// The version of the protocol by which it was executed.
    pub protocol_version: u64,
    /// The last certified height; 0 until one has been certified since the start.
    pub certified_height: u64,
    /// Root of the state tree after it.
    pub certified_root: Option<String>,
    /// Digest of its block.
    pub certified_block: Option<String>,
    /// Canisters.
    pub canisters: usize,
    /// Generation sessions.
    pub sessions: usize,
    /// Sessions that are being worked on.
    pub sessions_running: usize,
    /// Calls that wait to be ordered.
    pub mempool_calls: usize,
    /// Blocks executed by this replica since its start.
    pub blocks_executed: u64,
    /// Calls executed by this replica since its start.
    pub calls_executed: u64,
    /// Queries answered by this replica since its start.
    pub queries_answered: u64,
    /// Instructions of the time that messages took on this replica since its start.
    pub instructions_executed: u64,
    /// Multiply-accumulates done for sessions by this replica since its start.
    pub session_work_done: u64,
    /// Why the replica has halted, if it has.
    pub halted: Option<String>,
    /// What came of the last divergence since the start.
    pub divergence: Option<String>,
}

impl Replica {
    /// The replica's condition.
    #[must_use]
    pub fn status(&self) -> Status {
        let executed = self.executed();
        let certified = self.certified();
        let state = &executed.state;
        let counters = &self.counters;
        let text = |bytes: &[u8; 32]| hex::encode(bytes);
        let sessions = &state.sessions.sessions;
        Status {
            node_id: self.node_id.to_text(),
            subnet_id: self.genesis.subnet_id.to_text(),
            executed_height: state.height,
            executed_root: text(executed.tree.digest()),
            executed_state: hex::encode(
                executed
                    .tree
                    .value(&[b"lockstep", b"state"])
                    .unwrap_or_default(),
            ),
            executed_time_ns: state.time_ns,
            epoch: state.epoch(),
            protocol_version: state.protocol_version(state.height),
            certified_height: certified.as_ref().map_or(0, Certified::height),
            certified_root: certified
                .as_ref()
                .map(|latest| text(latest.executed.tree.digest())),
            certified_block: certified
                .as_ref()
                .map(|latest| text(&latest.executed.block)),
            canisters: state.canisters().len(),
            sessions: sessions.len(),
            sessions_running: sessions
                .values()
                .filter(|session| session.runnable())
                .count(),
            mempool_calls: lock(&self.mempool).len(),
            blocks_executed: counters.blocks.load(Relaxed),
            calls_executed: counters.calls.load(Relaxed),
            queries_answered: counters.queries.load(Relaxed),
            instructions_executed: counters.instructions.load(Relaxed),
            session_work_done: counters.session_work.load(Relaxed),
            halted: self.halted().map(str::to_owned),
            divergence: self.divergence(),
        }
    }
}
