//! The ICP ledger's interface: transfers between account identifiers, and the standard ICRC-1 on the same balances.
//!
//! # Design
//! Balances are decided in the crate `book` and kept by account identifier, as the digest of an account cannot be undone.
//! Transfers are numbered; the chain of blocks that the Internet Computer's ledger keeps does not exist here.
//!
//! # Invariants
//! The total supply is the sum of all balances and fits into 64 bits. Balances, numbers and remembered transfers survive
//! upgrades.
//!
//! # Errors
//! Those of the interface. What its replies have no place for traps: an account identifier or subaccount that is none, a
//! burn of less than the fee, a supply beyond its bound.
mod identifier;

use book::{
    Account, Book, Holder, Order, Rules, Saved as SavedBook, WINDOW_NS,
    icrc1::{Standard, TransferArgs, TransferError, Value, metadata, standards},
};
use candid::{CandidType, Deserialize, Nat};
use ic_cdk::{api, init, post_upgrade, pre_upgrade, query, update};
use identifier::AccountIdentifier;
use serde_bytes::ByteBuf;
use std::cell::RefCell;

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../icp_ledger.did").len()] =
    *include_bytes!("../icp_ledger.did");

const TOKEN_NAME: &str = "Internet Computer";
const TOKEN_SYMBOL: &str = "ICP";
const DECIMALS: u8 = 8;

#[derive(CandidType, Deserialize, Clone, Copy)]
struct Tokens {
    e8s: u64,
}

#[derive(CandidType, Deserialize)]
struct InitArgs {
    fee: Tokens,
    minting_account: Account,
    development_balances: Vec<(Account, Tokens)>,
}

#[derive(CandidType, Deserialize)]
struct TimeStamp {
    timestamp_nanos: u64,
}

#[derive(CandidType, Deserialize)]
struct LegacyTransferArgs {
    memo: u64,
    amount: Tokens,
    fee: Tokens,
    from_subaccount: Option<ByteBuf>,
    to: ByteBuf,
    created_at_time: Option<TimeStamp>,
}

#[derive(CandidType)]
enum LegacyTransferError {
    BadFee { expected_fee: Tokens },
    InsufficientFunds { balance: Tokens },
    TxTooOld { allowed_window_nanos: u64 },
    TxCreatedInFuture,
    TxDuplicate { duplicate_of: u64 },
}

#[derive(CandidType, Deserialize)]
struct BalanceArgs {
    account: ByteBuf,
}

#[derive(CandidType)]
struct TokenName {
    name: &'static str,
}

#[derive(CandidType)]
struct TokenSymbol {
    symbol: &'static str,
}

#[derive(CandidType)]
struct TokenDecimals {
    decimals: u32,
}

#[derive(CandidType, Deserialize)]
struct TransferFeeArgs {}

#[derive(CandidType)]
struct TransferFee {
    transfer_fee: Tokens,
}

struct Ledger {
    minting_account: Account,
    book: Book<AccountIdentifier>,
}

/// The ledger in stable memory during an upgrade.
#[derive(CandidType, Deserialize)]
struct Saved {
    fee: u128,
    minting_account: Account,
    book: SavedBook,
}

fn rules(fee: u128, minting_account: &Account) -> Result<Rules<AccountIdentifier>, String> {
    Ok(Rules {
        fee,
        minting: Some(Holder::try_from(minting_account)?.into()),
        supply_max: u64::MAX.into(),
        recent_max: None,
    })
}

impl Ledger {
    fn new(args: InitArgs) -> Result<Self, String> {
        let balances = args.development_balances.iter();
        let balances: Result<Vec<_>, String> = balances
            .map(|(account, tokens)| Ok((Holder::try_from(account)?.into(), tokens.e8s.into())))
            .collect();
        let rules = rules(args.fee.e8s.into(), &args.minting_account)?;
        Ok(Self {
            minting_account: args.minting_account,
            book: Book::new(rules, balances?)?,
        })
    }

    fn restore(saved: Saved) -> Result<Self, String> {
        let rules = rules(saved.fee, &saved.minting_account)?;
        Ok(Self {
            minting_account: saved.minting_account,
            book: Book::restore(rules, saved.book)?,
        })
    }
}

thread_local! {
    static LEDGER: RefCell<Option<Ledger>> = const { RefCell::new(None) };
}

fn with<R>(read: impl FnOnce(&Ledger) -> R) -> R {
    LEDGER.with_borrow(|ledger| read(ledger.as_ref().expect("set when installed")))
}

fn with_mut<R>(change: impl FnOnce(&mut Ledger) -> R) -> R {
    LEDGER.with_borrow_mut(|ledger| change(ledger.as_mut().expect("set when installed")))
}

fn or_trap<T>(result: Result<T, String>) -> T {
    result.unwrap_or_else(|reason| api::trap(reason))
}

/// An amount of a ledger whose supply fits into 64 bits.
fn tokens(amount: u128) -> Tokens {
    Tokens {
        e8s: amount.try_into().expect("the supply fits into 64 bits"),
    }
}

#[init]
fn init(args: InitArgs) {
    LEDGER.set(Some(or_trap(Ledger::new(args))));
}

#[pre_upgrade]
fn pre_upgrade() {
    let ledger = LEDGER.take().expect("set when installed");
    let saved = Saved {
        fee: ledger.book.fee(),
        minting_account: ledger.minting_account,
        book: ledger.book.save(),
    };
    ic_cdk::storage::stable_save((saved,)).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (saved,): (Saved,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    LEDGER.set(Some(or_trap(Ledger::restore(saved))));
}

#[update]
fn transfer(args: LegacyTransferArgs) -> Result<u64, LegacyTransferError> {
    let from = Holder::new(api::msg_caller(), args.from_subaccount.as_ref());
    let order = Order {
        from: or_trap(from).into(),
        to: Some(or_trap(AccountIdentifier::parse(&args.to))),
        amount: Some(args.amount.e8s.into()),
        fee: Some(args.fee.e8s.into()),
        memo: None,
        // Apart from the memos of ICRC-1, which are bytes.
        detail: Some(args.memo.to_be_bytes().into()),
        created_at_time: args.created_at_time.map(|time| time.timestamp_nanos),
    };
    let transferred = with_mut(|ledger| ledger.book.transfer(order, api::time()));
    transferred.map_err(|error| match error {
        TransferError::BadFee { expected_fee } => LegacyTransferError::BadFee {
            expected_fee: tokens(expected_fee),
        },
        TransferError::InsufficientFunds { balance } => LegacyTransferError::InsufficientFunds {
            balance: tokens(balance),
        },
        TransferError::TooOld => LegacyTransferError::TxTooOld {
            allowed_window_nanos: WINDOW_NS,
        },
        TransferError::CreatedInFuture { .. } => LegacyTransferError::TxCreatedInFuture,
        TransferError::Duplicate { duplicate_of } => LegacyTransferError::TxDuplicate {
            duplicate_of: duplicate_of.try_into().expect("it is a number of ours"),
        },
        TransferError::BadBurn { min_burn_amount } => {
            api::trap(format!("a burn has at least {min_burn_amount} e8s"))
        }
        TransferError::TemporarilyUnavailable => {
            api::trap("too many transfers with a time of creation; try again later")
        }
        TransferError::GenericError { message, .. } => api::trap(message),
    })
}

#[query]
fn account_balance(args: BalanceArgs) -> Tokens {
    let account = or_trap(AccountIdentifier::parse(&args.account));
    tokens(with(|ledger| ledger.book.balance(&account)))
}

#[query]
fn account_identifier(account: Account) -> ByteBuf {
    let identifier = AccountIdentifier::from(or_trap(Holder::try_from(&account)));
    ByteBuf::from(identifier.checked())
}

#[query]
fn name() -> TokenName {
    TokenName { name: TOKEN_NAME }
}

#[query]
fn symbol() -> TokenSymbol {
    TokenSymbol {
        symbol: TOKEN_SYMBOL,
    }
}

#[query]
fn decimals() -> TokenDecimals {
    TokenDecimals {
        decimals: DECIMALS.into(),
    }
}

#[query]
fn transfer_fee(_: TransferFeeArgs) -> TransferFee {
    TransferFee {
        transfer_fee: tokens(with(|ledger| ledger.book.fee())),
    }
}

#[query]
fn icrc1_name() -> &'static str {
    TOKEN_NAME
}

#[query]
fn icrc1_symbol() -> &'static str {
    TOKEN_SYMBOL
}

#[query]
fn icrc1_decimals() -> u8 {
    DECIMALS
}

#[query]
fn icrc1_fee() -> u128 {
    with(|ledger| ledger.book.fee())
}

#[query]
fn icrc1_metadata() -> Vec<(String, Value)> {
    metadata(TOKEN_NAME, TOKEN_SYMBOL, DECIMALS, icrc1_fee())
}

#[query]
fn icrc1_total_supply() -> u128 {
    with(|ledger| ledger.book.total_supply())
}

#[query]
fn icrc1_minting_account() -> Option<Account> {
    with(|ledger| Some(ledger.minting_account.clone()))
}

#[query]
fn icrc1_balance_of(account: Account) -> u128 {
    let account = or_trap(Holder::try_from(&account)).into();
    with(|ledger| ledger.book.balance(&account))
}

#[update]
fn icrc1_transfer(args: TransferArgs) -> Result<Nat, TransferError> {
    with_mut(|ledger| {
        let book = &mut ledger.book;
        let index = book.icrc1_transfer(api::msg_caller(), args, api::time())?;
        Ok(index.into())
    })
}

#[query]
fn icrc1_supported_standards() -> Vec<Standard> {
    standards()
}
