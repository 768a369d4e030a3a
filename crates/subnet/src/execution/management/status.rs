//! What a canister is and what it uses.
use super::{check_controller, decode, encode};
use crate::{
    execution::not_found,
    state::{Reject, ReplicatedState},
};
use candid::Nat;
use ic_management_canister_types::{
    CanisterIdRecord, CanisterStatusResult, CanisterStatusType, DefiniteCanisterSettings,
    MemoryMetrics, QueryStats,
};
use ic_principal::Principal;
use lockstep_canister::state::RunState;

pub(super) fn canister_status(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let id = decode::<CanisterIdRecord>(argument)?.canister_id;
    let canister = state.canisters().get(&id).ok_or_else(|| not_found(&id))?;
    check_controller(&canister.state, sender)?;
    let installed = canister.state.installed.as_ref();
    let heap = canister.state.heap_bytes();
    let code = installed.map_or(0, |installed| installed.module.wasm().len() as u64);
    let stable = canister.state.stable_bytes();
    let settings = DefiniteCanisterSettings {
        controllers: canister.state.controllers.iter().copied().collect(),
        ..DefiniteCanisterSettings::default()
    };
    Ok(encode(&CanisterStatusResult {
        status: match canister.state.run_state {
            RunState::Running => CanisterStatusType::Running,
            RunState::Stopping => CanisterStatusType::Stopping,
            RunState::Stopped => CanisterStatusType::Stopped,
        },
        ready_for_migration: false,
        version: canister.state.version,
        settings,
        module_hash: installed.map(|installed| installed.module.hash().to_vec()),
        memory_size: Nat::from(canister.state.memory_bytes()),
        memory_metrics: MemoryMetrics {
            wasm_memory_size: heap.into(),
            stable_memory_size: stable.into(),
            global_memory_size: Nat::from(0_u8),
            wasm_binary_size: code.into(),
            custom_sections_size: Nat::from(0_u8),
            canister_history_size: Nat::from(0_u8),
            wasm_chunk_store_size: Nat::from(0_u8),
            snapshots_size: Nat::from(0_u8),
            log_memory_store_size: Nat::from(0_u8),
        },
        cycles: canister.state.cycles.into(),
        reserved_cycles: Nat::from(0_u8),
        idle_cycles_burned_per_day: Nat::from(0_u8),
        query_stats: QueryStats {
            num_calls_total: Nat::from(0_u8),
            num_instructions_total: Nat::from(0_u8),
            request_payload_bytes_total: Nat::from(0_u8),
            response_payload_bytes_total: Nat::from(0_u8),
        },
    }))
}
