//! What canisters use, for people: sizes and balances, never contents.
use super::{Replica, lock, recent::Recent};
use crate::state::Canister;
use ic_principal::Principal;
use lockstep_canister::state::RunState;
use serde::Serialize;
use std::ops::Bound;

/// Most canisters of a [`CanisterPage`].
pub const CANISTERS_PER_PAGE_MAX: usize = 200;

/// A canister after the last executed height. Cycles are in decimal, as text, because they exceed what JSON numbers
/// hold exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CanisterSummary {
    /// Its id.
    pub id: String,
    /// `running`, `stopping` or `stopped`.
    pub status: &'static str,
    /// SHA-256 of its module, in hexadecimal; nothing: it has no code.
    pub module_hash: Option<String>,
    /// Its version.
    pub version: u64,
    /// Who controls it.
    pub controllers: Vec<String>,
    /// Bytes of its heap.
    pub heap_bytes: u64,
    /// Bytes of its stable memory.
    pub stable_bytes: u64,
    /// Bytes that it is charged for in all.
    pub memory_bytes: u64,
    /// Its balance.
    pub cycles: String,
    /// Cycles that it has consumed since its creation.
    pub cycles_consumed: String,
    /// Instructions of its messages that this replica has executed since its start; those of installations and of
    /// queries are not counted.
    pub instructions_executed: u64,
}

/// Some canisters, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CanisterPage {
    /// The height they are shown at.
    pub height: u64,
    /// How many there are in all.
    pub total: usize,
    /// These.
    pub canisters: Vec<CanisterSummary>,
    /// The last one's id, if others follow: what to ask with for the next page.
    pub next: Option<String>,
}

impl Replica {
    /// The canisters behind `after` in the order of their ids, at most `count` of them and [`CANISTERS_PER_PAGE_MAX`].
    #[must_use]
    pub fn canisters(&self, after: Option<&Principal>, count: usize) -> CanisterPage {
        let executed = self.executed();
        let all = executed.state.canisters();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut following = all.range::<Principal, _>((from, Bound::Unbounded));
        let recent = lock(&self.recent);
        let canisters: Vec<CanisterSummary> = following
            .by_ref()
            .take(count.min(CANISTERS_PER_PAGE_MAX))
            .map(|(_, canister)| summary(canister, &recent))
            .collect();
        let others_follow = following.next().is_some();
        let last = canisters.last().map(|canister| canister.id.clone());
        CanisterPage {
            height: executed.state.height,
            total: all.len(),
            canisters,
            next: last.filter(|_| others_follow),
        }
    }

    /// A canister; nothing if there is none of that id.
    #[must_use]
    pub fn canister(&self, id: &Principal) -> Option<CanisterSummary> {
        let executed = self.executed();
        let canister = executed.state.canisters().get(id)?;
        Some(summary(canister, &lock(&self.recent)))
    }
}

fn summary(canister: &Canister, recent: &Recent) -> CanisterSummary {
    let state = &canister.state;
    CanisterSummary {
        id: state.id.to_text(),
        status: match state.run_state {
            RunState::Running => "running",
            RunState::Stopping => "stopping",
            RunState::Stopped => "stopped",
        },
        module_hash: state
            .installed
            .as_ref()
            .map(|installed| hex::encode(installed.module.hash())),
        version: state.version,
        controllers: state.controllers.iter().map(Principal::to_text).collect(),
        heap_bytes: state.heap_bytes(),
        stable_bytes: state.stable_bytes(),
        memory_bytes: state.memory_bytes(),
        cycles: state.cycles.to_string(),
        cycles_consumed: canister.ledger.consumed.total().to_string(),
        instructions_executed: recent.instructions(&state.id),
    }
}
