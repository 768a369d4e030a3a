//! The management canister `aaaaa-aa`.
//!
//! # Design
//! Its messages run alone, before and between the rounds of canisters' turns, in the order in which they
//! arrived. A method decodes its argument, checks who may call it, and changes the state as a whole or
//! not at all. One that has to wait ([`Done::Later`]) leaves the call's origin in the canister's books.
//!
//! # Errors
//! The replica's error codes and texts. Methods of subsystems that this subnet lacks (threshold
//! signatures, Bitcoin, HTTP outcalls) are rejected by name.
mod code;
mod lifecycle;
mod status;

use super::{
    not_found,
    round::{Done as Totals, put},
    turn::{MESSAGE_OVERHEAD, response},
};
use crate::state::{Canister, Message, Origin, Reject, ReplicatedState};
use candid::{CandidType, DecoderConfig, utils::decode_one_with_config};
use ic_management_canister_types::CanisterIdRecord;
use ic_principal::Principal;
use lockstep_canister::{
    engine::{Cycles, Engine, Instructions},
    state::CanisterState,
};
use serde::de::DeserializeOwned;

pub use lifecycle::DEFAULT_CYCLES;

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
        _ => Err(no_method(method)),
    }
}

/// A call under way.
struct ManagementCall<'a> {
    origin: Origin,
    /// Who calls: a user or a canister.
    sender: Principal,
    method: &'a str,
    argument: &'a [u8],
    /// Cycles that came with it and have not been taken.
    cycles: Cycles,
}

/// How a method ended.
enum Done {
    /// With this reply.
    Reply(Vec<u8>),
    /// Not yet; somebody else will answer.
    Later,
}

/// The management canister at work.
struct Manager<'a> {
    state: &'a mut ReplicatedState,
    engine: &'a Engine,
    totals: &'a mut Totals,
}

/// Executes the messages that wait, until the height's `budget` is used up.
pub(super) fn run_all(
    state: &mut ReplicatedState,
    engine: &Engine,
    budget: Instructions,
    done: &mut Totals,
) {
    let management = Principal::management_canister();
    let keys: Vec<u64> = state
        .queue
        .iter()
        .filter(|(_, message)| *message.receiver() == management)
        .map(|(key, _)| *key)
        .collect();
    let mut manager = Manager {
        state,
        engine,
        totals: done,
    };
    for key in keys {
        if manager.totals.time >= budget {
            break;
        }
        let message = manager
            .state
            .queue
            .remove(&key)
            .expect("it was just listed");
        manager.totals.time += MESSAGE_OVERHEAD;
        manager.totals.executed += 1;
        manager.take(&message);
    }
}

impl Manager<'_> {
    fn take(&mut self, message: &Message) {
        let mut call = match message {
            Message::Ingress(call) => ManagementCall {
                origin: Origin::User {
                    id: *call.id,
                    sender: call.sender,
                },
                sender: call.sender,
                method: &call.method,
                argument: &call.argument,
                cycles: 0,
            },
            Message::Request(request) => ManagementCall {
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
            // It makes no calls.
            Message::Response(_) => return,
        };
        let answer = match self.execute(&mut call) {
            Ok(Done::Reply(reply)) => Ok(reply),
            Ok(Done::Later) => return,
            Err(reject) => Err(reject),
        };
        self.answer(&call.origin, answer, call.cycles);
    }

    fn answer(&mut self, origin: &Origin, answer: Result<Vec<u8>, Reject>, refund: Cycles) {
        if let Some(output) = response(origin, answer, refund) {
            put(self.state, output);
        }
    }

    fn execute(&mut self, call: &mut ManagementCall<'_>) -> Result<Done, Reject> {
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
            "canister_status" => {
                status::canister_status(self.state, &call.sender, call.argument).map(Done::Reply)
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
        let canister = self
            .state
            .canisters()
            .get(id)
            .ok_or_else(|| not_found(id))?;
        check_controller(&canister.state, &call.sender)?;
        Ok(self.state.canister_mut(id).expect("it is there"))
    }
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
    Reject::new(
        407,
        format!("Management canister has no method '{method}' on this subnet"),
    )
}
