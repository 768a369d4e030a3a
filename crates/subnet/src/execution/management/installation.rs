//! An installation: up to three entry points on a copy of the canister.
use crate::{
    execution::{INSTALL_INSTRUCTIONS, no_code, turn::Round},
    state::{Canister, Deployment, Originator, Reject},
};
use ic_management_canister_types::{CanisterInstallMode, UpgradeFlags, WasmMemoryPersistence};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Cycles, EntryPoint, Environment, Instructions, Module},
    memory::PagedMemory,
    pacer::Pace,
    session::{SessionIds, SessionState, Sessions},
    state::Installed,
};
use std::{collections::BTreeMap, sync::Arc};

/// What an installation sees of the subnet: as it was at its first slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Nanoseconds since 1970.
    pub(super) time_ns: u64,
    /// Bytes by which the canister may grow.
    pub(super) memory_available: u64,
    /// The ids of sessions that it starts.
    pub(super) session_ids: SessionIds,
}

/// An installation: applied as a whole or dropped.
#[derive(Debug)]
pub(in crate::execution) struct Installation {
    round: Round,
    seen: Seen,
    pub(super) canister: Canister,
    caller: Principal,
    pub(super) originator: Originator,
    mode: CanisterInstallMode,
    pub(super) deployment: Deployment,
    pub(super) module: Arc<Module>,
    argument: Vec<u8>,
    /// The canister's sessions among others.
    sessions: Arc<Sessions>,
    /// Whether the canister's sessions end.
    pub(super) clears_sessions: bool,
    /// Sessions that it then starts or changes.
    pub(super) session_changes: BTreeMap<u64, Option<SessionState>>,
    pace: Option<Pace>,
    /// Instructions of the time so far.
    pub(super) time: Instructions,
    /// Instructions that its entry points may still use together.
    left: Instructions,
    /// Cycles paid for instructions.
    pub(super) paid: Cycles,
    /// What was printed, and why it trapped.
    pub(super) lines: Vec<String>,
    /// What was printed.
    pub(super) printed: Vec<String>,
    /// How it ended.
    pub(super) result: Result<(), Reject>,
}

impl Installation {
    /// What a controller asks for: the mode, the module, and what it is installed with.
    pub(super) fn new(
        round: Round,
        seen: Seen,
        canister: Canister,
        caller: Principal,
        originator: Originator,
        (mode, module, argument): (CanisterInstallMode, Arc<Module>, Vec<u8>),
    ) -> Self {
        Self {
            sessions: Arc::clone(&round.sessions),
            round,
            seen,
            canister,
            caller,
            originator,
            deployment: match mode {
                CanisterInstallMode::Install => Deployment::Install,
                CanisterInstallMode::Reinstall => Deployment::Reinstall,
                CanisterInstallMode::Upgrade(_) => Deployment::Upgrade,
            },
            mode,
            module,
            argument,
            pace: None,
            time: 0,
            left: INSTALL_INSTRUCTIONS,
            paid: 0,
            lines: Vec::new(),
            printed: Vec::new(),
            clears_sessions: false,
            session_changes: BTreeMap::new(),
            result: Ok(()),
        }
    }

    /// Whether an entry point may start sessions.
    pub(super) fn uses_sessions(&self) -> bool {
        self.module.uses_sessions() || self.canister.uses_sessions()
    }

    /// Runs it, in slices of `pace`.
    pub(super) fn run(&mut self, pace: Pace) {
        self.pace = Some(pace);
        self.result = self.install();
    }

    fn install(&mut self) -> Result<(), Reject> {
        let module = Arc::clone(&self.module);
        let argument = std::mem::take(&mut self.argument);
        match self.mode {
            CanisterInstallMode::Install if self.canister.state.installed.is_some() => {
                let text = format!(
                    "Canister {} cannot be installed because the canister is not empty. Try installing with mode='reinstall' instead.",
                    self.canister.state.id
                );
                return Err(Reject::new(514, text));
            }
            CanisterInstallMode::Install | CanisterInstallMode::Reinstall => {
                self.begin(module);
                self.enter(EntryPoint::Init, argument)?;
            }
            CanisterInstallMode::Upgrade(flags) => {
                self.upgrade(flags.unwrap_or_default(), module, argument)?;
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
        let sessions = Arc::make_mut(&mut self.sessions);
        sessions.sessions.retain(|_, session| session.owner != id);
        self.clears_sessions = true;
    }

    fn upgrade(
        &mut self,
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
            self.enter(EntryPoint::PreUpgrade, Vec::new())?;
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
        self.enter(EntryPoint::PostUpgrade { keep_heap }, argument)
    }

    fn enter(&mut self, entry: EntryPoint, argument: Vec<u8>) -> Result<(), Reject> {
        let prices = self.round.prices;
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
        let pace = self.pace.as_ref().map(|pace| pace.after(self.time));
        let genesis = &self.round.genesis;
        let environment = Environment {
            time_ns: self.round.time_ns,
            subnet_id: genesis.subnet_id,
            root_key: &genesis.root_key,
            instruction_limit: self.left,
            pace: pace.as_ref(),
            lanes: genesis.fork_lanes,
            session_ids: self.seen.session_ids,
            prices,
            frozen_cycles,
            memory_available: self.seen.memory_available,
            ..Environment::new(&self.sessions)
        };
        let execution = self.round.engine.execute(canister, &call, &environment);
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
        self.seen.session_ids.skip(&effects.sessions);
        Arc::make_mut(&mut self.sessions).apply(&effects.sessions);
        self.session_changes.extend(effects.sessions);
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
