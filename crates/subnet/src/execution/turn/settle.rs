//! What the messages of a turn have done takes effect.
use super::{Outcome, Output, Turn};
use crate::{
    execution::CANISTER_REJECTED,
    state::{CallResult, Callback, Message, Origin, Reject, Request, Response, Status},
};
use lockstep_canister::engine::{self, Cycles, Effects, Rejection};
use std::sync::Arc;

impl Turn {
    /// Takes over what a message did, answers its call if it answered, and closes the call context when
    /// nothing can come any more.
    pub(super) fn settle(&mut self, context_id: u64, outcome: Outcome) {
        let mut failure = None;
        let mut answer = None;
        match outcome {
            Ok((response, effects)) => {
                self.apply(context_id, effects);
                answer = match response {
                    engine::Response::Reply(reply) => Some(Ok(reply)),
                    engine::Response::Reject(text) => {
                        Some(Err(Reject::new(CANISTER_REJECTED, text)))
                    }
                    engine::Response::None => None,
                };
            }
            Err(reject) => failure = Some(reject),
        }
        let id = self.canister.state.id;
        let contexts = &mut self.canister.ledger.contexts;
        let context = contexts.get_mut(&context_id).expect("it was opened");
        let is_over = context.calls_under_way == 0;
        let was_answered = context.answered;
        if is_over && answer.is_none() && !was_answered {
            let silent = || {
                let text = format!("Error from Canister {id}: Canister did not produce a response");
                Reject::new(506, text)
            };
            answer = Some(Err(failure.unwrap_or_else(silent)));
        }
        let origin = context.origin.clone();
        let refund = if answer.is_some() {
            context.answered = true;
            std::mem::take(&mut context.cycles)
        } else {
            0
        };
        if is_over {
            contexts.remove(&context_id);
        }
        match (answer, origin) {
            (Some(answer), origin) => self.respond(&origin, answer, refund),
            (None, Origin::User { id, .. }) if !is_over && !was_answered => {
                self.outputs.push(Output::Answer(id, Status::Processing));
            }
            (None, _) => {}
        }
    }

    pub(super) fn apply(&mut self, context_id: u64, effects: Effects) {
        let before = self.canister.state.memory_bytes();
        let state = &mut self.canister.state;
        state.apply(&effects);
        state.version += 1;
        let grown = state.memory_bytes().saturating_sub(before);
        self.memory_available = self.memory_available.saturating_sub(grown);
        self.canister.note_memory();
        if !effects.sessions.is_empty() {
            Arc::make_mut(&mut self.sessions).apply(&effects.sessions);
            self.session_ids.skip(&effects.sessions);
            self.outputs.push(Output::Sessions(effects.sessions));
        }
        let ledger = &mut self.canister.ledger;
        let context = ledger.contexts.get_mut(&context_id);
        let context = context.expect("effects are of an open call context");
        context.cycles = context.cycles.saturating_sub(effects.cycles_accepted);
        // What left the canister neither as cycles of calls nor for them was burned.
        let mut burned = effects.cycles_spent;
        for call in effects.calls {
            let bytes = (call.method.len() + call.argument.len()) as u64;
            self.message_bytes = self.message_bytes.saturating_sub(bytes);
            let fee = self.round.prices.request(bytes);
            ledger.consumed.transmission += fee;
            burned = burned.saturating_sub(call.cycles + call.prepaid + fee);
            let callback = ledger.next_callback;
            ledger.next_callback += 1;
            context.calls_under_way += 1;
            let deadline_ns = call.timeout_seconds.map_or(0, |seconds| {
                let timeout_ns = u64::from(seconds) * 1_000_000_000;
                self.round.time_ns.saturating_add(timeout_ns)
            });
            ledger.callbacks.insert(
                callback,
                Callback {
                    context: context_id,
                    callee: call.callee,
                    on_reply: call.on_reply,
                    on_reject: call.on_reject,
                    on_cleanup: call.on_cleanup,
                    prepaid: call.prepaid,
                    deadline_ns,
                    expired: false,
                },
            );
            self.outputs.push(Output::Message(Message::Request(Request {
                sender: self.canister.state.id,
                callback,
                receiver: call.callee,
                method: call.method,
                argument: call.argument,
                cycles: call.cycles,
                deadline_ns,
            })));
        }
        ledger.consumed.burned = ledger.consumed.burned.saturating_add(burned);
    }

    pub(super) fn respond(
        &mut self,
        origin: &Origin,
        answer: Result<Vec<u8>, Reject>,
        refund: Cycles,
    ) {
        self.outputs.extend(response(origin, answer, refund));
    }
}

/// The answer to a call, for whoever is owed it.
pub(in crate::execution) fn response(
    origin: &Origin,
    answer: Result<Vec<u8>, Reject>,
    refund: Cycles,
) -> Option<Output> {
    match origin {
        Origin::User { id, .. } => {
            let status = answer.map_or_else(Status::Rejected, Status::Replied);
            Some(Output::Answer(*id, status))
        }
        Origin::Canister {
            sender, callback, ..
        } => Some(Output::Message(Message::Response(Response {
            receiver: *sender,
            callback: *callback,
            result: match answer {
                Ok(reply) => CallResult::Reply(reply),
                Err(reject) => CallResult::Reject(rejection(reject)),
            },
            refund,
        }))),
        Origin::System => None,
    }
}

/// A rejection as a canister sees it: its own words as they are, everything else with its code.
pub(in crate::execution) fn rejection(reject: Reject) -> Rejection {
    Rejection {
        code: reject.reject_code(),
        message: if reject.error_code == CANISTER_REJECTED {
            reject.message
        } else {
            reject.to_string()
        },
    }
}
