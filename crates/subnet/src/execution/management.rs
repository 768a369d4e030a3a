//! The management canister `aaaaa-aa`, as far as this subnet has it.
//!
//! # Design
//! Canisters are created by any user with [`DEFAULT_CYCLES`]; cycles are shown, not charged.
//! Settings other than controllers are accepted and have no effect. A canister stops at once, since
//! none of its messages can be under way between two others.
use super::{INSTALL_INSTRUCTIONS, environment, no_code, not_found};
use crate::{
    ingress::Ingress,
    state::{Canister, Reject, ReplicatedState, is_canister_id},
};
use candid::{CandidType, DecoderConfig, Nat, utils::decode_one_with_config};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, CanisterSettings, CanisterStatusResult,
    CanisterStatusType, CreateCanisterArgs, DefiniteCanisterSettings, InstallCodeArgs,
    MemoryMetrics, ProvisionalCreateCanisterWithCyclesArgs, QueryStats, UninstallCodeArgs,
    UpdateSettingsArgs, WasmMemoryPersistence,
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Instructions, Module},
    heap::PAGE_BYTES,
    memory::{Paged, PagedMemory},
    session::Sessions,
    state::{CanisterState, Installed},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeSet, sync::Arc};

/// Cycles of a new canister that asks for no other amount.
pub const DEFAULT_CYCLES: u128 = 100_000_000_000_000;
/// Most controllers of a canister.
const CONTROLLERS_MAX: usize = 10;

/// Which canister's address a call to the management canister is sent to; `None`: any.
///
/// # Errors
/// The rejection of an argument that names none.
pub fn effective_canister(method: &str, argument: &[u8]) -> Result<Option<Principal>, Reject> {
    match method {
        "create_canister" | "provisional_create_canister_with_cycles" | "raw_rand" => Ok(None),
        _ => Ok(Some(decode::<CanisterIdRecord>(argument)?.canister_id)),
    }
}

/// Executes a call.
pub(super) fn update(
    state: &mut ReplicatedState,
    engine: &Engine,
    call: &Ingress,
) -> (Result<Vec<u8>, Reject>, Instructions) {
    let mut instructions = 0;
    let result = match call.method.as_str() {
        "install_code" => install_code(state, engine, call, &mut instructions),
        _ => settings_call(state, call),
    };
    (result, instructions)
}

/// Executes a query.
///
/// # Errors
/// The rejection.
pub fn query(
    state: &ReplicatedState,
    sender: &Principal,
    method: &str,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    match method {
        "canister_status" => canister_status(state, sender, argument),
        _ => Err(no_method(method)),
    }
}

fn settings_call(state: &mut ReplicatedState, call: &Ingress) -> Result<Vec<u8>, Reject> {
    let (sender, argument) = (&call.sender, call.argument.as_slice());
    match call.method.as_str() {
        "provisional_create_canister_with_cycles" => {
            let arguments: ProvisionalCreateCanisterWithCyclesArgs = decode(argument)?;
            let cycles = match arguments.amount {
                Some(amount) => {
                    u128::try_from(amount.0).map_err(|_| invalid_payload("amount is too large"))?
                }
                None => DEFAULT_CYCLES,
            };
            create(
                state,
                sender,
                arguments.settings,
                cycles,
                arguments.specified_id,
            )
        }
        "create_canister" => {
            let arguments: CreateCanisterArgs = decode(argument)?;
            create(state, sender, arguments.settings, DEFAULT_CYCLES, None)
        }
        "update_settings" => {
            let arguments: UpdateSettingsArgs = decode(argument)?;
            let controllers = controllers(Some(arguments.settings))?;
            let canister = controlled(state, sender, &arguments.canister_id)?;
            if let Some(controllers) = controllers {
                canister.state.controllers = controllers;
            }
            canister.state.version += 1;
            Ok(nothing())
        }
        "start_canister" | "stop_canister" => {
            let canister = controlled(
                state,
                sender,
                &decode::<CanisterIdRecord>(argument)?.canister_id,
            )?;
            canister.stopped = call.method == "stop_canister";
            canister.state.version += 1;
            Ok(nothing())
        }
        "uninstall_code" => {
            let id = decode::<UninstallCodeArgs>(argument)?.canister_id;
            let canister = controlled(state, sender, &id)?;
            clear(&mut canister.state);
            canister.state.version += 1;
            close_sessions(&mut state.sessions, &id);
            Ok(nothing())
        }
        "delete_canister" => {
            let id = decode::<CanisterIdRecord>(argument)?.canister_id;
            if !controlled(state, sender, &id)?.stopped {
                return Err(Reject::new(
                    510,
                    format!("Canister {id} must be stopped before it is deleted."),
                ));
            }
            state.remove_canister(&id);
            close_sessions(&mut state.sessions, &id);
            Ok(nothing())
        }
        "canister_status" => canister_status(state, sender, argument),
        method => Err(no_method(method)),
    }
}

fn create(
    state: &mut ReplicatedState,
    sender: &Principal,
    settings: Option<CanisterSettings>,
    cycles: u128,
    specified_id: Option<Principal>,
) -> Result<Vec<u8>, Reject> {
    let controllers = controllers(settings)?.unwrap_or_else(|| BTreeSet::from([*sender]));
    let canister_id = match specified_id {
        None => state.fresh_canister_id(),
        Some(id) if !is_canister_id(&id) => {
            return Err(invalid_payload(&format!(
                "specified_id is not within this subnet's canister ranges: {id}"
            )));
        }
        Some(id) if state.canisters().contains_key(&id) => {
            return Err(Reject::new(
                205,
                format!("Canister {id} is already installed"),
            ));
        }
        Some(id) => id,
    };
    state.insert_canister(Canister::new(CanisterState::new(
        canister_id,
        controllers,
        cycles,
    )));
    Ok(encode(&CanisterIdRecord { canister_id }))
}

fn install_code(
    state: &mut ReplicatedState,
    engine: &Engine,
    call: &Ingress,
    instructions: &mut Instructions,
) -> Result<Vec<u8>, Reject> {
    let arguments: InstallCodeArgs = decode(&call.argument)?;
    let id = arguments.canister_id;
    let old = &controlled(state, &call.sender, &id)?.state;
    let mut installation = Installation {
        canister: old.clone(),
        sessions: state.sessions.clone(),
        engine,
        caller: call.sender,
        instructions,
    };
    let module = || -> Result<Arc<Module>, Reject> {
        let invalid = |error| {
            format!("Error from Canister {id}: Canister's Wasm module is not valid: {error}")
        };
        engine
            .compile(&arguments.wasm_module)
            .map(Arc::new)
            .map_err(|error| Reject::new(505, invalid(error)))
    };
    match arguments.mode {
        CanisterInstallMode::Install if installation.canister.installed.is_some() => {
            let text = format!(
                "Canister {id} cannot be installed because the canister is not empty. Try installing with mode='reinstall' instead."
            );
            return Err(Reject::new(514, text));
        }
        CanisterInstallMode::Install | CanisterInstallMode::Reinstall => {
            let module = module()?;
            clear(&mut installation.canister);
            close_sessions(&mut installation.sessions, &id);
            installation.canister.installed = Some(Installed::new(module));
            installation.enter(state, EntryPoint::Init, arguments.arg)?;
        }
        CanisterInstallMode::Upgrade(flags) => {
            let flags = flags.unwrap_or_default();
            if flags.wasm_memory_persistence == Some(WasmMemoryPersistence::Keep) {
                return Err(invalid_payload(
                    "wasm_memory_persistence = keep is not supported by this subnet",
                ));
            }
            if installation.canister.installed.is_none() {
                return Err(no_code(&id));
            }
            let module = module()?;
            if flags.skip_pre_upgrade != Some(true) {
                installation.enter(state, EntryPoint::PreUpgrade, Vec::new())?;
            }
            installation.canister.global_timer_ns = 0;
            installation.canister.installed = Some(Installed::new(module));
            installation.enter(
                state,
                EntryPoint::PostUpgrade { keep_heap: false },
                arguments.arg,
            )?;
        }
    }
    let Installation {
        canister: mut new,
        sessions,
        ..
    } = installation;
    new.version += 1;
    state.canister_mut(&id).expect("it was there").state = new;
    state.sessions = sessions;
    Ok(nothing())
}

/// An installation under way: applied as a whole or dropped.
struct Installation<'call> {
    canister: CanisterState,
    sessions: Sessions,
    engine: &'call Engine,
    caller: Principal,
    instructions: &'call mut Instructions,
}

impl Installation<'_> {
    fn enter(
        &mut self,
        state: &ReplicatedState,
        entry: EntryPoint,
        argument: Vec<u8>,
    ) -> Result<(), Reject> {
        let call = Call::new(entry, self.caller, argument);
        let environment = environment(state, &self.sessions, INSTALL_INSTRUCTIONS);
        let execution = self.engine.execute(&self.canister, &call, &environment);
        *self.instructions += execution.time;
        let (_, effects) = execution.result?;
        self.canister.apply(&effects);
        self.sessions.apply(&effects.sessions);
        Ok(())
    }
}

fn canister_status(
    state: &ReplicatedState,
    sender: &Principal,
    argument: &[u8],
) -> Result<Vec<u8>, Reject> {
    let id = decode::<CanisterIdRecord>(argument)?.canister_id;
    let canister = state.canisters().get(&id).ok_or_else(|| not_found(&id))?;
    check_controller(&canister.state, sender)?;
    let bytes = |pages: u64| pages * PAGE_BYTES as u64;
    let installed = canister.state.installed.as_ref();
    let heap = installed.map_or(0, |installed| bytes(installed.heap.size_pages()));
    let code = installed.map_or(0, |installed| installed.module.wasm().len() as u64);
    let stable = bytes(canister.state.stable.size_pages());
    let settings = DefiniteCanisterSettings {
        controllers: canister.state.controllers.iter().copied().collect(),
        ..DefiniteCanisterSettings::default()
    };
    Ok(encode(&CanisterStatusResult {
        status: if canister.stopped {
            CanisterStatusType::Stopped
        } else {
            CanisterStatusType::Running
        },
        ready_for_migration: false,
        version: canister.state.version,
        settings,
        module_hash: installed.map(|installed| installed.module.hash().to_vec()),
        memory_size: Nat::from(heap + stable + code),
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

/// Removes code and memories.
fn clear(canister: &mut CanisterState) {
    canister.installed = None;
    canister.stable = PagedMemory::default();
    canister.certified_data = Vec::new();
    canister.global_timer_ns = 0;
}

fn close_sessions(sessions: &mut Sessions, owner: &Principal) {
    sessions
        .sessions
        .retain(|_, session| session.owner != *owner);
}

fn controlled<'state>(
    state: &'state mut ReplicatedState,
    sender: &Principal,
    id: &Principal,
) -> Result<&'state mut Canister, Reject> {
    let canister = state.canisters().get(id).ok_or_else(|| not_found(id))?;
    check_controller(&canister.state, sender)?;
    Ok(state.canister_mut(id).expect("it is there"))
}

fn check_controller(canister: &CanisterState, sender: &Principal) -> Result<(), Reject> {
    if canister.controllers.contains(sender) {
        return Ok(());
    }
    let controllers: Vec<String> = canister
        .controllers
        .iter()
        .map(Principal::to_text)
        .collect();
    let text = format!(
        "Only the controllers of the canister {} can control it.\nCanister's controllers: {}\nSender's ID: {sender}",
        canister.id,
        controllers.join(" ")
    );
    Err(Reject::new(512, text))
}

fn controllers(settings: Option<CanisterSettings>) -> Result<Option<BTreeSet<Principal>>, Reject> {
    let Some(controllers) = settings.and_then(|settings| settings.controllers) else {
        return Ok(None);
    };
    if controllers.len() > CONTROLLERS_MAX {
        let text = format!(
            "too many controllers: {}, the limit is {CONTROLLERS_MAX}",
            controllers.len()
        );
        return Err(invalid_payload(&text));
    }
    Ok(Some(controllers.into_iter().collect()))
}

fn decode<T: CandidType + DeserializeOwned>(argument: &[u8]) -> Result<T, Reject> {
    let mut config = DecoderConfig::new();
    // Enough for the largest module in a message; what would be skipped is small.
    config
        .set_decoding_quota(50_000_000)
        .set_skipping_quota(20_000_000)
        .set_full_error_message(false);
    decode_one_with_config(argument, &config).map_err(|error| invalid_payload(&error.to_string()))
}

fn encode(value: &impl CandidType) -> Vec<u8> {
    candid::encode_one(value).expect("the type has a Candid form")
}

fn nothing() -> Vec<u8> {
    candid::encode_args(()).expect("nothing has a Candid form")
}

fn invalid_payload(reason: &str) -> Reject {
    Reject::new(408, format!("Error decoding candid: {reason}"))
}

fn no_method(method: &str) -> Reject {
    Reject::new(
        407,
        format!("Management canister has no method '{method}' on this subnet"),
    )
}
