//! The ledger keeps to ICRC-1, and its supply is conserved.
use crate::support::{Account, account, encode, install, query, update, user, wasm};
use candid::{CandidType, Int, Nat, Principal};
use lockstep_driver::Subnet;
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::{collections::BTreeMap, time::Duration};

#[derive(CandidType, Clone)]
struct Config {
    name: String,
    symbol: String,
    decimals: u8,
    fee: Nat,
    minting_account: Account,
    initial_balances: Vec<(Account, Nat)>,
    recent_max: Option<u32>,
}

#[derive(CandidType, Clone)]
struct TransferArgs {
    from_subaccount: Option<ByteBuf>,
    to: Account,
    amount: Nat,
    fee: Option<Nat>,
    memo: Option<ByteBuf>,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Clone, Debug, PartialEq)]
enum TransferError {
    BadFee { expected_fee: Nat },
    BadBurn { min_burn_amount: Nat },
    InsufficientFunds { balance: Nat },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    Duplicate { duplicate_of: Nat },
    TemporarilyUnavailable,
    GenericError { error_code: Nat, message: String },
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum Value {
    Nat(Nat),
    Int(Int),
    Text(String),
    Blob(ByteBuf),
}

#[derive(CandidType, Deserialize, Debug)]
struct Standard {
    name: String,
    url: String,
}

const FEE: u64 = 10;

fn to(number: u8, amount: u64) -> TransferArgs {
    TransferArgs {
        from_subaccount: None,
        to: account(user(number)),
        amount: amount.into(),
        fee: None,
        memo: None,
        created_at_time: None,
    }
}

/// A ledger minted by user 0, where user 1 has 1000 and remembered transfers are at most three.
struct Ledger {
    subnet: Subnet,
    id: Principal,
    wasm: &'static [u8],
}

impl Ledger {
    fn new() -> Option<Self> {
        let wasm = wasm("ledger")?;
        let mut subnet = Subnet::new();
        let id = install(&mut subnet, wasm, &(config(),));
        Some(Self { subnet, id, wasm })
    }

    fn transfer(&mut self, from: u8, args: &TransferArgs) -> Result<Nat, TransferError> {
        let arguments = encode(&(args,));
        let reply = self
            .subnet
            .update(self.id, user(from), "icrc1_transfer", &arguments);
        candid::decode_one(&reply.unwrap()).unwrap()
    }

    fn ask<R: CandidType + for<'a> Deserialize<'a>>(&self, method: &str) -> R {
        query(&self.subnet, self.id, method, &()).unwrap()
    }

    fn balance(&self, account: &Account) -> Nat {
        query(&self.subnet, self.id, "icrc1_balance_of", &(account,)).unwrap()
    }

    fn supply(&self) -> Nat {
        self.ask("icrc1_total_supply")
    }

    fn upgrade(&mut self) {
        self.subnet
            .upgrade(self.id, self.wasm, &encode(&(config(),)), None)
            .unwrap();
    }
}

fn config() -> Config {
    Config {
        name: "Token".into(),
        symbol: "TKN".into(),
        decimals: 8,
        fee: FEE.into(),
        minting_account: account(user(0)),
        initial_balances: vec![(account(user(1)), 1000_u64.into())],
        recent_max: Some(3),
    }
}

fn nat(value: u64) -> Nat {
    value.into()
}

#[test]
fn the_interface_is_the_standards() {
    let Some(ledger) = Ledger::new() else { return };
    assert_eq!(ledger.ask::<String>("icrc1_name"), "Token");
    assert_eq!(ledger.ask::<String>("icrc1_symbol"), "TKN");
    assert_eq!(ledger.ask::<u8>("icrc1_decimals"), 8);
    assert_eq!(ledger.ask::<Nat>("icrc1_fee"), nat(FEE));
    assert_eq!(ledger.supply(), nat(1000));
    let minting: Option<Account> = ledger.ask("icrc1_minting_account");
    assert_eq!(minting, Some(account(user(0))));
    let metadata: Vec<(String, Value)> = ledger.ask("icrc1_metadata");
    let expected = [
        ("icrc1:name", Value::Text("Token".into())),
        ("icrc1:symbol", Value::Text("TKN".into())),
        ("icrc1:decimals", Value::Nat(nat(8))),
        ("icrc1:fee", Value::Nat(nat(FEE))),
    ];
    assert_eq!(
        metadata,
        expected.map(|(key, value)| (key.to_owned(), value))
    );
    let standards: Vec<Standard> = ledger.ask("icrc1_supported_standards");
    assert_eq!(standards.len(), 1);
    assert_eq!(standards[0].name, "ICRC-1");
    assert!(standards[0].url.ends_with("/ICRC-1"));
}

#[test]
fn transfers_move_mint_and_burn() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    assert_eq!(ledger.transfer(1, &to(2, 100)), Ok(nat(0)));
    assert_eq!(ledger.balance(&account(user(1))), nat(890));
    assert_eq!(ledger.balance(&account(user(2))), nat(100));
    assert_eq!(ledger.supply(), nat(990), "the fee is burned");
    assert_eq!(ledger.transfer(0, &to(2, 5)), Ok(nat(1)), "minted");
    assert_eq!(ledger.supply(), nat(995));
    assert_eq!(
        ledger.transfer(2, &to(0, 50)),
        Ok(nat(2)),
        "burned, without fee"
    );
    assert_eq!(ledger.balance(&account(user(2))), nat(55));
    assert_eq!(ledger.balance(&account(user(0))), nat(0));
    assert_eq!(ledger.supply(), nat(945));
    // Subaccounts are accounts of their own, but the one of zeros is none.
    let sub = |byte| Some(ByteBuf::from(vec![byte; 32]));
    let mut args = to(1, 100);
    args.to.subaccount = sub(7);
    assert_eq!(ledger.transfer(1, &args), Ok(nat(3)));
    assert_eq!(ledger.balance(&args.to), nat(100));
    args.to.subaccount = sub(0);
    assert_eq!(ledger.balance(&args.to), nat(780));
    let mut args = to(1, 90);
    args.from_subaccount = sub(7);
    args.fee = Some(nat(FEE));
    args.memo = Some(ByteBuf::from(vec![1; 32]));
    assert_eq!(
        ledger.transfer(1, &args),
        Ok(nat(4)),
        "back again, to the last"
    );
    assert_eq!(ledger.balance(&account(user(1))), nat(870));
    // To oneself it costs the fee; nothing at all may be sent.
    assert_eq!(ledger.transfer(1, &to(1, 860)), Ok(nat(5)));
    assert_eq!(ledger.balance(&account(user(1))), nat(860));
    assert_eq!(ledger.transfer(1, &to(2, 0)), Ok(nat(6)));
    assert_eq!(ledger.balance(&account(user(1))), nat(850));
}

#[test]
fn every_refusal_is_the_standards_and_changes_nothing() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let args = to(2, 100);
    let refused = |ledger: &mut Ledger, from, args: &TransferArgs, expected: TransferError| {
        assert_eq!(ledger.transfer(from, args), Err(expected));
        assert_eq!(ledger.supply(), nat(1000));
        assert_eq!(ledger.balance(&account(user(1))), nat(1000));
    };
    let expected_fee = |fee| TransferError::BadFee {
        expected_fee: nat(fee),
    };
    let fee = |args: TransferArgs, fee: Nat| TransferArgs {
        fee: Some(fee),
        ..args
    };
    refused(&mut ledger, 1, &fee(args.clone(), nat(9)), expected_fee(10));
    let huge = Nat::from(u128::MAX) * 16_u64;
    refused(
        &mut ledger,
        1,
        &fee(args.clone(), huge.clone()),
        expected_fee(10),
    );
    refused(&mut ledger, 0, &fee(args.clone(), nat(10)), expected_fee(0));
    refused(&mut ledger, 1, &fee(to(0, 100), nat(10)), expected_fee(0));

    let min_burn_amount = nat(FEE);
    refused(
        &mut ledger,
        1,
        &to(0, 9),
        TransferError::BadBurn { min_burn_amount },
    );

    let poor = |balance| TransferError::InsufficientFunds {
        balance: nat(balance),
    };
    refused(&mut ledger, 1, &to(2, 991), poor(1000));
    refused(&mut ledger, 1, &to(0, 1001), poor(1000));
    refused(&mut ledger, 3, &to(2, 0), poor(0));
    for amount in [huge.clone(), u128::MAX.into(), Nat::from(u128::MAX) + 1_u64] {
        let args = TransferArgs {
            amount,
            ..args.clone()
        };
        refused(&mut ledger, 1, &args, poor(1000));
        let burn = TransferArgs {
            to: account(user(0)),
            ..args.clone()
        };
        refused(&mut ledger, 1, &burn, poor(1000));
        let Err(TransferError::GenericError { message, .. }) = ledger.transfer(0, &args) else {
            panic!("the supply does not fit");
        };
        assert_eq!(
            message,
            "the supply exceeds 340282366920938463463374607431768211455"
        );
    }

    let generic = |error_code, message: &str| TransferError::GenericError {
        error_code: nat(error_code),
        message: message.into(),
    };
    let mut short = args.clone();
    short.to.subaccount = Some(ByteBuf::from(vec![1; 31]));
    refused(
        &mut ledger,
        1,
        &short,
        generic(1, "a subaccount has 32 bytes, not 31"),
    );
    let mut short = args.clone();
    short.from_subaccount = Some(ByteBuf::from(vec![]));
    refused(
        &mut ledger,
        1,
        &short,
        generic(1, "a subaccount has 32 bytes, not 0"),
    );
    let mut long = args.clone();
    long.memo = Some(ByteBuf::from(vec![1; 33]));
    refused(
        &mut ledger,
        1,
        &long,
        generic(2, "a memo has at most 32 bytes, not 33"),
    );
    let text = "the minting account cannot mint to itself";
    refused(&mut ledger, 0, &to(0, 100), generic(3, text));

    let bad = Account {
        owner: user(1),
        subaccount: Some(ByteBuf::from(vec![0; 33])),
    };
    let error = query::<Nat>(&ledger.subnet, ledger.id, "icrc1_balance_of", &(bad,)).unwrap_err();
    assert!(
        error.message.contains("a subaccount has 32 bytes, not 33"),
        "{error}"
    );
    assert_eq!(
        ledger.transfer(1, &args),
        Ok(nat(0)),
        "refusals have no number"
    );
}

#[test]
fn a_transfer_is_executed_once_within_its_window() {
    const MINUTE: u64 = 60_000_000_000;
    const DAY: u64 = 24 * 60 * MINUTE;
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let now = ledger.subnet.time_ns();
    let at = |time, amount| TransferArgs {
        created_at_time: Some(time),
        ..to(2, amount)
    };
    assert_eq!(ledger.transfer(1, &at(now, 1)), Ok(nat(0)));
    let duplicate = |of| {
        Err(TransferError::Duplicate {
            duplicate_of: nat(of),
        })
    };
    assert_eq!(ledger.transfer(1, &at(now, 1)), duplicate(0));
    ledger.upgrade();
    assert_eq!(
        ledger.transfer(1, &at(now, 1)),
        duplicate(0),
        "after an upgrade"
    );
    // Any difference makes another transfer; without a time every one is.
    assert_eq!(ledger.transfer(1, &at(now + 1, 1)), Ok(nat(1)));
    let other = TransferArgs {
        memo: Some(ByteBuf::from(vec![1])),
        ..at(now, 1)
    };
    assert_eq!(ledger.transfer(1, &other), Ok(nat(2)));
    assert_eq!(ledger.transfer(1, &to(2, 1)), Ok(nat(3)));
    assert_eq!(ledger.transfer(1, &to(2, 1)), Ok(nat(4)));
    // Three are remembered; a fourth has to wait, a duplicate is still one.
    let unavailable = Err(TransferError::TemporarilyUnavailable);
    assert_eq!(ledger.transfer(1, &at(now, 2)), unavailable);
    assert_eq!(ledger.transfer(1, &other), duplicate(2));
    let before = ledger.supply();
    let late = ledger.subnet.time_ns() + 2 * MINUTE;
    let Err(TransferError::CreatedInFuture { ledger_time }) = ledger.transfer(1, &at(late, 1))
    else {
        panic!("it is of the future");
    };
    assert!((now..late).contains(&ledger_time));
    let old = now - DAY - 2 * MINUTE;
    assert_eq!(ledger.transfer(1, &at(old, 1)), Err(TransferError::TooOld));
    assert_eq!(ledger.supply(), before);
    // When the window is over, it is too late for the first and there is room again.
    ledger
        .subnet
        .advance_time(Duration::from_nanos(DAY + 2 * MINUTE));
    assert_eq!(ledger.transfer(1, &at(now, 1)), Err(TransferError::TooOld));
    let now = ledger.subnet.time_ns();
    assert_eq!(ledger.transfer(1, &at(now, 1)), Ok(nat(5)));
}

#[test]
fn the_supply_is_conserved_under_random_transfers() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let mut balances = BTreeMap::from([(1_u8, 1000_u64)]);
    let mut next = 0;
    let (mut moved, mut refused) = (0, 0);
    let mut seed = 1_u64;
    for turn in 0..400 {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let draw = |shift: u32, below: u64| (seed >> shift) % below;
        let (from, receiver) = (draw(60, 5) as u8, draw(56, 5) as u8);
        let amount = draw(40, 200);
        let result = ledger.transfer(from, &to(receiver, amount));
        let balance = balances.get(&from).copied().unwrap_or(0);
        let fits = match (from, receiver) {
            (0, 0) => false,
            (0, _) => true,
            (_, 0) => amount >= FEE && amount <= balance,
            _ => amount + FEE <= balance,
        };
        if fits {
            assert_eq!(result, Ok(nat(next)), "turn {turn}");
            next += 1;
            moved += 1;
            let fee = if from == 0 || receiver == 0 { 0 } else { FEE };
            *balances.entry(from).or_default() -= if from == 0 { 0 } else { amount + fee };
            *balances.entry(receiver).or_default() += if receiver == 0 { 0 } else { amount };
        } else {
            assert!(result.is_err(), "turn {turn}");
            refused += 1;
        }
        let sum: u64 = balances.values().sum();
        assert_eq!(ledger.supply(), nat(sum), "turn {turn}");
        if turn % 100 == 50 {
            ledger.upgrade();
            for number in 0..5 {
                let expected = balances.get(&number).copied().unwrap_or(0);
                assert_eq!(ledger.balance(&account(user(number))), nat(expected));
            }
        }
    }
    assert!(moved > 100 && refused > 50, "{moved} {refused}");
}

#[test]
fn configurations_without_sense_are_not_installed() {
    let Some(wasm) = wasm("ledger") else { return };
    let mut subnet = Subnet::new();
    let refusal = |subnet: &mut Subnet, config: Config| {
        let id = subnet.create_canister();
        subnet.install(id, wasm, &encode(&(config,))).unwrap_err()
    };
    let mut minting = config();
    minting.initial_balances.push((account(user(0)), nat(1)));
    let error = refusal(&mut subnet, minting);
    assert!(
        error.message.contains("the minting account has no balance"),
        "{error}"
    );
    let mut rich = config();
    rich.initial_balances
        .push((account(user(2)), u128::MAX.into()));
    let error = refusal(&mut subnet, rich);
    assert!(
        error
            .message
            .contains("the supply exceeds 340282366920938463463374607431768211455"),
        "{error}"
    );
    // Balances at 128 bits are no trouble, if their sum is.
    let mut full = config();
    full.initial_balances = vec![(account(user(1)), u128::MAX.into())];
    let id = install(&mut subnet, wasm, &(full,));
    let arguments = (to(2, 5),);
    let reply = subnet.update(id, user(1), "icrc1_transfer", &encode(&arguments));
    let reply: Result<Nat, TransferError> = candid::decode_one(&reply.unwrap()).unwrap();
    assert_eq!(reply, Ok(nat(0)));
    let refused: Result<Nat, TransferError> =
        update(&mut subnet, id, "icrc1_transfer", &arguments).unwrap();
    let balance = nat(0);
    assert_eq!(refused, Err(TransferError::InsufficientFunds { balance }));
}
