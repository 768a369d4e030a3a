//! Creating, setting, starting, stopping and deleting canisters, and giving them cycles.
use super::{Done, ManagementCall, Manager, decode, encode, invalid_payload, nothing};
use crate::{
    execution::{not_found, upkeep},
    state::{Canister, Origin, Reject, Status, StopCall, is_canister_id},
};
use candid::Nat;
use ic_management_canister_types::{
    CanisterIdRecord, CanisterSettings, CreateCanisterArgs,
    ProvisionalCreateCanisterWithCyclesArgs, ProvisionalTopUpCanisterArgs, UpdateSettingsArgs,
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::Cycles,
    state::{CanisterState, RunState},
};
use std::collections::BTreeSet;

/// Cycles of a new canister that asks for no other amount.
pub const DEFAULT_CYCLES: Cycles = 100_000_000_000_000;
/// Most controllers of a canister.
const CONTROLLERS_MAX: usize = 10;

impl Manager<'_> {
    pub(super) fn create_canister(
        &mut self,
        call: &mut ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: CreateCanisterArgs = decode(call.argument)?;
        let cycles = match call.origin {
            // Users bring no cycles.
            Origin::User { .. } => DEFAULT_CYCLES,
            _ => {
                let price = self.state.genesis.prices().create_canister();
                call.cycles.checked_sub(price).ok_or_else(|| {
                    let text = format!(
                        "Creating a canister requires a fee of {price} that is deducted from the canister's initial balance but only {} cycles were received with the create_canister request.",
                        call.cycles
                    );
                    Reject::new(403, text)
                })?
            }
        };
        let reply = self.create(call, arguments.settings, cycles, None)?;
        call.cycles = 0;
        Ok(reply)
    }

    pub(super) fn provisional_create_canister(
        &mut self,
        call: &mut ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: ProvisionalCreateCanisterWithCyclesArgs = decode(call.argument)?;
        let cycles = arguments.amount.map_or(Ok(DEFAULT_CYCLES), amount)?;
        self.create(call, arguments.settings, cycles, arguments.specified_id)
    }

    fn create(
        &mut self,
        call: &ManagementCall<'_>,
        settings: Option<CanisterSettings>,
        cycles: Cycles,
        specified_id: Option<Principal>,
    ) -> Result<Done, Reject> {
        let controllers = controllers(settings)?.unwrap_or_else(|| BTreeSet::from([call.sender]));
        let canister_id = match specified_id {
            None => self.state.fresh_canister_id(),
            Some(id) if !is_canister_id(&id) => {
                return Err(invalid_payload(&format!(
                    "specified_id is not within this subnet's canister ranges: {id}"
                )));
            }
            Some(id) if self.state.canisters().contains_key(&id) => {
                return Err(Reject::new(
                    205,
                    format!("Canister {id} is already installed"),
                ));
            }
            Some(id) => id,
        };
        let canister = CanisterState::new(canister_id, controllers, cycles);
        let now_ns = self.state.time_ns;
        self.state.insert_canister(Canister::new(canister, now_ns));
        Ok(Done::Reply(encode(&CanisterIdRecord { canister_id })))
    }

    pub(super) fn provisional_top_up_canister(
        &mut self,
        call: &mut ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: ProvisionalTopUpCanisterArgs = decode(call.argument)?;
        let cycles = amount(arguments.amount)?;
        self.deposit(&arguments.canister_id, cycles)
    }

    pub(super) fn deposit_cycles(&mut self, call: &mut ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let done = self.deposit(&id, call.cycles)?;
        call.cycles = 0;
        Ok(done)
    }

    fn deposit(&mut self, id: &Principal, cycles: Cycles) -> Result<Done, Reject> {
        let canister = self.state.canister_mut(id).ok_or_else(|| not_found(id))?;
        let balance = canister.state.cycles.checked_add(cycles);
        canister.state.cycles = balance.ok_or_else(|| invalid_payload("amount is too large"))?;
        nothing()
    }

    pub(super) fn update_settings(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let arguments: UpdateSettingsArgs = decode(call.argument)?;
        let controllers = controllers(Some(arguments.settings))?;
        let canister = self.controlled(call, &arguments.canister_id)?;
        if let Some(controllers) = controllers {
            canister.state.controllers = controllers;
        }
        canister.state.version += 1;
        nothing()
    }

    pub(super) fn start_canister(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let canister = self.controlled(call, &id)?;
        canister.state.run_state = RunState::Running;
        canister.state.version += 1;
        let cancelled = std::mem::take(&mut canister.ledger.stop_calls);
        for stop in cancelled {
            let reject = Reject::new(511, format!("Canister {id}'s stop request was cancelled"));
            self.answer(&stop.origin, Err(reject), stop.cycles);
        }
        nothing()
    }

    pub(super) fn stop_canister(&mut self, call: &mut ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        let since_ns = self.state.time_ns;
        let canister = self.controlled(call, &id)?;
        if canister.state.run_state == RunState::Stopped {
            return nothing();
        }
        canister.state.run_state = RunState::Stopping;
        canister.ledger.stop_calls.push(StopCall {
            origin: call.origin.clone(),
            cycles: std::mem::take(&mut call.cycles),
            since_ns,
        });
        if let Origin::User { id, .. } = call.origin {
            self.state.history.set_status(&id, Status::Processing);
        }
        upkeep::finish_stopping(self.state);
        Ok(Done::Later)
    }

    pub(super) fn delete_canister(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let id = decode::<CanisterIdRecord>(call.argument)?.canister_id;
        if !self.controlled(call, &id)?.is_stopped() {
            let text = format!("Canister {id} must be stopped before it is deleted.");
            return Err(Reject::new(510, text));
        }
        self.state
            .queue
            .retain(|_, message| *message.receiver() != id || message.ingress().is_some());
        self.state.remove_canister(&id);
        self.state
            .sessions
            .sessions
            .retain(|_, session| session.owner != id);
        nothing()
    }
}

fn amount(cycles: Nat) -> Result<Cycles, Reject> {
    Cycles::try_from(cycles.0).map_err(|_| invalid_payload("amount is too large"))
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
