//! What a message moves between canisters: cycles and calls.
//!
//! # Invariants
//! Cycles that a call under construction holds have left the balance and are nowhere else; they come back
//! when it is dropped. Of the balance, calls and burning leave the cycles that keep the canister from
//! freezing.
use crate::engine::{Call, Cycles, Environment, OutgoingCall, Response};

/// A message's cycles and calls so far; nothing in a task of a fork.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    /// Before the message.
    balance: Cycles,
    /// What calls and burning must leave.
    frozen: Cycles,
    /// Came with the call and is not yet accepted.
    available: Cycles,
    pub(crate) accepted: Cycles,
    pub(crate) spent: Cycles,
    /// Whether the call was answered by an earlier message of its context.
    pub(crate) answered: bool,
    /// The call under construction; its cycles are neither in the balance nor spent.
    pub(crate) draft: Option<OutgoingCall>,
    pub(crate) calls: Vec<OutgoingCall>,
    /// Bytes that calls may still have.
    bytes_left: u64,
}

impl Exchange {
    pub(crate) fn new(balance: Cycles, call: &Call, environment: &Environment<'_>) -> Self {
        Self {
            balance,
            frozen: environment.frozen_cycles,
            available: call.cycles_available,
            answered: call.answered,
            bytes_left: environment.message_bytes,
            ..Self::default()
        }
    }

    pub(crate) fn balance(&self) -> Cycles {
        let held = self.draft.as_ref().map_or(0, |draft| draft.cycles);
        self.balance
            .saturating_add(self.accepted)
            .saturating_sub(self.spent)
            .saturating_sub(held)
    }

    /// What calls and burning may take.
    pub(crate) fn liquid(&self) -> Cycles {
        self.balance().saturating_sub(self.frozen)
    }

    /// What of the call's cycles can still be accepted; answering has sent the rest back.
    pub(crate) fn available(&self, response: Option<&Response>) -> Cycles {
        if self.answered || response.is_some() {
            0
        } else {
            self.available
        }
    }

    pub(crate) fn accept(&mut self, most: Cycles, response: Option<&Response>) -> Cycles {
        let amount = self.available(response).min(most);
        self.available -= amount;
        self.accepted = self.accepted.saturating_add(amount);
        amount
    }

    pub(crate) fn burn(&mut self, most: Cycles) -> Cycles {
        let amount = self.liquid().min(most);
        self.spent += amount;
        amount
    }

    /// Sends the call under construction, of so many bytes, unless there is no room for them, or the balance
    /// does not allow for its fee and what it prepays; then its cycles come back.
    pub(crate) fn send(&mut self, draft: OutgoingCall, bytes: u64, fee: Cycles) -> bool {
        let cost = fee
            .saturating_add(draft.prepaid)
            .saturating_add(draft.cycles);
        if cost > self.liquid() || bytes > self.bytes_left {
            return false;
        }
        self.bytes_left -= bytes;
        self.spent += cost;
        self.calls.push(draft);
        true
    }
}
