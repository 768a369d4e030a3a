//! What canisters may use: memory and compute of the subnet, as far as their cycles go.
//!
//! # Design
//! No cycles are reserved for memory: the Internet Computer does that on subnets that are short of it,
//! and this one does not get there. Compute allocations are at most what lanes have, so that each canister can be
//! given the turns that it pays for.
use super::Manager;
use crate::{
    execution::round::SUBNET_MEMORY_BYTES,
    state::{Canister, Reject, ReplicatedState},
};
use lockstep_canister::{engine::Cycles, state::CanisterState};

/// Percent of a core that canisters may have allocated on each lane.
const LANE_PERCENT: u64 = 100;

impl Manager<'_> {
    /// Puts a changed canister, or a new one, in its place: if the subnet has what it takes more, and the
    /// canister can pay for that.
    pub(super) fn admit(&mut self, mut canister: Canister) -> Result<(), Reject> {
        canister.account();
        let id = canister.state.id;
        let before = self.state.canisters().get(&id);
        let before = before.map(AsRef::as_ref);
        check_subnet(
            self.state,
            before.map(|before| &before.state),
            &canister.state,
        )?;
        check_cycles(self.state, before, &canister)?;
        self.state.insert_canister(canister);
        Ok(())
    }
}

/// Bytes that the subnet keeps for a canister.
fn kept_bytes(canister: &CanisterState) -> u64 {
    canister
        .memory_bytes()
        .max(canister.settings.memory_allocation)
}

/// Bytes by which canisters may grow.
pub(in crate::execution) fn memory_available(state: &ReplicatedState) -> u64 {
    let canisters = state.canisters().values();
    let kept = canisters.map(|canister| kept_bytes(&canister.state));
    SUBNET_MEMORY_BYTES.saturating_sub(kept.fold(0, u64::saturating_add))
}

fn check_subnet(
    state: &ReplicatedState,
    before: Option<&CanisterState>,
    after: &CanisterState,
) -> Result<(), Reject> {
    let requested = kept_bytes(after).saturating_sub(before.map_or(0, kept_bytes));
    if requested > 0 {
        let available = memory_available(state);
        if requested > available {
            let text = format!(
                "Canister requested {requested} bytes of memory but only {available} bytes are available in the subnet."
            );
            return Err(Reject::new(101, text));
        }
    }
    let allocation = after.settings.compute_allocation;
    if allocation > before.map_or(0, |before| before.settings.compute_allocation) {
        let others = state.canisters().values();
        let others = others.filter(|other| other.state.id != after.id);
        let allocated: u64 = others
            .map(|other| u64::from(other.state.settings.compute_allocation))
            .sum();
        let capacity = LANE_PERCENT * u64::from(state.genesis.scheduler_lanes.get());
        let available = capacity.saturating_sub(allocated);
        if u64::from(allocation) > available {
            let text = format!(
                "Canister requested a compute allocation of {allocation}% which cannot be satisfied because the Subnet's remaining compute capacity is {available}%."
            );
            return Err(Reject::new(101, text));
        }
    }
    Ok(())
}

/// A canister that takes more than before must not freeze by that.
fn check_cycles(
    state: &ReplicatedState,
    before: Option<&Canister>,
    after: &Canister,
) -> Result<(), Reject> {
    let threshold = after.state.frozen_cycles(state.genesis.prices());
    if after.state.cycles >= threshold {
        return Ok(());
    }
    let missing = threshold - after.state.cycles;
    let (old_compute, old_allocation) = before.map_or((0, 0), |before| {
        let settings = &before.state.settings;
        (settings.compute_allocation, settings.memory_allocation)
    });
    let settings = &after.state.settings;
    let refused = |code, what: String| Err(insufficient(code, &what, missing));
    if settings.compute_allocation > old_compute {
        let percent = settings.compute_allocation;
        return refused(
            530,
            format!("Cannot increase compute allocation to {percent}%"),
        );
    }
    if settings.memory_allocation > old_allocation {
        let bytes = settings.memory_allocation;
        return refused(
            531,
            format!("Cannot increase memory allocation to {bytes} bytes"),
        );
    }
    let grown = content_bytes(after).saturating_sub(before.map_or(0, content_bytes));
    if grown > 0 {
        return refused(532, format!("Canister cannot grow memory by {grown} bytes"));
    }
    Ok(())
}

/// Bytes of what was put into a canister, without the records about it: those grow whatever it can pay.
fn content_bytes(canister: &Canister) -> u64 {
    let ledger = &canister.ledger;
    canister.state.memory_bytes() - ledger.changes.bytes() - ledger.log.bytes()
}

fn insufficient(code: u16, what: &str, missing: Cycles) -> Reject {
    let text = format!(
        "{what} due to insufficient cycles. At least {missing} additional cycles are required."
    );
    Reject::new(code, text)
}
