//! What canisters have consumed and the subnet has done, since the start.
use lockstep_canister::engine::{Cycles, Instructions};
use serde::{Deserialize, Serialize};

/// Cycles that a canister has consumed, by what for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CyclesConsumed {
    /// Storage.
    pub memory: Cycles,
    /// Compute allocation.
    pub compute_allocation: Cycles,
    /// Taking in users' messages.
    pub ingress: Cycles,
    /// Executing.
    pub instructions: Cycles,
    /// Sending calls and taking in their responses.
    pub transmission: Cycles,
    /// What was left when it could no longer pay.
    pub uninstall: Cycles,
    /// Its creation.
    pub creation: Cycles,
    /// Burned by itself.
    pub burned: Cycles,
}

impl CyclesConsumed {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> Cycles {
        [
            self.memory,
            self.compute_allocation,
            self.ingress,
            self.instructions,
            self.transmission,
            self.uninstall,
            self.creation,
            self.burned,
        ]
        .into_iter()
        .fold(0, Cycles::saturating_add)
    }
}

/// What the subnet has done up to the last height.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetMetrics {
    /// Cycles that canisters consumed which are deleted, what they had left included.
    pub consumed_by_deleted: Cycles,
    /// Messages executed.
    pub messages: u64,
    /// Instructions of the time that they took.
    pub instructions: Instructions,
}
