//! Installing and removing code.
//!
//! # Design
//! An installation works on a copy of the canister, which takes its place at the end. One that fails
//! leaves what its entry points printed in the log, and costs what they executed.
use super::{Done, ManagementCall, Manager, decode, nothing, resources::memory_available};
use crate::{
    execution::{INSTALL_INSTRUCTIONS, environment, no_code, upkeep},
    state::{Canister, ChangeDetails, Deployment, LowMemory, Reject, ReplicatedState},
};
use ic_management_canister_types::{
    CanisterInstallMode, InstallCodeArgs, UninstallCodeArgs, UpgradeFlags, WasmMemoryPersistence,
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Cycles, Engine, EntryPoint, Environment, Instructions, Module},
    memory::PagedMemory,
    session::Sessions,
    state::Installed,
};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Time of compiling a byte of a module, in instructions: 2 MB take some five seconds of a core.
const COMPILATION: Instructions = 5_000;

impl Manager<'_> {
    pub(super) fn uninstall_code(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let arguments: UninstallCodeArgs = decode(call.argument)?;
        let id = arguments.canister_id;
        self.controlled(call, &id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        upkeep::uninstall(self.state, &id, Some(originator));
        nothing()
    }

    pub(super) fn install_code(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let arguments: InstallCodeArgs = decode(call.argument)?;
        self.install_module(call, arguments)
    }

    /// Runs an installation and applies it as a whole.
    pub(super) fn install_module(
        &mut self,
        call: &ManagementCall<'_>,
        arguments: InstallCodeArgs,
    ) -> Result<Done, Reject> {
        let id = arguments.canister_id;
        let canister = self.draft(call, &id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        let module = self.compile(&id, &arguments.wasm_module)?;
        let module_hash = module.hash();
        let mode = match arguments.mode {
            CanisterInstallMode::Install => Deployment::Install,
            CanisterInstallMode::Reinstall => Deployment::Reinstall,
            CanisterInstallMode::Upgrade(_) => Deployment::Upgrade,
        };
        let mut installation = Installation {
            canister,
            sessions: self.state.sessions.clone(),
            engine: self.engine,
            caller: call.sender,
            time: 0,
            left: INSTALL_INSTRUCTIONS,
            paid: 0,
            lines: Vec::new(),
            printed: Vec::new(),
        };
        let result = installation.run(self.state, arguments.mode, module, arguments.arg);
        self.totals.time += installation.time;
        let Installation {
            mut canister,
            sessions,
            paid,
            lines,
            printed,
            ..
        } = installation;
        let printed = printed.into_iter().map(|line| (id, line));
        self.totals.printed.extend(printed);
        canister.ledger.consumed.instructions += paid;
        if mode == Deployment::Reinstall {
            canister.ledger.log.clear();
        }
        let now_ns = self.state.time_ns;
        log(&mut canister, now_ns, &lines);
        let details = ChangeDetails::CodeDeployment { mode, module_hash };
        canister.record(now_ns, originator, details);
        canister.ledger.low_memory = LowMemory::Enough;
        canister.note_memory();
        let result = result.and_then(|()| self.admit(canister));
        if let Err(reject) = result {
            let canister = self.state.canister_mut(&id).expect("it was just found");
            canister.state.cycles = canister.state.cycles.saturating_sub(paid);
            canister.ledger.consumed.instructions += paid;
            log(canister, now_ns, &lines);
            canister.account();
            return Err(reject);
        }
        self.state.sessions = sessions;
        nothing()
    }
}

fn log(canister: &mut Canister, now_ns: u64, lines: &[String]) {
    let limit = canister.state.settings.log_memory_limit;
    for line in lines {
        canister.ledger.log.push(now_ns, line.as_bytes(), limit);
    }
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

impl Manager<'_> {
    /// Compiles a module, which takes time unless a canister has it.
    pub(super) fn compile(&mut self, id: &Principal, wasm: &[u8]) -> Result<Arc<Module>, Reject> {
        let hash: [u8; 32] = Sha256::digest(wasm).into();
        let in_use = self.state.canisters().values().any(|canister| {
            let installed = canister.state.installed.as_ref();
            installed.is_some_and(|installed| installed.module.hash() == hash)
        });
        if !in_use {
            self.totals.time += unpacked_bytes(wasm).saturating_mul(COMPILATION);
        }
        self.engine.module(wasm).map_err(|error| {
            let text =
                format!("Error from Canister {id}: Canister's Wasm module is not valid: {error}");
            Reject::new(505, text)
        })
    }
}

/// Bytes of a module, which gzip says at the end of what it packs; a module for which that is not true is
/// refused when it is unpacked.
fn unpacked_bytes(wasm: &[u8]) -> u64 {
    match wasm.last_chunk() {
        Some(size) if wasm.starts_with(&[0x1f, 0x8b]) => u32::from_le_bytes(*size).into(),
        _ => wasm.len() as u64,
    }
}

/// An installation under way: applied as a whole or dropped.
struct Installation<'call> {
    canister: Canister,
    sessions: Sessions,
    engine: &'call Engine,
    caller: Principal,
    /// Instructions of the time so far.
    time: Instructions,
    /// Instructions that its entry points may still use together.
    left: Instructions,
    /// Cycles paid for instructions.
    paid: Cycles,
    /// What was printed, and why it trapped.
    lines: Vec<String>,
    /// What was printed.
    printed: Vec<String>,
}

impl Installation<'_> {
    fn run(
        &mut self,
        state: &ReplicatedState,
        mode: CanisterInstallMode,
        module: Arc<Module>,
        argument: Vec<u8>,
    ) -> Result<(), Reject> {
        match mode {
            CanisterInstallMode::Install if self.canister.state.installed.is_some() => {
                let text = format!(
                    "Canister {} cannot be installed because the canister is not empty. Try installing with mode='reinstall' instead.",
                    self.canister.state.id
                );
                return Err(Reject::new(514, text));
            }
            CanisterInstallMode::Install | CanisterInstallMode::Reinstall => {
                self.begin(module);
                self.enter(state, EntryPoint::Init, argument)?;
            }
            CanisterInstallMode::Upgrade(flags) => {
                self.upgrade(state, flags.unwrap_or_default(), module, argument)?;
            }
        }
        self.check_heap()
    }

    /// Puts code into the canister whose memories are empty.
    fn begin(&mut self, module: Arc<Module>) {
        let canister = &mut self.canister.state;
        canister.stable = PagedMemory::default();
        canister.certified_data = Vec::new();
        canister.global_timer_ns = 0;
        canister.installed = Some(Installed::new(module));
        canister.version += 1;
        let id = canister.id;
        let sessions = &mut self.sessions.sessions;
        sessions.retain(|_, session| session.owner != id);
    }

    fn upgrade(
        &mut self,
        state: &ReplicatedState,
        flags: UpgradeFlags,
        module: Arc<Module>,
        argument: Vec<u8>,
    ) -> Result<(), Reject> {
        let Some(installed) = &self.canister.state.installed else {
            return Err(no_code(&self.canister.state.id));
        };
        let keep_heap =
            check_persistence(&installed.module, &module, flags.wasm_memory_persistence)?;
        if flags.skip_pre_upgrade != Some(true) {
            self.enter(state, EntryPoint::PreUpgrade, Vec::new())?;
        }
        let canister = &mut self.canister.state;
        canister.global_timer_ns = 0;
        canister.version += 1;
        let old = canister.installed.take().expect("it was just seen");
        let mut new = Installed::new(module);
        if keep_heap {
            new.heap = old.heap;
        }
        canister.installed = Some(new);
        self.enter(state, EntryPoint::PostUpgrade { keep_heap }, argument)
    }

    fn enter(
        &mut self,
        state: &ReplicatedState,
        entry: EntryPoint,
        argument: Vec<u8>,
    ) -> Result<(), Reject> {
        let prices = state.genesis.prices();
        let canister = &mut self.canister.state;
        let installed = canister.installed.as_ref();
        let memory64 = installed.is_some_and(|installed| installed.module.memory64());
        let frozen_cycles = canister.frozen_cycles(prices);
        let price = prices.execution(self.left, memory64);
        let needed = frozen_cycles + price;
        if canister.cycles < needed {
            let text = format!(
                "Canister installation failed with `Canister {} is out of cycles: please top up the canister with at least {} additional cycles`.",
                canister.id,
                needed - canister.cycles
            );
            return Err(Reject::new(207, text));
        }
        canister.cycles -= price;
        let call = Call::new(entry, self.caller, argument);
        let environment = Environment {
            prices,
            frozen_cycles,
            memory_available: memory_available(state),
            ..environment(state, &self.sessions, self.left)
        };
        let execution = self.engine.execute(canister, &call, &environment);
        self.time += execution.time;
        self.left = self.left.saturating_sub(execution.instructions);
        self.printed.extend(execution.debug.iter().cloned());
        self.lines.extend(execution.debug);
        let used = prices.execution(execution.instructions, memory64);
        canister.receive(price.saturating_sub(used));
        self.paid += used;
        let (_, effects) = execution.result.inspect_err(|error| {
            self.lines.push(format!("[TRAP]: {}", error.message));
        })?;
        canister.apply(&effects);
        self.canister.ledger.consumed.burned += effects.cycles_spent;
        self.sessions.apply(&effects.sessions);
        Ok(())
    }

    /// The heap that an installation leaves is within the limit.
    fn check_heap(&self) -> Result<(), Reject> {
        let canister = &self.canister.state;
        let (bytes, limit) = (canister.heap_bytes(), canister.settings.wasm_memory_limit);
        if limit == 0 || bytes <= limit {
            return Ok(());
        }
        let text = format!(
            "Error from Canister {}: Canister exceeded its current Wasm memory limit of {limit} bytes. The peak Wasm memory usage was {bytes} bytes. If the canister reaches 4GiB, then it may stop functioning and may become unrecoverable. Please reach out to the canister owner to investigate the reason for the increased memory usage. It might be necessary to move data from the Wasm memory to stable memory. If such high Wasm memory usage is expected and safe, then the developer can increase the Wasm memory limit in the canister settings.",
            canister.id
        );
        Err(Reject::new(539, text))
    }
}
