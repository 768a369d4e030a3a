//! What everybody may know about canisters and the subnet.
use super::{check_controller, decode, encode, find};
use crate::state::{
    Change, ChangeDetails, Deployment, Originator, Reject, ReplicatedState, SnapshotSource,
    canister_id, canister_index,
};
use candid::Reserved;
use ic_management_canister_types as interface;
use ic_management_canister_types::{
    CanisterIdRange, CanisterInfoArgs, CanisterInfoResult, CanisterMetadataArgs,
    CanisterMetadataResult, ChangeOrigin, CodeDeploymentMode, CodeDeploymentRecord,
    ControllersChangeRecord, CreationRecord, FromCanisterRecord, FromUserRecord,
    ListCanistersResult, LoadSnapshotRecord, SubnetInfoArgs, SubnetInfoResult, SubnetMetricsArgs,
    SubnetMetricsResult,
};
use ic_principal::Principal;
use std::collections::BTreeSet;

/// There is no registry whose version could change.
const REGISTRY_VERSION: u64 = 1;
/// Instructions in the unit of the subnet's metrics.
const MILLION: u64 = 1_000_000;

pub(super) fn canister_info(state: &ReplicatedState, argument: &[u8]) -> Result<Vec<u8>, Reject> {
    let arguments: CanisterInfoArgs = decode(argument)?;
    let canister = find(state, &arguments.canister_id)?;
    let changes = &canister.ledger.changes;
    let requested = arguments.num_requested_changes.unwrap_or(0);
    let installed = canister.state.installed.as_ref();
    Ok(encode(&CanisterInfoResult {
        total_num_changes: changes.total(),
        recent_changes: changes.recent(requested).map(change).collect(),
        module_hash: installed.map(|installed| installed.module.hash().to_vec()),
        controllers: list(&canister.state.controllers),
    }))
}

fn list(principals: &BTreeSet<Principal>) -> Vec<Principal> {
    principals.iter().copied().collect()
}

fn change(change: &Change) -> interface::Change {
    interface::Change {
        timestamp_nanos: change.time_ns,
        canister_version: change.canister_version,
        origin: match change.originator {
            Originator::User(user_id) => ChangeOrigin::FromUser(FromUserRecord { user_id }),
            Originator::Canister { id, version } => {
                ChangeOrigin::FromCanister(FromCanisterRecord {
                    canister_id: id,
                    canister_version: version,
                })
            }
        },
        details: Some(details(&change.details)),
    }
}

fn details(details: &ChangeDetails) -> interface::ChangeDetails {
    use interface::ChangeDetails as Details;
    match details {
        ChangeDetails::Creation {
            controllers,
            environment_hash,
        } => Details::Creation(CreationRecord {
            controllers: list(controllers),
            environment_variables_hash: environment_hash.map(|hash| hash.to_vec()),
        }),
        ChangeDetails::CodeUninstall => Details::CodeUninstall,
        ChangeDetails::CodeDeployment { mode, module_hash } => {
            Details::CodeDeployment(CodeDeploymentRecord {
                mode: match mode {
                    Deployment::Install => CodeDeploymentMode::Install,
                    Deployment::Reinstall => CodeDeploymentMode::Reinstall,
                    Deployment::Upgrade => CodeDeploymentMode::Upgrade,
                },
                module_hash: module_hash.to_vec(),
            })
        }
        ChangeDetails::LoadSnapshot {
            from,
            snapshot,
            canister_version,
            taken_at_ns,
            source,
        } => Details::LoadSnapshot(LoadSnapshotRecord {
            from_canister_id: *from,
            snapshot_id: snapshot.as_bytes().to_vec(),
            canister_version: *canister_version,
            taken_at_timestamp: *taken_at_ns,
            source: snapshot_source(*source),
        }),
        ChangeDetails::ControllersChange { controllers } => {
            Details::ControllersChange(ControllersChangeRecord {
                controllers: list(controllers),
            })
        }
    }
}

pub(super) fn snapshot_source(source: SnapshotSource) -> interface::SnapshotSource {
    match source {
        SnapshotSource::Canister => interface::SnapshotSource::TakenFromCanister(Reserved),
        SnapshotSource::Upload => interface::SnapshotSource::MetadataUpload(Reserved),
    }
}

pub(super) fn canister_metadata(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let CanisterMetadataArgs { canister_id, name } = decode(argument)?;
    let canister = find(state, &canister_id)?;
    let Some(installed) = &canister.state.installed else {
        let text = format!("The canister {canister_id} has no module installed.");
        return Err(Reject::new(537, text));
    };
    let Some((is_public, content)) = installed.module.metadata().get(&name) else {
        let text =
            format!("The canister {canister_id} has no metadata section with the name {name}.");
        return Err(Reject::new(406, text));
    };
    if !is_public {
        check_controller(&canister.state, sender)?;
    }
    Ok(encode(&CanisterMetadataResult {
        value: content.clone(),
    }))
}

/// The ids of all canisters, in ranges without gaps.
pub(super) fn list_canisters(state: &ReplicatedState, argument: &[u8]) -> Result<Vec<u8>, Reject> {
    candid::decode_args::<()>(argument)
        .map_err(|error| super::invalid_payload(&error.to_string()))?;
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for index in state.canisters().keys().filter_map(canister_index) {
        match ranges.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(index) => *end = index,
            _ => ranges.push((index, index)),
        }
    }
    let ranges = ranges.into_iter().map(|(start, end)| CanisterIdRange {
        start: canister_id(start),
        end: canister_id(end),
    });
    Ok(encode(&ListCanistersResult {
        canisters: ranges.collect(),
    }))
}

fn check_subnet(state: &ReplicatedState, id: &Principal) -> Result<(), Reject> {
    if *id == state.genesis.subnet_id {
        return Ok(());
    }
    Err(Reject::new(404, format!("Subnet {id} not found")))
}

pub(super) fn subnet_info(state: &ReplicatedState, argument: &[u8]) -> Result<Vec<u8>, Reject> {
    check_subnet(state, &decode::<SubnetInfoArgs>(argument)?.subnet_id)?;
    Ok(encode(&SubnetInfoResult {
        replica_version: format!("lockstep-{}", state.protocol_version(state.height)),
        registry_version: REGISTRY_VERSION,
    }))
}

/// Messages and instructions are those of the heights before.
pub(super) fn subnet_metrics(state: &ReplicatedState, argument: &[u8]) -> Result<Vec<u8>, Reject> {
    check_subnet(state, &decode::<SubnetMetricsArgs>(argument)?.subnet_id)?;
    Ok(encode(&SubnetMetricsResult {
        block_height: state.height.into(),
        num_canisters: state.canisters().len().into(),
        canister_state_bytes: state.canister_bytes().into(),
        consumed_cycles_total: state.cycles_consumed().into(),
        update_transactions_total: state.metrics.messages.into(),
        million_round_instructions_total: state.metrics.instructions.div_ceil(MILLION).into(),
    }))
}
