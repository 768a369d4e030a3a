//! What time does to canisters: deadlines pass, storage is paid for, stopping ends.
use super::{
    CANISTER_REJECTED,
    round::put,
    turn::{rejection, response},
};
use crate::state::{
    CallResult, Canister, ChangeDetails, Message, Origin, Originator, Reject, ReplicatedState,
    Response, Status,
};
use ic_principal::Principal;
use lockstep_canister::{engine::Cycles, memory::PagedMemory, state::RunState};
use std::collections::BTreeSet;

/// How often canisters pay for their keep, nanoseconds.
const PAYMENT_NS: u64 = 10_000_000_000;
/// How long `stop_canister` waits for calls under way, nanoseconds.
const STOP_TIMEOUT_NS: u64 = 300_000_000_000;

/// What the time of a new height brings about. A canister with a long message notices when that has ended.
pub(super) fn begin_height(state: &mut ReplicatedState) {
    expire_ingress(state);
    expire_calls(state);
    expire_stops(state);
    charge(state);
}

/// Rejects users' calls that waited too long.
fn expire_ingress(state: &mut ReplicatedState) {
    let now_ns = state.time_ns;
    let long: BTreeSet<u64> = state
        .canisters()
        .values()
        .filter_map(|canister| canister.ledger.long.as_ref()?.work.key())
        .collect();
    let mut expired = Vec::new();
    state.queue.retain(|key, message| match message.ingress() {
        Some(call) if call.expiry_ns < now_ns && !long.contains(key) => {
            expired.push(*call.id);
            false
        }
        _ => true,
    });
    for id in expired {
        let text = format!(
            "Ingress message {} timed out waiting to start executing.",
            hex::encode(id)
        );
        let status = Status::Rejected(Reject::new(202, text));
        state.history.set_status(&id, status);
    }
}

/// Answers calls whose callers have stopped waiting.
fn expire_calls(state: &mut ReplicatedState) {
    let now_ns = state.time_ns;
    let mut expired: Vec<(Principal, u64)> = Vec::new();
    let canisters = state.canisters().iter();
    for (id, canister) in canisters.filter(|(_, canister)| !canister.is_busy()) {
        let calls = canister.ledger.callbacks.iter();
        let late = calls.filter(|(_, call)| {
            call.deadline_ns != 0 && call.deadline_ns <= now_ns && !call.expired
        });
        expired.extend(late.map(|(callback, _)| (*id, *callback)));
    }
    for (receiver, callback) in expired {
        let canister = state.canister_mut(&receiver).expect("it was just listed");
        let call = canister.ledger.callbacks.get_mut(&callback);
        call.expect("it was just listed").expired = true;
        let reject = Reject::new(601, "Call deadline has expired.");
        state.enqueue(Message::Response(Response {
            receiver,
            callback,
            result: CallResult::Reject(rejection(reject)),
            refund: 0,
        }));
    }
}

/// Rejects calls of `stop_canister` that waited too long.
fn expire_stops(state: &mut ReplicatedState) {
    let since_ns = state.time_ns.saturating_sub(STOP_TIMEOUT_NS);
    let waits = |canister: &Canister| {
        let calls = &canister.ledger.stop_calls;
        !canister.is_busy() && calls.iter().any(|call| call.since_ns < since_ns)
    };
    let late: Vec<Principal> = state
        .canisters()
        .iter()
        .filter(|(_, canister)| waits(canister))
        .map(|(id, _)| *id)
        .collect();
    for id in late {
        let canister = state.canister_mut(&id).expect("it was just listed");
        let (expired, waiting) = std::mem::take(&mut canister.ledger.stop_calls)
            .into_iter()
            .partition(|call| call.since_ns < since_ns);
        canister.ledger.stop_calls = waiting;
        for call in expired {
            let reject = Reject::new(206, "Stop canister request timed out");
            if let Some(output) = response(&call.origin, Err(reject), call.cycles) {
                put(state, output);
            }
        }
    }
}

/// Stops canisters that are stopping and have no call left, and says so to who waits.
pub(super) fn finish_stopping(state: &mut ReplicatedState) {
    let is_done = |canister: &Canister| {
        canister.state.run_state == RunState::Stopping
            && canister.ledger.contexts.is_empty()
            && !canister.is_busy()
    };
    let done: Vec<Principal> = state
        .canisters()
        .iter()
        .filter(|(_, canister)| is_done(canister))
        .map(|(id, _)| *id)
        .collect();
    for id in done {
        let canister = state.canister_mut(&id).expect("it was just listed");
        canister.state.run_state = RunState::Stopped;
        canister.state.version += 1;
        for call in std::mem::take(&mut canister.ledger.stop_calls) {
            let nothing = candid::encode_args(()).expect("nothing has a Candid form");
            if let Some(output) = response(&call.origin, Ok(nothing), call.cycles) {
                put(state, output);
            }
        }
    }
}

/// Takes from balances what storage and allocations have cost since the last time. A canister that
/// cannot pay loses its code, its memories, its snapshots, its allocations and the record of its changes.
fn charge(state: &mut ReplicatedState) {
    let now_ns = state.time_ns;
    let prices = state.genesis.prices();
    let held = state.held();
    let is_due = |canister: &Canister| {
        now_ns.saturating_sub(canister.ledger.paid_until_ns) >= PAYMENT_NS
            && !held.contains(&canister.state.id)
    };
    let owing: Vec<Principal> = state
        .canisters()
        .iter()
        .filter(|(_, canister)| is_due(canister))
        .map(|(id, _)| *id)
        .collect();
    for id in owing {
        let canister = state.canister_mut(&id).expect("it was just listed");
        let since_ns = now_ns.saturating_sub(canister.ledger.paid_until_ns);
        canister.ledger.paid_until_ns = now_ns;
        let price = canister.state.idle_cycles(prices, since_ns);
        let of_compute = prices.compute(canister.state.settings.compute_allocation, since_ns);
        let consumed = &mut canister.ledger.consumed;
        match canister.state.cycles.checked_sub(price) {
            Some(left) => {
                canister.state.cycles = left;
                consumed.compute_allocation += of_compute;
                consumed.memory += price - of_compute;
            }
            None => {
                consumed.uninstall += std::mem::take(&mut canister.state.cycles);
                canister.state.settings.compute_allocation = 0;
                canister.state.settings.memory_allocation = 0;
                canister.stored.snapshots.clear();
                uninstall(state, &id, None);
                let canister = state.canister_mut(&id).expect("it was just listed");
                canister.ledger.changes.clear();
                canister.account();
            }
        }
    }
}

/// Removes code, memories and chunks, and rejects the calls that are not answered. What `originator` asks
/// for becomes one of the canister's changes.
pub(super) fn uninstall(
    state: &mut ReplicatedState,
    id: &Principal,
    originator: Option<Originator>,
) {
    let now_ns = state.time_ns;
    let canister = state.canister_mut(id).expect("the caller has found it");
    let unanswered = empty(canister, now_ns, originator);
    reject_unanswered(state, id, unanswered);
}

/// Who is owed an answer, and the cycles that go with it.
pub(super) type Unanswered = Vec<(Origin, Cycles)>;

/// The part of [`uninstall`] that is about the canister alone.
pub(super) fn empty(
    canister: &mut Canister,
    now_ns: u64,
    originator: Option<Originator>,
) -> Unanswered {
    canister.state.installed = None;
    canister.state.stable = PagedMemory::default();
    canister.state.certified_data = Vec::new();
    canister.state.global_timer_ns = 0;
    canister.state.version += 1;
    canister.ledger.log.clear();
    canister.stored.chunks.clear();
    if let Some(originator) = originator {
        canister.record(now_ns, originator, ChangeDetails::CodeUninstall);
    }
    canister.note_memory();
    canister.account();
    let mut unanswered = Vec::new();
    canister.ledger.contexts.retain(|_, context| {
        context.abandoned = true;
        if !std::mem::replace(&mut context.answered, true) {
            let refund = std::mem::take(&mut context.cycles);
            unanswered.push((context.origin.clone(), refund));
        }
        context.calls_under_way > 0
    });
    unanswered
}

/// The part of [`uninstall`] that is about everybody else.
pub(super) fn reject_unanswered(
    state: &mut ReplicatedState,
    id: &Principal,
    unanswered: Unanswered,
) {
    state
        .sessions
        .sessions
        .retain(|_, session| session.owner != *id);
    for (origin, refund) in unanswered {
        let reject = Reject::new(CANISTER_REJECTED, "Canister has been uninstalled.");
        if let Some(output) = response(&origin, Err(reject), refund) {
            put(state, output);
        }
    }
}
