//! A token ledger with the interface ICRC-1: accounts with subaccounts, a fee that is burned, memos, and transfers that
//! are executed once however often they are sent.
//!
//! # Design
//! Everything is decided in `book`, which knows no system; this file is its interface. Transfers are numbered, from 0
//! on; what they were is not kept beyond what telling duplicates needs.
//!
//! # Invariants
//! The total supply is the sum of all balances. Balances, numbers and remembered transfers survive upgrades.
//!
//! # Units and bounds
//! Amounts in the token's smallest part, held in 128 bits: an amount beyond is one that nobody has. A transfer with a
//! time of creation is good for a day from then, and for clocks that differ by a minute.
//!
//! # Errors
//! Those of the standard. A query for an account whose subaccount has not 32 bytes traps, as its reply has no place for
//! a reason; so does an installation with a configuration that makes no sense.
mod account;
mod book;

use account::{Account, Holder};
use book::{Book, Config, Saved, TransferArgs, TransferError};
use candid::{CandidType, Int, Nat};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query, update};
use serde_bytes::ByteBuf;
use std::cell::RefCell;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../ledger.did").len()] =
    *include_bytes!("../ledger.did");

/// The standard's metadata value; this ledger needs two of its four kinds.
#[derive(CandidType)]
#[expect(dead_code, reason = "the type is the standard's")]
enum Value {
    Nat(Nat),
    Int(Int),
    Text(String),
    Blob(ByteBuf),
}

#[derive(CandidType)]
struct Standard {
    name: String,
    url: String,
}

thread_local! {
    static BOOK: RefCell<Option<Book>> = const { RefCell::new(None) };
}

fn with<R>(read: impl FnOnce(&Book) -> R) -> R {
    BOOK.with_borrow(|book| read(book.as_ref().expect("set when installed")))
}

fn open(book: Result<Book, String>) {
    match book {
        Ok(book) => BOOK.set(Some(book)),
        Err(reason) => api::trap(reason),
    }
}

#[init]
fn init(config: Config) {
    open(Book::new(config));
}

#[pre_upgrade]
fn pre_upgrade() {
    let book = BOOK.take().expect("set when installed");
    ic_cdk::storage::stable_save((book.save(),)).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (saved,): (Saved,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    open(Book::restore(saved));
}

#[query]
fn icrc1_name() -> String {
    with(|book| book.config.name.clone())
}

#[query]
fn icrc1_symbol() -> String {
    with(|book| book.config.symbol.clone())
}

#[query]
fn icrc1_decimals() -> u8 {
    with(|book| book.config.decimals)
}

#[query]
fn icrc1_fee() -> u128 {
    with(|book| book.config.fee)
}

#[query]
fn icrc1_metadata() -> Vec<(String, Value)> {
    with(|book| {
        let Config {
            name,
            symbol,
            decimals,
            fee,
            ..
        } = &book.config;
        vec![
            ("icrc1:name".into(), Value::Text(name.clone())),
            ("icrc1:symbol".into(), Value::Text(symbol.clone())),
            ("icrc1:decimals".into(), Value::Nat((*decimals).into())),
            ("icrc1:fee".into(), Value::Nat((*fee).into())),
        ]
    })
}

#[query]
fn icrc1_total_supply() -> u128 {
    with(Book::total_supply)
}

#[query]
fn icrc1_minting_account() -> Option<Account> {
    with(|book| Some(book.config.minting_account.clone()))
}

#[query]
fn icrc1_balance_of(account: Account) -> u128 {
    match Holder::try_from(&account) {
        Ok(holder) => with(|book| book.balance(&holder)),
        Err(reason) => api::trap(reason),
    }
}

#[update]
fn icrc1_transfer(args: TransferArgs) -> Result<Nat, TransferError> {
    BOOK.with_borrow_mut(|book| {
        let book = book.as_mut().expect("set when installed");
        let index = book.transfer(api::msg_caller(), &args, api::time())?;
        Ok(index.into())
    })
}

#[query]
fn icrc1_supported_standards() -> Vec<Standard> {
    vec![Standard {
        name: "ICRC-1".into(),
        url: "https://github.com/dfinity/ICRC-1".into(),
    }]
}
