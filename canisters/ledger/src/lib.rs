//! A token ledger with the interface ICRC-1: accounts with subaccounts, a fee that is burned, memos, and transfers that
//! are executed once however often they are sent.
//!
//! # Design
//! Everything is decided in the crate `book`, which knows no system; this file is its interface.
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
use book::{
    Account, Book, Holder, Rules, Saved as SavedBook,
    icrc1::{Standard, TransferArgs, TransferError, Value, metadata, standards},
};
use candid::{CandidType, Deserialize, Nat};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query, update};
use std::cell::RefCell;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../ledger.did").len()] =
    *include_bytes!("../ledger.did");

#[derive(CandidType, Deserialize, Clone, Debug)]
struct Config {
    name: String,
    symbol: String,
    decimals: u8,
    fee: u128,
    minting_account: Account,
    initial_balances: Vec<(Account, u128)>,
    recent_max: Option<u32>,
}

impl Config {
    fn rules(&self) -> Result<Rules<Holder>, String> {
        Ok(Rules {
            fee: self.fee,
            minting: Some(Holder::try_from(&self.minting_account)?),
            supply_max: u128::MAX,
            recent_max: self.recent_max,
        })
    }
}

struct Ledger {
    config: Config,
    book: Book<Holder>,
}

/// The ledger in stable memory during an upgrade.
#[derive(CandidType, Deserialize)]
struct Saved {
    config: Config,
    book: SavedBook,
}

impl Ledger {
    fn new(mut config: Config) -> Result<Self, String> {
        let balances = std::mem::take(&mut config.initial_balances);
        let balances: Result<Vec<_>, String> = balances
            .iter()
            .map(|(account, amount)| Ok((Holder::try_from(account)?, *amount)))
            .collect();
        let book = Book::new(config.rules()?, balances?)?;
        Ok(Self { config, book })
    }

    fn restore(saved: Saved) -> Result<Self, String> {
        let book = Book::restore(saved.config.rules()?, saved.book)?;
        let config = saved.config;
        Ok(Self { config, book })
    }
}

thread_local! {
    static LEDGER: RefCell<Option<Ledger>> = const { RefCell::new(None) };
}

fn with<R>(read: impl FnOnce(&Ledger) -> R) -> R {
    LEDGER.with_borrow(|ledger| read(ledger.as_ref().expect("set when installed")))
}

fn open(ledger: Result<Ledger, String>) {
    match ledger {
        Ok(ledger) => LEDGER.set(Some(ledger)),
        Err(reason) => api::trap(reason),
    }
}

#[init]
fn init(config: Config) {
    open(Ledger::new(config));
}

#[pre_upgrade]
fn pre_upgrade() {
    let Ledger { config, book } = LEDGER.take().expect("set when installed");
    let book = book.save();
    ic_cdk::storage::stable_save((Saved { config, book },)).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (saved,): (Saved,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    open(Ledger::restore(saved));
}

#[query]
fn icrc1_name() -> String {
    with(|ledger| ledger.config.name.clone())
}

#[query]
fn icrc1_symbol() -> String {
    with(|ledger| ledger.config.symbol.clone())
}

#[query]
fn icrc1_decimals() -> u8 {
    with(|ledger| ledger.config.decimals)
}

#[query]
fn icrc1_fee() -> u128 {
    with(|ledger| ledger.config.fee)
}

#[query]
fn icrc1_metadata() -> Vec<(String, Value)> {
    with(|Ledger { config, .. }| {
        metadata(&config.name, &config.symbol, config.decimals, config.fee)
    })
}

#[query]
fn icrc1_total_supply() -> u128 {
    with(|ledger| ledger.book.total_supply())
}

#[query]
fn icrc1_minting_account() -> Option<Account> {
    with(|ledger| Some(ledger.config.minting_account.clone()))
}

#[query]
fn icrc1_balance_of(account: Account) -> u128 {
    match Holder::try_from(&account) {
        Ok(holder) => with(|ledger| ledger.book.balance(&holder)),
        Err(reason) => api::trap(reason),
    }
}

#[update]
fn icrc1_transfer(args: TransferArgs) -> Result<Nat, TransferError> {
    LEDGER.with_borrow_mut(|ledger| {
        let book = &mut ledger.as_mut().expect("set when installed").book;
        let index = book.icrc1_transfer(api::msg_caller(), args, api::time())?;
        Ok(index.into())
    })
}

#[query]
fn icrc1_supported_standards() -> Vec<Standard> {
    standards()
}
