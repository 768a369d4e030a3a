//! What a replica remembers of the blocks that it executed last, for people.
//!
//! # Design
//! A ring of [`RECENT_BLOCKS_MAX`] blocks, and a count of instructions for every canister that exists. Nothing of it is
//! replicated or stored: it begins anew with the process.
use super::{Executed, Replica, lock};
use crate::{application::FinalizedBlock, execution::Outcome};
use ic_principal::Principal;
use lockstep_canister::{engine::Instructions, models::Work};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// Blocks that are remembered.
pub const RECENT_BLOCKS_MAX: usize = 128;

/// A block that this replica has executed. Digests are in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecentBlock {
    /// Its height.
    pub height: u64,
    /// The time of the state after it, nanoseconds since 1970.
    pub time_ns: u64,
    /// Its digest.
    pub digest: String,
    /// Root of the state tree after it, as this replica computed it.
    pub root: String,
    /// Whether a certificate of this height or a later one has come.
    pub certified: bool,
    /// Calls of users that it carries.
    pub calls: u64,
    /// Messages and tasks that were executed, calls between canisters included.
    pub messages: u64,
    /// Instructions of the time that they took.
    pub instructions: u64,
    /// Multiply-accumulates done for sessions.
    pub session_work: u64,
}

/// What a block took.
#[derive(Debug)]
pub(super) struct Took {
    calls: u64,
    messages: u64,
    instructions: Instructions,
    work: Work,
    by_canister: BTreeMap<Principal, Instructions>,
}

impl Took {
    pub(super) fn of(block: &FinalizedBlock, outcome: &Outcome) -> Self {
        Self {
            calls: block.payload.messages.len() as u64,
            messages: outcome.calls,
            instructions: outcome.instructions,
            work: outcome.work,
            by_canister: outcome.by_canister.clone(),
        }
    }
}

#[derive(Debug)]
struct Remembered {
    height: u64,
    time_ns: u64,
    digest: [u8; 32],
    root: [u8; 32],
    took: Took,
}

/// The last blocks, and what canisters have executed since the start.
#[derive(Debug, Default)]
pub(super) struct Recent {
    blocks: VecDeque<Remembered>,
    instructions: BTreeMap<Principal, Instructions>,
}

impl Recent {
    /// Adds the block that led to a state.
    pub(super) fn add(&mut self, mut took: Took, executed: &Executed) {
        let canisters = executed.state.canisters();
        for (id, instructions) in std::mem::take(&mut took.by_canister) {
            let sum = self.instructions.entry(id).or_default();
            *sum = sum.saturating_add(instructions);
        }
        if self.instructions.len() > canisters.len() {
            self.instructions.retain(|id, _| canisters.contains_key(id));
        }
        if self.blocks.len() == RECENT_BLOCKS_MAX {
            self.blocks.pop_front();
        }
        self.blocks.push_back(Remembered {
            height: executed.state.height,
            time_ns: executed.state.time_ns,
            digest: executed.block,
            root: *executed.tree.digest(),
            took,
        });
    }

    /// Instructions of a canister's messages since the start.
    pub(super) fn instructions(&self, id: &Principal) -> Instructions {
        self.instructions.get(id).copied().unwrap_or(0)
    }
}

impl Replica {
    /// The last blocks beyond a height, oldest first, at most `count` of them and [`RECENT_BLOCKS_MAX`].
    #[must_use]
    pub fn recent_blocks(&self, after: u64, count: usize) -> Vec<RecentBlock> {
        let certified_height = self.certified_height();
        let recent = lock(&self.recent);
        let newest_first = recent.blocks.iter().rev();
        let mut blocks: Vec<RecentBlock> = newest_first
            .take_while(|block| block.height > after)
            .take(count)
            .map(|block| RecentBlock {
                height: block.height,
                time_ns: block.time_ns,
                digest: hex::encode(block.digest),
                root: hex::encode(block.root),
                certified: block.height <= certified_height,
                calls: block.took.calls,
                messages: block.took.messages,
                instructions: block.took.instructions,
                session_work: block.took.work,
            })
            .collect();
        blocks.reverse();
        blocks
    }
}
