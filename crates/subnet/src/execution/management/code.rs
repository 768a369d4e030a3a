//! Installing and removing code.
use super::{Done, ManagementCall, Manager, decode, nothing};
use crate::{
    execution::{INSTALL_INSTRUCTIONS, environment, no_code, round::Done as Totals, upkeep},
    state::{Reject, ReplicatedState},
};
use ic_management_canister_types::{
    CanisterInstallMode, InstallCodeArgs, UninstallCodeArgs, WasmMemoryPersistence,
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment, Instructions, Module},
    memory::PagedMemory,
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::sync::Arc;

impl Manager<'_> {
    pub(super) fn uninstall_code(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<UninstallCodeArgs>(call.argument)?.canister_id;
        self.controlled(call, &id)?;
        upkeep::uninstall(self.state, &id);
        nothing()
    }

    pub(super) fn install_code(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let arguments: InstallCodeArgs = decode(call.argument)?;
        self.controlled(call, &arguments.canister_id)?;
        let result = install(
            self.state,
            self.engine,
            &call.sender,
            &arguments,
            self.totals,
        );
        result.and_then(|()| nothing())
    }
}

/// Runs an installation and applies it as a whole.
fn install(
    state: &mut ReplicatedState,
    engine: &Engine,
    caller: &Principal,
    arguments: &InstallCodeArgs,
    totals: &mut Totals,
) -> Result<(), Reject> {
    let id = arguments.canister_id;
    let old = &state.canisters()[&id].state;
    let module = compile(engine, &id, &arguments.wasm_module)?;
    let mut installation = Installation {
        canister: old.clone(),
        sessions: state.sessions.clone(),
        engine,
        caller: *caller,
        totals,
        left: INSTALL_INSTRUCTIONS,
    };
    let argument = arguments.arg.clone();
    match arguments.mode {
        CanisterInstallMode::Install if installation.canister.installed.is_some() => {
            let text = format!(
                "Canister {id} cannot be installed because the canister is not empty. Try installing with mode='reinstall' instead."
            );
            return Err(Reject::new(514, text));
        }
        CanisterInstallMode::Install | CanisterInstallMode::Reinstall => {
            let canister = &mut installation.canister;
            canister.stable = PagedMemory::default();
            canister.certified_data = Vec::new();
            canister.global_timer_ns = 0;
            canister.installed = Some(Installed::new(module));
            let sessions = &mut installation.sessions.sessions;
            sessions.retain(|_, session| session.owner != id);
            installation.enter(state, EntryPoint::Init, argument)?;
        }
        CanisterInstallMode::Upgrade(flags) => {
            let flags = flags.unwrap_or_default();
            let Some(installed) = &installation.canister.installed else {
                return Err(no_code(&id));
            };
            let keep_heap =
                check_persistence(&installed.module, &module, flags.wasm_memory_persistence)?;
            if flags.skip_pre_upgrade != Some(true) {
                installation.enter(state, EntryPoint::PreUpgrade, Vec::new())?;
            }
            let canister = &mut installation.canister;
            canister.global_timer_ns = 0;
            let old = canister.installed.take().expect("it was just seen");
            let mut new = Installed::new(module);
            if keep_heap {
                new.heap = old.heap;
            }
            canister.installed = Some(new);
            let entry = EntryPoint::PostUpgrade { keep_heap };
            installation.enter(state, entry, argument)?;
        }
    }
    let Installation {
        canister: mut new,
        sessions,
        ..
    } = installation;
    new.version += 1;
    let canister = state.canister_mut(&id).expect("the caller has found it");
    canister.state = new;
    state.sessions = sessions;
    Ok(())
}

/// Whether an upgrade keeps the heap, which takes both modules and the option.
fn check_persistence(
    old: &Module,
    new: &Module,
    option: Option<WasmMemoryPersistence>,
) -> Result<bool, Reject> {
    let keeps = option == Some(WasmMemoryPersistence::Keep);
    if option.is_none() && old.keeps_heap() {
        let text = "Missing upgrade option: Enhanced orthogonal persistence requires the `wasm_memory_persistence` upgrade option.";
        return Err(Reject::new(504, text));
    }
    if keeps && !new.keeps_heap() {
        let text = "Invalid upgrade option: The `wasm_memory_persistence: opt Keep` upgrade option requires that the new canister module supports enhanced orthogonal persistence.";
        return Err(Reject::new(504, text));
    }
    Ok(keeps)
}

fn compile(engine: &Engine, id: &Principal, wasm: &[u8]) -> Result<Arc<Module>, Reject> {
    engine.module(wasm).map_err(|error| {
        let text =
            format!("Error from Canister {id}: Canister's Wasm module is not valid: {error}");
        Reject::new(505, text)
    })
}

/// An installation under way: applied as a whole or dropped.
struct Installation<'call> {
    canister: CanisterState,
    sessions: Sessions,
    engine: &'call Engine,
    caller: Principal,
    totals: &'call mut Totals,
    /// Instructions that its entry points may still use together.
    left: Instructions,
}

impl Installation<'_> {
    fn enter(
        &mut self,
        state: &ReplicatedState,
        entry: EntryPoint,
        argument: Vec<u8>,
    ) -> Result<(), Reject> {
        let prices = state.genesis.prices();
        let memory64 = |canister: &CanisterState| {
            let installed = canister.installed.as_ref();
            installed.is_some_and(|installed| installed.module.memory64())
        };
        let memory64 = memory64(&self.canister);
        let frozen_cycles = self.canister.frozen_cycles(prices);
        let price = prices.execution(self.left, memory64);
        let needed = frozen_cycles + price;
        if self.canister.cycles < needed {
            let text = format!(
                "Canister installation failed with `Canister {} is out of cycles: please top up the canister with at least {} additional cycles`.",
                self.canister.id,
                needed - self.canister.cycles
            );
            return Err(Reject::new(207, text));
        }
        self.canister.cycles -= price;
        let call = Call::new(entry, self.caller, argument);
        let environment = Environment {
            frozen_cycles,
            ..environment(state, &self.sessions, self.left)
        };
        let execution = self.engine.execute(&self.canister, &call, &environment);
        self.totals.time += execution.time;
        let id = self.canister.id;
        let lines = execution.debug.into_iter();
        self.totals.printed.extend(lines.map(|line| (id, line)));
        self.left = self.left.saturating_sub(execution.instructions);
        let used = prices.execution(execution.instructions, memory64);
        self.canister.cycles += price.saturating_sub(used);
        let (_, effects) = execution.result?;
        self.canister.apply(&effects);
        self.sessions.apply(&effects.sessions);
        Ok(())
    }
}
