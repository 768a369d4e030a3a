//! The management canister `aaaaa-aa`.
//!
//! # Design
//! Its messages run alone, before and between the rounds of canisters' turns, in the order in which they
//! arrived. A method decodes its argument, checks who may call it, and changes the state as a whole or
//! not at all. One that has to wait leaves the call's origin in the canister's books.
//!
//! # Errors
//! The replica's error codes and texts. Methods of subsystems that this subnet lacks (threshold
//! signatures, Bitcoin, HTTP outcalls) are rejected by name.
mod chunks;
mod code;
mod info;
mod installation;
mod lifecycle;
mod logs;
mod methods;
mod resources;
mod settings;
mod snapshot_data;
mod snapshots;
mod status;

use super::{
    long::{LongRuns, installed_into},
    not_found,
    round::{Done as Totals, put},
    turn::{MESSAGE_OVERHEAD, response},
};
use crate::state::{Canister, Drawing, Message, Origin, Originator, Reject, ReplicatedState};
use candid::{CandidType, DecoderConfig, utils::decode_one_with_config};
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Cycles, Engine, Instructions},
    state::{CanisterState, Visibility},
};
use serde::de::DeserializeOwned;
use std::{collections::BTreeSet, sync::Arc};

use methods::Access;

pub(super) use installation::Installation;
pub use lifecycle::DEFAULT_CYCLES;
pub use methods::{ingress_target, query_target};
pub(super) use resources::memory_available;

/// Whether a user's call is worth ordering: users may call the method, and who sends it may do so with
/// this canister. Not replicated: it spares canisters the price of calls that are bound to be refused.
///
/// # Errors
/// The rejection that the call would get.
pub fn inspect(
    state: &ReplicatedState,
    sender: &Principal,
    method: &str,
    argument: &[u8],
) -> Result<(), Reject> {
    let Some(target) = ingress_target(method, argument)? else {
        return Ok(());
    };
    let canister = &find(state, &target)?.state;
    let settings = &canister.settings;
    let visibility = match methods::access(method) {
        Access::Everybody => return Ok(()),
        Access::Controllers => &Visibility::Controllers,
        Access::Status => &settings.status_visibility,
        Access::Snapshots => &settings.snapshot_visibility,
    };
    if canister.shows(visibility, sender) {
        return Ok(());
    }
    check_controller(canister, sender)
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
        "canister_status" => status::canister_status(state, sender, argument),
        "canister_metrics" => status::canister_metrics(state, sender, argument),
        "canister_info" => info::canister_info(state, argument),
        "fetch_canister_logs" => logs::fetch_canister_logs(state, sender, argument),
        "list_canisters" => info::list_canisters(state, argument),
        _ => Err(no_method(method)),
    }
}

/// A call under way.
struct ManagementCall<'a> {
    /// Its place in the queue.
    key: u64,
    origin: Origin,
    /// Who calls: a user or a canister.
    sender: Principal,
    method: &'a str,
    argument: &'a [u8],
    /// Cycles that came with it and have not been taken.
    cycles: Cycles,
}

impl ManagementCall<'_> {
    /// Who makes a change, as the canister's history names them. A canister may say its version; one
    /// that it has not reached yet is none.
    fn originator(
        &self,
        state: &ReplicatedState,
        version: Option<u64>,
    ) -> Result<Originator, Reject> {
        let Origin::Canister { sender, .. } = self.origin else {
            return Ok(Originator::User(self.sender));
        };
        if let (Some(version), Some(canister)) = (version, state.canisters().get(&sender))
            && version > canister.state.version
        {
            let text = format!(
                "sender_canister_version {version} is not a version of canister {sender}, which is at {}",
                canister.state.version
            );
            return Err(Reject::new(504, text));
        }
        Ok(Originator::Canister {
            id: sender,
            version,
        })
    }
}

/// How a method ended.
enum Done {
    /// With this reply.
    Reply(Vec<u8>),
    /// Not yet; somebody else will answer.
    Later,
    /// Not yet: it takes more than a slice, and stays in the queue.
    Long,
}

/// The management canister at work.
struct Manager<'a> {
    state: &'a mut ReplicatedState,
    engine: &'a Engine,
    runs: &'a LongRuns,
    totals: &'a mut Totals,
}

/// Executes the messages that wait, until the height's `budget` is used up.
pub(super) fn run_all(
    state: &mut ReplicatedState,
    engine: &Engine,
    runs: &LongRuns,
    budget: Instructions,
    done: &mut Totals,
) {
    let mut manager = Manager {
        state,
        engine,
        runs,
        totals: done,
    };
    manager.go_on();
    let management = Principal::management_canister();
    let queue = manager.state.queue.iter();
    let keys: Vec<u64> = queue
        .filter(|(_, message)| *message.receiver() == management)
        .map(|(key, _)| *key)
        .collect();
    let mut held = manager.state.held();
    for key in keys {
        if manager.totals.time >= budget {
            break;
        }
        let message = Arc::clone(&manager.state.queue[&key]);
        let Some(call) = ManagementCall::new(key, &message) else {
            manager.state.queue.remove(&key);
            continue;
        };
        match manager.target(&call) {
            Ok(Some(target)) if manager.waits(&held, &call, &target) => {
                manager.runs.note_target(key, target);
                continue;
            }
            Ok(_) => manager.take(call),
            Err(reject) => {
                manager.totals.time += MESSAGE_OVERHEAD;
                manager.end(call, Err(reject));
            }
        }
        if manager.state.queue.contains_key(&key) {
            held = manager.state.held();
        }
    }
}

impl<'a> ManagementCall<'a> {
    /// `None` for an answer: the management canister makes no calls.
    fn new(key: u64, message: &'a Message) -> Option<Self> {
        Some(match message {
            Message::Ingress(call) => Self {
                key,
                origin: Origin::User {
                    id: *call.id,
                    sender: call.sender,
                    info: None,
                },
                sender: call.sender,
                method: &call.method,
                argument: &call.argument,
                cycles: 0,
            },
            Message::Request(request) => Self {
                key,
                origin: Origin::Canister {
                    sender: request.sender,
                    callback: request.callback,
                    deadline_ns: request.deadline_ns,
                },
                sender: request.sender,
                method: &request.method,
                argument: &request.argument,
                cycles: request.cycles,
            },
            Message::Response(_) => return None,
        })
    }
}

impl Manager<'_> {
    /// Whom a call is about. One that does not say so is refused before it could do anything.
    fn target(&self, call: &ManagementCall<'_>) -> Result<Option<Principal>, Reject> {
        match self.runs.target(call.key) {
            Some(target) => Ok(Some(target)),
            None => methods::target(call.method, call.argument),
        }
    }

    /// Whether a call waits: for a long message of its canister, or for a place among the long ones.
    fn waits(
        &self,
        held: &BTreeSet<Principal>,
        call: &ManagementCall<'_>,
        target: &Principal,
    ) -> bool {
        let canister = self.state.canisters().get(target);
        let is_long =
            canister.is_some_and(|canister| canister.ledger.installation_waits == Some(call.key));
        held.contains(target) || is_long && installed_into(self.state).is_some()
    }

    /// Executes a call.
    fn take(&mut self, mut call: ManagementCall<'_>) {
        self.totals.time += MESSAGE_OVERHEAD;
        let result = self.execute(&mut call);
        self.end(call, result);
    }

    /// What a call comes to.
    fn end(&mut self, call: ManagementCall<'_>, result: Result<Done, Reject>) {
        let answer = match result {
            Ok(Done::Long) => return,
            Ok(Done::Reply(reply)) => Some(Ok(reply)),
            Ok(Done::Later) => None,
            Err(reject) => Some(Err(reject)),
        };
        self.state.queue.remove(&call.key);
        self.totals.executed += 1;
        if let Some(answer) = answer {
            self.answer(&call.origin, answer, call.cycles);
        }
    }

    fn answer(&mut self, origin: &Origin, answer: Result<Vec<u8>, Reject>, refund: Cycles) {
        if let Some(output) = response(origin, answer, refund) {
            put(self.state, output);
        }
    }

    fn execute(&mut self, call: &mut ManagementCall<'_>) -> Result<Done, Reject> {
        let by_user = matches!(call.origin, Origin::User { .. });
        self.check_method(call.method, by_user)?;
        let (sender, argument) = (call.sender, call.argument);
        match call.method {
            "create_canister" => self.create_canister(call),
            "provisional_create_canister_with_cycles" => self.provisional_create_canister(call),
            "provisional_top_up_canister" => self.provisional_top_up_canister(call),
            "deposit_cycles" => self.deposit_cycles(call),
            "update_settings" => self.update_settings(call),
            "start_canister" => self.start_canister(call),
            "stop_canister" => self.stop_canister(call),
            "delete_canister" => self.delete_canister(call),
            "uninstall_code" => self.uninstall_code(call),
            "install_code" => self.install_code(call),
            "install_chunked_code" => self.install_chunked_code(call),
            "upload_chunk" => self.upload_chunk(call),
            "clear_chunk_store" => self.clear_chunk_store(call),
            "stored_chunks" => self.stored_chunks(call),
            "take_canister_snapshot" => self.take_canister_snapshot(call),
            "load_canister_snapshot" => self.load_canister_snapshot(call),
            "list_canister_snapshots" => self.list_canister_snapshots(call),
            "delete_canister_snapshot" => self.delete_canister_snapshot(call),
            "read_canister_snapshot_metadata" => self.read_canister_snapshot_metadata(call),
            "read_canister_snapshot_data" => self.read_canister_snapshot_data(call),
            "upload_canister_snapshot_metadata" => self.upload_canister_snapshot_metadata(call),
            "upload_canister_snapshot_data" => self.upload_canister_snapshot_data(call),
            "canister_status" => {
                status::canister_status(self.state, &sender, argument).map(Done::Reply)
            }
            "canister_metrics" => {
                status::canister_metrics(self.state, &sender, argument).map(Done::Reply)
            }
            "canister_info" => info::canister_info(self.state, argument).map(Done::Reply),
            "canister_metadata" => {
                info::canister_metadata(self.state, &sender, argument).map(Done::Reply)
            }
            "fetch_canister_logs" => {
                logs::fetch_canister_logs(self.state, &sender, argument).map(Done::Reply)
            }
            "subnet_info" => info::subnet_info(self.state, argument).map(Done::Reply),
            "subnet_metrics" => info::subnet_metrics(self.state, argument).map(Done::Reply),
            "raw_rand" => {
                candid::decode_args::<()>(argument)
                    .map_err(|error| invalid_payload(&error.to_string()))?;
                let drawing = Drawing {
                    origin: call.origin.clone(),
                    cycles: call.cycles,
                };
                self.state.randomness.wait(self.state.height, drawing);
                Ok(Done::Later)
            }
            method => Err(no_method(method)),
        }
    }

    /// A canister that the caller controls, to be changed.
    fn controlled(
        &mut self,
        call: &ManagementCall<'_>,
        id: &Principal,
    ) -> Result<&mut Canister, Reject> {
        check_controller(&find(self.state, id)?.state, &call.sender)?;
        Ok(self.state.canister_mut(id).expect("it is there"))
    }

    /// A copy of a canister that the caller controls, for [`Self::admit`].
    fn draft(&self, call: &ManagementCall<'_>, id: &Principal) -> Result<Canister, Reject> {
        let canister = find(self.state, id)?;
        check_controller(&canister.state, &call.sender)?;
        Ok(canister.clone())
    }

    /// The same for the canister itself too.
    fn draft_of_own(&self, call: &ManagementCall<'_>, id: &Principal) -> Result<Canister, Reject> {
        let canister = find(self.state, id)?;
        if call.sender != *id {
            check_controller(&canister.state, &call.sender)?;
        }
        Ok(canister.clone())
    }
}

fn find<'state>(
    state: &'state ReplicatedState,
    id: &Principal,
) -> Result<&'state Canister, Reject> {
    let canister = state.canisters().get(id).ok_or_else(|| not_found(id))?;
    Ok(canister)
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

fn nothing() -> Result<Done, Reject> {
    let nothing = candid::encode_args(()).expect("nothing has a Candid form");
    Ok(Done::Reply(nothing))
}

fn invalid_payload(reason: &str) -> Reject {
    Reject::new(408, format!("Error decoding candid: {reason}"))
}

fn no_method(method: &str) -> Reject {
    let text = format!("Management canister has no method '{method}'");
    Reject::new(536, text)
}

#[cfg(test)]
mod tests;
