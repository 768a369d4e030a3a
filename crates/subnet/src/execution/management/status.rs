//! What a canister is, what it uses and what it has consumed.
//!
//! Queries are executed by one replica each, so that nothing about them is replicated: statistics of
//! queries are zero.
use super::{check_controller, decode, encode, find, settings};
use crate::state::{Canister, Reject, ReplicatedState};
use candid::Nat;
use ic_management_canister_types::{
    CanisterIdRecord, CanisterMetricsResult, CanisterStatusResult, CanisterStatusType,
    CyclesConsumed, MemoryMetrics, QueryStats,
};
use ic_principal::Principal;
use lockstep_canister::state::RunState;

/// A day, nanoseconds.
const DAY_NS: u64 = 86_400_000_000_000;

pub(super) fn canister_status(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let id = decode::<CanisterIdRecord>(argument)?.canister_id;
    let canister = find(state, &id)?;
    let visibility = &canister.state.settings.status_visibility;
    if *sender != id && !canister.state.shows(visibility, sender) {
        check_controller(&canister.state, sender)?;
    }
    let installed = canister.state.installed.as_ref();
    let none = || Nat::from(0_u8);
    let prices = state.genesis.prices();
    Ok(encode(&CanisterStatusResult {
        status: match canister.state.run_state {
            RunState::Running => CanisterStatusType::Running,
            RunState::Stopping => CanisterStatusType::Stopping,
            RunState::Stopped => CanisterStatusType::Stopped,
        },
        // There is no other subnet to go to.
        ready_for_migration: false,
        version: canister.state.version,
        settings: settings::definite(&canister.state),
        module_hash: installed.map(|installed| installed.module.hash().to_vec()),
        memory_size: canister.state.memory_bytes().into(),
        memory_metrics: memory_metrics(canister),
        cycles: canister.state.cycles.into(),
        reserved_cycles: none(),
        idle_cycles_burned_per_day: canister.state.idle_cycles(prices, DAY_NS).into(),
        query_stats: QueryStats {
            num_calls_total: none(),
            num_instructions_total: none(),
            request_payload_bytes_total: none(),
            response_payload_bytes_total: none(),
        },
    }))
}

/// Parts of the canister's memory; their sum is its size.
fn memory_metrics(canister: &Canister) -> MemoryMetrics {
    let installed = canister.state.installed.as_ref();
    let code = installed.map_or(0, |installed| installed.module.wasm().len() as u64);
    MemoryMetrics {
        wasm_memory_size: canister.state.heap_bytes().into(),
        stable_memory_size: canister.state.stable_bytes().into(),
        global_memory_size: canister.globals_bytes().into(),
        wasm_binary_size: code.into(),
        custom_sections_size: canister.sections_bytes().into(),
        canister_history_size: canister.ledger.changes.bytes().into(),
        wasm_chunk_store_size: canister.stored.chunks.bytes().into(),
        snapshots_size: canister.stored.snapshots_bytes().into(),
        log_memory_store_size: canister.ledger.log.bytes().into(),
    }
}

pub(super) fn canister_metrics(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let id = decode::<CanisterIdRecord>(argument)?.canister_id;
    let canister = find(state, &id)?;
    check_controller(&canister.state, sender)?;
    let consumed = &canister.ledger.consumed;
    Ok(encode(&CanisterMetricsResult {
        cycles_consumed: CyclesConsumed {
            memory: consumed.memory.into(),
            compute_allocation: consumed.compute_allocation.into(),
            ingress_induction: consumed.ingress.into(),
            instructions: consumed.instructions.into(),
            request_and_response_transmission: consumed.transmission.into(),
            uninstall: consumed.uninstall.into(),
            canister_creation: consumed.creation.into(),
            // The subnet makes none.
            http_outcalls: Nat::from(0_u8),
            burned_cycles: consumed.burned.into(),
        },
    }))
}
