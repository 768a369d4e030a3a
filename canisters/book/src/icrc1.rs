//! The types of the standard ICRC-1, and what a ledger says about its token.
use crate::Account;
use candid::{CandidType, Deserialize, Int, Nat};
use serde_bytes::ByteBuf;

#[derive(CandidType, Deserialize, Clone, Debug)]
pub struct TransferArgs {
    pub from_subaccount: Option<ByteBuf>,
    pub to: Account,
    pub amount: Nat,
    pub fee: Option<Nat>,
    pub memo: Option<ByteBuf>,
    pub created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq, Eq)]
pub enum TransferError {
    BadFee { expected_fee: u128 },
    BadBurn { min_burn_amount: u128 },
    InsufficientFunds { balance: u128 },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    Duplicate { duplicate_of: u128 },
    TemporarilyUnavailable,
    GenericError { error_code: u128, message: String },
}

/// The standard's metadata value; these ledgers need two of its four kinds.
#[derive(CandidType, Debug)]
pub enum Value {
    Nat(Nat),
    Int(Int),
    Text(String),
    Blob(ByteBuf),
}

#[derive(CandidType, Debug)]
pub struct Standard {
    pub name: String,
    pub url: String,
}

/// The metadata of a token.
#[must_use]
pub fn metadata(name: &str, symbol: &str, decimals: u8, fee: u128) -> Vec<(String, Value)> {
    vec![
        ("icrc1:name".into(), Value::Text(name.into())),
        ("icrc1:symbol".into(), Value::Text(symbol.into())),
        ("icrc1:decimals".into(), Value::Nat(decimals.into())),
        ("icrc1:fee".into(), Value::Nat(fee.into())),
    ]
}

/// The standards that these ledgers keep to.
#[must_use]
pub fn standards() -> Vec<Standard> {
    vec![Standard {
        name: "ICRC-1".into(),
        url: "https://github.com/dfinity/ICRC-1".into(),
    }]
}
