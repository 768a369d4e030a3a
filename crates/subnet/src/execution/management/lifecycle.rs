//! Creating, setting, starting, stopping and deleting canisters, and giving them cycles.
//!
//! # Design
//! On the Internet Computer users create canisters only if they administer the subnet, and cycles out of
//! nothing exist only on development instances. This subnet is one: every user may create canisters, and
//! get them filled.
use super::{
    Done, ManagementCall, Manager, decode, encode, find, invalid_payload, nothing, settings,
};
use crate::{
    execution::{
        not_found,
        round::put,
        turn::{Output, rejection},
        upkeep,
    },
    state::{
        CallResult, Canister, ChangeDetails, Message, Origin, Reject, Response, Status, StopCall,
        is_canister_id,
    },
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

/// A canister to be created.
struct Creation {
    settings: Option<CanisterSettings>,
    sender_version: Option<u64>,
    cycles: Cycles,
    /// What was paid for the creation.
    fee: Cycles,
    specified_id: Option<Principal>,
}

impl Manager<'_> {
    pub(super) fn create_canister(
        &mut self,
        call: &mut ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: CreateCanisterArgs = decode(call.argument)?;
        let (cycles, fee) = match call.origin {
            // Users bring no cycles.
            Origin::User { .. } => (DEFAULT_CYCLES, 0),
            _ => {
                let fee = self.state.genesis.prices().create_canister();
                let cycles = call.cycles.checked_sub(fee).ok_or_else(|| {
                    let text = format!(
                        "Creating a canister requires a fee of {fee} that is deducted from the canister's initial balance but only {} cycles were received with the create_canister request.",
                        call.cycles
                    );
                    Reject::new(403, text)
                })?;
                (cycles, fee)
            }
        };
        let creation = Creation {
            settings: arguments.settings,
            sender_version: arguments.sender_canister_version,
            cycles,
            fee,
            specified_id: None,
        };
        let reply = self.create(call, creation)?;
        call.cycles = 0;
        Ok(reply)
    }

    pub(super) fn provisional_create_canister(
        &mut self,
        call: &mut ManagementCall<'_>,
    ) -> Result<Done, Reject> {
        let arguments: ProvisionalCreateCanisterWithCyclesArgs = decode(call.argument)?;
        let creation = Creation {
            settings: arguments.settings,
            sender_version: arguments.sender_canister_version,
            cycles: arguments.amount.map_or(Ok(DEFAULT_CYCLES), amount)?,
            fee: 0,
            specified_id: arguments.specified_id,
        };
        self.create(call, creation)
    }

    fn create(&mut self, call: &ManagementCall<'_>, creation: Creation) -> Result<Done, Reject> {
        let next_index = self.state.next_canister_index;
        let id = match creation.specified_id {
            None => self.state.fresh_canister_id(),
            Some(id) if !is_canister_id(&id) => {
                return Err(invalid_payload(&format!(
                    "specified_id is not within this subnet's canister ranges: {id}"
                )));
            }
            Some(id) if self.state.is_taken(&id) => {
                let text =
                    format!("Unsuccessful canister creation: canister id {id} already exists.");
                return Err(Reject::new(205, text));
            }
            Some(id) => id,
        };
        let created = self.create_as(id, call, creation);
        if created.is_err() {
            self.state.next_canister_index = next_index;
        }
        created
    }

    fn create_as(
        &mut self,
        canister_id: Principal,
        call: &ManagementCall<'_>,
        creation: Creation,
    ) -> Result<Done, Reject> {
        let originator = call.originator(self.state, creation.sender_version)?;
        let controllers = BTreeSet::from([call.sender]);
        let mut state = CanisterState::new(canister_id, controllers, creation.cycles);
        let mut environment_hash = None;
        if let Some(given) = creation.settings {
            let has_variables = given.environment_variables.is_some();
            settings::apply(given, &mut state)?;
            let variables = &state.settings.environment_variables;
            environment_hash = has_variables.then(|| settings::hash_of_variables(variables));
        }
        let details = ChangeDetails::Creation {
            controllers: state.controllers.clone(),
            environment_hash,
        };
        let now_ns = self.state.time_ns;
        let mut canister = Canister::new(state, self.state.height, now_ns);
        canister.ledger.consumed.creation = creation.fee;
        canister.record(now_ns, originator, details);
        self.admit(canister)?;
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
        find(self.state, id)?;
        let canister = self.state.canister_mut(id).expect("it was just found");
        let balance = canister.state.cycles.checked_add(cycles);
        canister.state.cycles = balance.ok_or_else(|| invalid_payload("amount is too large"))?;
        nothing()
    }

    pub(super) fn update_settings(&mut self, call: &ManagementCall<'_>) -> Result<Done, Reject> {
        let arguments: UpdateSettingsArgs = decode(call.argument)?;
        let mut canister = self.draft(call, &arguments.canister_id)?;
        let originator = call.originator(self.state, arguments.sender_canister_version)?;
        let sets_controllers = arguments.settings.controllers.is_some();
        settings::apply(arguments.settings, &mut canister.state)?;
        canister.state.version += 1;
        let log_limit = canister.state.settings.log_memory_limit;
        canister.ledger.log.shrink(log_limit);
        canister.note_memory();
        if sets_controllers {
            let controllers = canister.state.controllers.clone();
            let details = ChangeDetails::ControllersChange { controllers };
            canister.record(self.state.time_ns, originator, details);
        }
        self.admit(canister)?;
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
        canister.state.version += 1;
        if canister.is_stopped() {
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
        let canister = self.draft(call, &id)?;
        if call.sender == id {
            let text = format!("Canister {id} cannot delete itself.");
            return Err(Reject::new(512, text));
        }
        if !canister.is_stopped() {
            let text = format!("Canister {id} must be stopped before it is deleted.");
            return Err(Reject::new(510, text));
        }
        self.state.remove_canister(&id);
        let consumed = canister.ledger.consumed.total();
        let metrics = &mut self.state.metrics;
        metrics.consumed_by_deleted = metrics
            .consumed_by_deleted
            .saturating_add(consumed)
            .saturating_add(canister.state.cycles);
        let sessions = &mut self.state.sessions.sessions;
        sessions.retain(|_, session| session.owner != id);
        self.return_messages(&id);
        nothing()
    }

    /// Answers the messages that wait for a canister which is gone.
    fn return_messages(&mut self, id: &Principal) {
        let waiting: Vec<u64> = self
            .state
            .queue
            .iter()
            .filter(|(_, message)| message.receiver() == id)
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            let message = self.state.queue.remove(&key).expect("it was just listed");
            match message.as_ref() {
                Message::Ingress(call) => {
                    let status = Status::Rejected(not_found(id));
                    self.state.history.set_status(&call.id, status);
                }
                Message::Request(request) => {
                    let response = Message::Response(Response {
                        receiver: request.sender,
                        callback: request.callback,
                        result: CallResult::Reject(rejection(not_found(id))),
                        refund: request.cycles,
                    });
                    put(self.state, Output::Message(response));
                }
                // Of its own calls; cycles that come back go where its balance went.
                Message::Response(response) => {
                    let consumed = &mut self.state.metrics.consumed_by_deleted;
                    *consumed = consumed.saturating_add(response.refund);
                }
            }
        }
    }
}

fn amount(cycles: Nat) -> Result<Cycles, Reject> {
    Cycles::try_from(cycles.0).map_err(|_| invalid_payload("amount is too large"))
}
