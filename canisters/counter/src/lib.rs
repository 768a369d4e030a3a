//! A counter: the smallest canister that a client can do everything with. Tests of clients deploy it, and
//! `docs/clients.md`.
//!
//! # Invariants
//! The value survives upgrades; what an upgrade is given as first value is left aside.
use candid::{Nat, Principal};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query, update};
use std::cell::RefCell;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../counter.did").len()] =
    *include_bytes!("../counter.did");

thread_local! {
    static VALUE: RefCell<Nat> = RefCell::default();
}

#[init]
fn init(first: Nat) {
    VALUE.set(first);
}

#[pre_upgrade]
fn pre_upgrade() {
    ic_cdk::storage::stable_save((VALUE.take(),)).expect("a number is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (value,) = ic_cdk::storage::stable_restore().expect("it was saved before the upgrade");
    VALUE.set(value);
}

#[update]
fn increase(by: Nat) -> Nat {
    VALUE.with_borrow_mut(|value| {
        *value += by;
        value.clone()
    })
}

#[query]
fn get() -> Nat {
    VALUE.with_borrow(Nat::clone)
}

#[query]
fn whoami() -> Principal {
    api::msg_caller()
}

#[update]
fn whoami_certified() -> Principal {
    api::msg_caller()
}
