//! Installing and removing code.
//!
//! # Design
//! An installation works on a copy of the canister, which takes its place at the end. One that fails
//! leaves what its entry points printed in the log, and costs what they executed.
use super::{
    Done, Installation, ManagementCall, Manager, decode, installation::Seen, nothing,
    resources::memory_available,
};
use crate::{
    execution::{
        INSTALL_INSTRUCTIONS,
        lane::sessions_end,
        long::{LongRun, installed_into},
        round::put,
        turn::{Output, Round},
        upkeep,
    },
    state::{
        Canister, ChangeDetails, Deployment, Long, LongWork, LowMemory, Origin, Reject, Status,
    },
};
use ic_management_canister_types::{InstallCodeArgs, UninstallCodeArgs};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Instructions, Module},
    pacer::Pace,
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
        let arguments = decode(call.argument)?;
        self.install_module(call, arguments, None)
    }

    /// Runs an installation and applies it as a whole; later, if it is long. `lender` is the canister whose
    /// chunks the module is made of, if it is another one.
    pub(super) fn install_module(
        &mut self,
        call: &ManagementCall<'_>,
        arguments: InstallCodeArgs,
        lender: Option<Principal>,
    ) -> Result<Done, Reject> {
        let id = arguments.canister_id;
        self.draft(call, &id)?;
        self.totals.time += self.compilation_time(&arguments.wasm_module);
        let seen = Seen {
            time_ns: self.state.time_ns,
            memory_available: memory_available(self.state),
            session_ids: self.state.sessions.ids(),
        };
        let mut installation = self.prepare(call, arguments, seen)?;
        let slice = self.state.genesis.slice_instructions;
        let pace = Pace::only_slice(slice);
        installation.run(pace.clone());
        if !pace.is_refused() {
            self.totals.time += installation.time;
            return self.apply(installation);
        }
        self.totals.time += slice.get();
        let is_alone = installed_into(self.state).is_none();
        let uses_sessions = installation.uses_sessions();
        let height = self.state.height;
        let canister = self.state.canister_mut(&id).expect("it was just found");
        canister.ledger.installation_waits = (!is_alone).then_some(call.key);
        if !is_alone {
            return Ok(Done::Long);
        }
        let work = LongWork::Installation {
            key: call.key,
            lender,
        };
        canister.ledger.long = Some(Long {
            memory_available: seen.memory_available,
            session_ids: seen.session_ids,
            ..Long::new(work, height, seen.time_ns)
        });
        canister.ledger.served_height = height;
        if uses_sessions {
            let end = sessions_end(seen.session_ids, INSTALL_INSTRUCTIONS);
            self.state.sessions.next_id = self.state.sessions.next_id.max(end);
        }
        self.runs.keep_module(id, installation.module);
        if let Origin::User { id, .. } = call.origin {
            put(self.state, Output::Answer(id, Status::Processing));
        }
        Ok(Done::Long)
    }

    /// An installation that has not begun.
    fn prepare(
        &self,
        call: &ManagementCall<'_>,
        arguments: InstallCodeArgs,
        seen: Seen,
    ) -> Result<Installation, Reject> {
        let canister = self.draft(call, &arguments.canister_id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        let module = self.compile(&arguments.canister_id, &arguments.wasm_module)?;
        let round = Round {
            engine: self.engine.clone(),
            genesis: Arc::clone(&self.state.genesis),
            prices: self.state.genesis.prices(),
            sessions: Arc::new(self.state.sessions.clone()),
            time_ns: seen.time_ns,
        };
        Ok(Installation::new(
            round,
            seen,
            canister,
            call.sender,
            originator,
            (arguments.mode, module, arguments.arg),
        ))
    }

    /// Applies what an installation has come to.
    fn apply(&mut self, installation: Installation) -> Result<Done, Reject> {
        let Installation {
            mut canister,
            originator,
            deployment,
            module,
            clears_sessions,
            session_changes,
            paid,
            lines,
            printed,
            result,
            ..
        } = installation;
        let id = canister.state.id;
        let printed = printed.into_iter().map(|line| (id, line));
        self.totals.printed.extend(printed);
        canister.ledger.consumed.instructions += paid;
        if deployment == Deployment::Reinstall {
            canister.ledger.log.clear();
        }
        let now_ns = self.state.time_ns;
        log(&mut canister, now_ns, &lines);
        let details = ChangeDetails::CodeDeployment {
            mode: deployment,
            module_hash: module.hash(),
        };
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
        let sessions = &mut self.state.sessions;
        if clears_sessions {
            sessions.sessions.retain(|_, session| session.owner != id);
        }
        sessions.apply(&session_changes);
        nothing()
    }

    /// Gives the long installation, if there is one, its slice of this height, which has a time of its own.
    pub(super) fn go_on(&mut self) {
        let Some(id) = installed_into(self.state) else {
            return;
        };
        let height = self.state.height;
        let canister = self.state.canister_mut(&id).expect("it was just found");
        if canister.ledger.served_height == height {
            return;
        }
        canister.ledger.served_height = height;
        let long = canister.ledger.long.clone().expect("it is long");
        let key = long.work.key().expect("an installation is a call");
        let message = Arc::clone(&self.state.queue[&key]);
        let call = ManagementCall::new(key, &message).expect("an installation is a call");
        let run = match self.runs.installations.take(&id, &long) {
            Some(run) => Ok(run),
            None => self.begin_again(&call, &long),
        };
        let slice = self.state.genesis.slice_instructions.get();
        let ended = match run.map(|run| run.go_on(long.slices + 1)) {
            Ok(Err(run)) => {
                self.totals.installation_time += slice;
                self.runs.installations.put(id, run);
                let canister = self.state.canister_mut(&id).expect("it was just found");
                canister.ledger.long = Some(Long {
                    slices: long.slices + 1,
                    ..long
                });
                return;
            }
            Ok(Ok(installation)) => Ok(installation),
            Err(reject) => Err(reject),
        };
        let canister = self.state.canister_mut(&id).expect("it was just found");
        canister.ledger.long = None;
        // Whether it succeeds or not.
        canister.pay_ingress(long.owed);
        let result = ended.and_then(|mut installation| {
            let time = installation.time.saturating_sub(long.slices * slice);
            self.totals.installation_time += time;
            installation.canister.pay_ingress(long.owed);
            installation.canister.ledger.served_height = height;
            self.apply(installation)
        });
        self.end(call, result);
    }

    /// Begins a long installation again from its call. Nothing that it depends on has changed.
    fn begin_again(
        &self,
        call: &ManagementCall<'_>,
        long: &Long,
    ) -> Result<LongRun<Installation>, Reject> {
        let seen = Seen {
            time_ns: long.time_ns,
            memory_available: long.memory_available,
            session_ids: long.session_ids,
        };
        let arguments = match call.method {
            "install_code" => decode(call.argument)?,
            _ => self.chunked_code(call)?.0,
        };
        let mut installation = self.prepare(call, arguments, seen)?;
        installation.canister.ledger.long = None;
        let slice = self.state.genesis.slice_instructions;
        Ok(LongRun::begin(slice, long.begun, move |pace| {
            installation.run(pace);
            installation
        }))
    }
}

fn log(canister: &mut Canister, now_ns: u64, lines: &[String]) {
    let limit = canister.state.settings.log_memory_limit;
    for line in lines {
        canister.ledger.log.push(now_ns, line.as_bytes(), limit);
    }
}

impl Manager<'_> {
    /// Compiles a module.
    pub(super) fn compile(&self, id: &Principal, wasm: &[u8]) -> Result<Arc<Module>, Reject> {
        self.engine.module(wasm).map_err(|error| {
            let text =
                format!("Error from Canister {id}: Canister's Wasm module is not valid: {error}");
            Reject::new(505, text)
        })
    }

    /// What compiling a module takes of the time: nothing, if a canister has it.
    pub(super) fn compilation_time(&self, wasm: &[u8]) -> Instructions {
        let hash: [u8; 32] = Sha256::digest(wasm).into();
        let in_use = self.state.canisters().values().any(|canister| {
            let installed = canister.state.installed.as_ref();
            installed.is_some_and(|installed| installed.module.hash() == hash)
        });
        if in_use {
            0
        } else {
            unpacked_bytes(wasm).saturating_mul(COMPILATION)
        }
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
