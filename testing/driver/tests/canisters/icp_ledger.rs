//! The ICP ledger: account identifiers and accounts are two names for the same balances.
use crate::support::{Account, account, encode, query, user, wasm};
use candid::{CandidType, Deserialize, Nat, Principal};
use lockstep_driver::{Reject, Subnet};
use serde_bytes::ByteBuf;
use std::time::Duration;

#[derive(CandidType, Deserialize, Clone, Copy, Debug, PartialEq)]
struct Tokens {
    e8s: u64,
}

#[derive(CandidType)]
struct InitArgs {
    fee: Tokens,
    minting_account: Account,
    development_balances: Vec<(Account, Tokens)>,
}

#[derive(CandidType, Clone)]
struct TimeStamp {
    timestamp_nanos: u64,
}

#[derive(CandidType, Clone)]
struct LegacyArgs {
    memo: u64,
    amount: Tokens,
    fee: Tokens,
    from_subaccount: Option<ByteBuf>,
    to: ByteBuf,
    created_at_time: Option<TimeStamp>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum LegacyError {
    BadFee { expected_fee: Tokens },
    InsufficientFunds { balance: Tokens },
    TxTooOld { allowed_window_nanos: u64 },
    TxCreatedInFuture,
    TxDuplicate { duplicate_of: u64 },
}

#[derive(CandidType)]
struct TransferArgs {
    to: Account,
    amount: Nat,
    fee: Option<Nat>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum TransferError {
    BadFee { expected_fee: Nat },
    InsufficientFunds { balance: Nat },
}

#[derive(CandidType)]
struct BalanceArgs {
    account: ByteBuf,
}

const FEE: u64 = 10_000;
const START: u64 = 1_000_000_000;

/// A ledger minted by user 0, on which user 1 has ten ICP.
struct Ledger {
    subnet: Subnet,
    id: Principal,
    wasm: &'static [u8],
}

impl Ledger {
    fn new() -> Option<Self> {
        let wasm = wasm("icp_ledger")?;
        let mut subnet = Subnet::new();
        let id = subnet.create_canister();
        subnet.install(id, wasm, &init(START)).unwrap();
        Some(Self { subnet, id, wasm })
    }

    fn identifier(&self, account: &Account) -> ByteBuf {
        query(&self.subnet, self.id, "account_identifier", &(account,)).unwrap()
    }

    fn to(&self, number: u8, e8s: u64) -> LegacyArgs {
        LegacyArgs {
            memo: 0,
            amount: Tokens { e8s },
            fee: Tokens { e8s: FEE },
            from_subaccount: None,
            to: self.identifier(&account(user(number))),
            created_at_time: None,
        }
    }

    fn send(&mut self, from: u8, args: &LegacyArgs) -> Result<Result<u64, LegacyError>, Reject> {
        let arguments = encode(&(args,));
        let reply = self
            .subnet
            .update(self.id, user(from), "transfer", &arguments)?;
        Ok(candid::decode_one(&reply).unwrap())
    }

    fn balance(&self, number: u8) -> u64 {
        let account = self.identifier(&account(user(number)));
        let arguments = (BalanceArgs { account },);
        let tokens: Tokens = query(&self.subnet, self.id, "account_balance", &arguments).unwrap();
        tokens.e8s
    }

    fn icrc1_balance(&self, number: u8) -> Nat {
        let arguments = (account(user(number)),);
        query(&self.subnet, self.id, "icrc1_balance_of", &arguments).unwrap()
    }

    fn supply(&self) -> Nat {
        query(&self.subnet, self.id, "icrc1_total_supply", &()).unwrap()
    }
}

fn init(balance: u64) -> Vec<u8> {
    encode(&(InitArgs {
        fee: Tokens { e8s: FEE },
        minting_account: account(user(0)),
        development_balances: vec![(account(user(1)), Tokens { e8s: balance })],
    },))
}

#[test]
fn account_identifiers_are_those_of_the_internet_computer() {
    let Some(ledger) = Ledger::new() else { return };
    let identifier = ledger.identifier(&account(Principal::anonymous()));
    assert_eq!(
        hex::encode(&identifier),
        "1c7a48ba6a562aa9eaa2481a9049cdf0433b9738c992d698c31d8abf89cadc79"
    );
    let zeros = Account {
        subaccount: Some(ByteBuf::from([0; 32])),
        ..account(Principal::anonymous())
    };
    assert_eq!(ledger.identifier(&zeros), identifier);
    let other = Account {
        subaccount: Some(ByteBuf::from([1; 32])),
        ..account(Principal::anonymous())
    };
    assert_ne!(ledger.identifier(&other), identifier);
}

#[test]
fn both_interfaces_move_the_same_balances() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let args = ledger.to(2, 500_000_000);
    assert_eq!(ledger.send(1, &args).unwrap(), Ok(0));
    assert_eq!(ledger.balance(1), 499_990_000);
    assert_eq!(ledger.icrc1_balance(2), 500_000_000_u64);
    let args = TransferArgs {
        to: account(user(3)),
        amount: 100_000_000_u64.into(),
        fee: Some(FEE.into()),
    };
    let arguments = encode(&(args,));
    let reply = ledger
        .subnet
        .update(ledger.id, user(2), "icrc1_transfer", &arguments);
    let sent: Result<Nat, TransferError> = candid::decode_one(&reply.unwrap()).unwrap();
    assert_eq!(sent, Ok(Nat::from(1_u8)));
    assert_eq!(ledger.balance(2), 399_990_000);
    assert_eq!(ledger.balance(3), 100_000_000);
    assert_eq!(ledger.supply(), START - 2 * FEE);
}

#[test]
fn what_cannot_be_sent_is_named() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let args = ledger.to(2, START);
    let balance = Tokens { e8s: START };
    let refused = ledger.send(1, &args).unwrap();
    assert_eq!(refused, Err(LegacyError::InsufficientFunds { balance }));
    let cheap = LegacyArgs {
        fee: Tokens { e8s: FEE - 1 },
        ..ledger.to(2, 1)
    };
    let expected_fee = Tokens { e8s: FEE };
    let refused = ledger.send(1, &cheap).unwrap();
    assert_eq!(refused, Err(LegacyError::BadFee { expected_fee }));
    let mut wrong = ledger.to(2, 1);
    wrong.to[0] ^= 1;
    let message = ledger.send(1, &wrong).unwrap_err().message;
    assert!(message.contains("check sequence is wrong"), "{message}");
    wrong.to = ByteBuf::from([1; 31]);
    let message = ledger.send(1, &wrong).unwrap_err().message;
    assert!(message.contains("32 bytes, not 31"), "{message}");
    assert_eq!(ledger.balance(1), START);
}

#[test]
fn transfers_with_a_time_are_executed_once_also_across_upgrades() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let timestamp_nanos = ledger.subnet.time_ns();
    let args = LegacyArgs {
        memo: 7,
        created_at_time: Some(TimeStamp { timestamp_nanos }),
        ..ledger.to(2, 100)
    };
    let duplicate_of = ledger.send(1, &args).unwrap().unwrap();
    let duplicate = Err(LegacyError::TxDuplicate { duplicate_of });
    assert_eq!(ledger.send(1, &args).unwrap(), duplicate);
    let (id, wasm) = (ledger.id, ledger.wasm);
    ledger.subnet.upgrade(id, wasm, b"", None).unwrap();
    assert_eq!(ledger.send(1, &args).unwrap(), duplicate);
    assert_eq!(ledger.balance(2), 100);
    // Another memo makes another transfer.
    let other = LegacyArgs {
        memo: 8,
        ..args.clone()
    };
    ledger.send(1, &other).unwrap().unwrap();
    assert_eq!(ledger.balance(2), 200);
    ledger
        .subnet
        .advance_time(Duration::from_secs(25 * 60 * 60));
    let allowed_window_nanos = 24 * 60 * 60 * 1_000_000_000;
    let refused = ledger.send(1, &args).unwrap();
    assert_eq!(
        refused,
        Err(LegacyError::TxTooOld {
            allowed_window_nanos
        })
    );
    let timestamp_nanos = ledger.subnet.time_ns() + 3_600_000_000_000;
    let early = LegacyArgs {
        created_at_time: Some(TimeStamp { timestamp_nanos }),
        ..args
    };
    let refused = ledger.send(1, &early).unwrap();
    assert_eq!(refused, Err(LegacyError::TxCreatedInFuture));
}

#[test]
fn the_supply_stays_within_64_bits() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let free = |mut args: LegacyArgs| {
        args.fee = Tokens { e8s: 0 };
        args
    };
    // The minting account makes tokens, up to the bound, and takes no fee.
    let rest = u64::MAX - START;
    let args = free(ledger.to(2, rest));
    ledger.send(0, &args).unwrap().unwrap();
    assert_eq!(ledger.supply(), u64::MAX);
    let args = free(ledger.to(2, 1));
    let message = ledger.send(0, &args).unwrap_err().message;
    assert!(message.contains("the supply exceeds"), "{message}");
    // What is sent to it is no more.
    let args = free(ledger.to(0, START));
    ledger.send(1, &args).unwrap().unwrap();
    assert_eq!(ledger.balance(1), 0);
    assert_eq!(ledger.supply(), rest);
    let args = free(ledger.to(0, FEE - 1));
    let message = ledger.send(2, &args).unwrap_err().message;
    assert!(message.contains("at least 10000 e8s"), "{message}");
}
