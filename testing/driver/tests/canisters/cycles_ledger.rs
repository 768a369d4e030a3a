//! The cycles ledger: what users hold is what the canister has, on whichever way it comes and goes.
use crate::support::{Account, account, encode, query, user, wasm};
use candid::{CandidType, Decode, Deserialize, Nat, Principal};
use ic_management_canister_types::ProvisionalCreateCanisterWithCyclesArgs;
use lockstep_driver::Subnet;
use serde_bytes::ByteBuf;
use std::time::Duration;

#[derive(CandidType)]
struct InitArgs {
    development_balances: Vec<(Account, Nat)>,
}

#[derive(CandidType, Clone)]
struct TransferArgs {
    to: Account,
    amount: Nat,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum TransferError {
    InsufficientFunds { balance: Nat },
}

#[derive(CandidType, Clone)]
struct WithdrawArgs {
    amount: Nat,
    to: Principal,
    from_subaccount: Option<ByteBuf>,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum RejectionCode {
    NoError,
    CanisterError,
    SysTransient,
    DestinationInvalid,
    Unknown,
    SysFatal,
    CanisterReject,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum WithdrawError {
    GenericError {
        error_code: Nat,
        message: String,
    },
    TemporarilyUnavailable,
    FailedToWithdraw {
        fee_block: Option<Nat>,
        rejection_code: RejectionCode,
        rejection_reason: String,
    },
    Duplicate {
        duplicate_of: Nat,
    },
    BadFee {
        expected_fee: Nat,
    },
    InvalidReceiver {
        receiver: Principal,
    },
    CreatedInFuture {
        ledger_time: u64,
    },
    TooOld,
    InsufficientFunds {
        balance: Nat,
    },
}

#[derive(CandidType, Clone, Default)]
struct Settings {
    controllers: Option<Vec<Principal>>,
    freezing_threshold: Option<Nat>,
}

#[derive(CandidType, Clone)]
enum SubnetSelection {
    Subnet { subnet: Principal },
    Filter { subnet_type: Option<String> },
}

#[derive(CandidType, Clone)]
struct CreationArgs {
    settings: Option<Settings>,
    subnet_selection: Option<SubnetSelection>,
}

#[derive(CandidType, Clone)]
struct CreateArgs {
    amount: Nat,
    created_at_time: Option<u64>,
    creation_args: Option<CreationArgs>,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
struct Created {
    block_id: Nat,
    canister_id: Principal,
}

#[derive(CandidType, Deserialize, Debug, PartialEq)]
enum CreateError {
    InsufficientFunds {
        balance: Nat,
    },
    TooOld,
    CreatedInFuture {
        ledger_time: u64,
    },
    TemporarilyUnavailable,
    Duplicate {
        duplicate_of: Nat,
        canister_id: Option<Principal>,
    },
    FailedToCreate {
        fee_block: Option<Nat>,
        refund_block: Option<Nat>,
        error: String,
    },
    GenericError {
        error_code: Nat,
        message: String,
    },
}

const FEE: u128 = 100_000_000;
const TRILLION: u128 = 1_000_000_000_000;
const START: u128 = 1_000 * TRILLION;

/// A ledger on which user 1 has a thousand trillion cycles.
struct Ledger {
    subnet: Subnet,
    id: Principal,
    wasm: &'static [u8],
}

impl Ledger {
    fn new() -> Option<Self> {
        let wasm = wasm("cycles_ledger")?;
        let mut subnet = Subnet::new();
        let id = create(&mut subnet, START + 10 * TRILLION);
        let init = InitArgs {
            development_balances: vec![(account(user(1)), START.into())],
        };
        subnet.install(id, wasm, &encode(&(init,))).unwrap();
        Some(Self { subnet, id, wasm })
    }

    fn call<R: CandidType + for<'a> Deserialize<'a>>(
        &mut self,
        caller: Principal,
        method: &str,
        args: &impl CandidType,
    ) -> R {
        let reply = self
            .subnet
            .update(self.id, caller, method, &encode(&(args,)));
        candid::decode_one(&reply.unwrap()).unwrap()
    }

    fn withdraw(&mut self, args: &WithdrawArgs) -> Result<Nat, WithdrawError> {
        self.call(user(1), "withdraw", args)
    }

    fn create(&mut self, args: &CreateArgs) -> Result<Created, CreateError> {
        self.call(user(1), "create_canister", args)
    }

    fn balance(&self, owner: Principal) -> u128 {
        let balance: Nat = query(
            &self.subnet,
            self.id,
            "icrc1_balance_of",
            &(account(owner),),
        )
        .unwrap();
        balance.0.try_into().unwrap()
    }

    fn supply(&self) -> u128 {
        let supply: Nat = query(&self.subnet, self.id, "icrc1_total_supply", &()).unwrap();
        supply.0.try_into().unwrap()
    }

    /// What users hold is there.
    fn check(&self) {
        assert!(self.subnet.cycles(self.id) >= self.supply());
    }
}

fn create(subnet: &mut Subnet, cycles: u128) -> Principal {
    let settings = ProvisionalCreateCanisterWithCyclesArgs {
        amount: Some(cycles.into()),
        ..ProvisionalCreateCanisterWithCyclesArgs::default()
    };
    let created = subnet.create_canister_with(Principal::anonymous(), &settings);
    created.expect("it is a canister like others")
}

fn withdrawal(amount: u128, to: Principal) -> WithdrawArgs {
    WithdrawArgs {
        amount: amount.into(),
        to,
        from_subaccount: None,
        created_at_time: None,
    }
}

fn creation(amount: u128) -> CreateArgs {
    CreateArgs {
        amount: amount.into(),
        created_at_time: None,
        creation_args: None,
    }
}

#[test]
fn it_tells_what_its_token_is() {
    let Some(ledger) = Ledger::new() else { return };
    let ask = |method| {
        ledger
            .subnet
            .query(ledger.id, user(1), method, &encode(&()))
    };
    let text = |method| Decode!(&ask(method).unwrap(), String).unwrap();
    assert_eq!(text("icrc1_symbol"), "TCYCLES");
    assert_eq!(text("icrc1_name"), "Trillion Cycles");
    let decimals = Decode!(&ask("icrc1_decimals").unwrap(), u8).unwrap();
    assert_eq!(decimals, 12);
    let fee = Decode!(&ask("icrc1_fee").unwrap(), Nat).unwrap();
    assert_eq!(fee, FEE);
    let minting = Decode!(&ask("icrc1_minting_account").unwrap(), Option<Account>).unwrap();
    assert_eq!(minting, None);
    assert_eq!(ledger.supply(), START);
}

#[test]
fn balances_need_cycles_behind_them() {
    let Some(wasm) = wasm("cycles_ledger") else {
        return;
    };
    let mut subnet = Subnet::new();
    let id = create(&mut subnet, 10 * TRILLION);
    let init = |amount: u128| InitArgs {
        development_balances: vec![(account(user(1)), amount.into())],
    };
    let refused = subnet.install(id, wasm, &encode(&(init(11 * TRILLION),)));
    let message = refused.unwrap_err().message;
    assert!(message.contains("fewer than its accounts"), "{message}");
    subnet
        .install(id, wasm, &encode(&(init(TRILLION),)))
        .unwrap();
}

#[test]
fn transfers_burn_their_fee() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let args = TransferArgs {
        to: account(user(2)),
        amount: TRILLION.into(),
    };
    let sent: Result<Nat, TransferError> = ledger.call(user(1), "icrc1_transfer", &args);
    sent.unwrap();
    assert_eq!(ledger.balance(user(1)), START - TRILLION - FEE);
    assert_eq!(ledger.balance(user(2)), TRILLION);
    assert_eq!(ledger.supply(), START - FEE);
    let sent: Result<Nat, TransferError> = ledger.call(user(3), "icrc1_transfer", &args);
    let balance = Nat::from(0_u8);
    assert_eq!(sent, Err(TransferError::InsufficientFunds { balance }));
    ledger.check();
}

#[test]
fn withdrawals_fill_canisters() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let target = create(&mut ledger.subnet, TRILLION);
    ledger.withdraw(&withdrawal(5 * TRILLION, target)).unwrap();
    assert_eq!(ledger.subnet.cycles(target), 6 * TRILLION);
    assert_eq!(ledger.balance(user(1)), START - 5 * TRILLION - FEE);
    ledger.check();

    // All but the fee, and no more.
    let rest = ledger.balance(user(1));
    let refused = ledger.withdraw(&withdrawal(rest, target));
    let balance = Nat::from(rest);
    assert_eq!(refused, Err(WithdrawError::InsufficientFunds { balance }));
    ledger.withdraw(&withdrawal(rest - FEE, target)).unwrap();
    assert_eq!(ledger.balance(user(1)), 0);
    assert_eq!(ledger.supply(), 0);
}

#[test]
fn withdrawals_to_nobody_come_back_without_the_fee() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let nobody = Principal::from_slice(&[0, 0, 0, 0, 9, 9, 9, 9, 1, 1]);
    match ledger.withdraw(&withdrawal(TRILLION, nobody)) {
        Err(WithdrawError::FailedToWithdraw {
            fee_block: Some(_),
            rejection_code: RejectionCode::DestinationInvalid,
            rejection_reason,
        }) => assert!(rejection_reason.contains(&nobody.to_text())),
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.balance(user(1)), START - FEE);
    assert_eq!(ledger.supply(), START - FEE);
    ledger.check();

    let receiver = user(2);
    let refused = ledger.withdraw(&withdrawal(TRILLION, receiver));
    assert_eq!(refused, Err(WithdrawError::InvalidReceiver { receiver }));
    let beyond = WithdrawArgs {
        amount: Nat::from(u128::MAX) + 1_u8,
        ..withdrawal(0, nobody)
    };
    let balance = Nat::from(START - FEE);
    let refused = ledger.withdraw(&beyond);
    assert_eq!(refused, Err(WithdrawError::InsufficientFunds { balance }));
    let short = WithdrawArgs {
        from_subaccount: Some(ByteBuf::from([7; 31])),
        ..withdrawal(0, nobody)
    };
    match ledger.withdraw(&short) {
        Err(WithdrawError::GenericError { message, .. }) => {
            assert_eq!(message, "a subaccount has 32 bytes, not 31");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.balance(user(1)), START - FEE);
}

#[test]
fn created_canisters_belong_to_whom_they_should() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let created = ledger.create(&creation(2 * TRILLION)).unwrap().canister_id;
    let controllers = |ledger: &Ledger, id| {
        ledger
            .subnet
            .canister(id)
            .unwrap()
            .state
            .controllers
            .clone()
    };
    assert_eq!(controllers(&ledger, created), [user(1)].into());
    let cost = ledger.subnet.state().genesis.prices().create_canister();
    assert_eq!(ledger.subnet.cycles(created), 2 * TRILLION - cost);
    assert_eq!(ledger.balance(user(1)), START - 2 * TRILLION - FEE);
    ledger.check();

    let subnet = ledger.subnet.state().genesis.subnet_id;
    let settings = Settings {
        controllers: Some(vec![user(2), user(3)]),
        freezing_threshold: Some(1234_u32.into()),
    };
    let args = CreateArgs {
        creation_args: Some(CreationArgs {
            settings: Some(settings),
            subnet_selection: Some(SubnetSelection::Subnet { subnet }),
        }),
        ..creation(2 * TRILLION)
    };
    let created = ledger.create(&args).unwrap().canister_id;
    assert_eq!(controllers(&ledger, created), [user(2), user(3)].into());
    let canister = ledger.subnet.canister(created).unwrap();
    assert_eq!(canister.state.settings.freezing_threshold_s, 1234);
}

#[test]
fn creations_that_fail_come_back_without_the_fee() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let on = |selection| CreateArgs {
        creation_args: Some(CreationArgs {
            settings: None,
            subnet_selection: Some(selection),
        }),
        ..creation(2 * TRILLION)
    };
    let many = Settings {
        controllers: Some((0..11).map(user).collect()),
        ..Settings::default()
    };
    let failing = [
        (creation(TRILLION / 1000), "requires a fee"),
        (
            on(SubnetSelection::Subnet { subnet: user(9) }),
            "does not exist",
        ),
        (
            on(SubnetSelection::Filter {
                subnet_type: Some("fiduciary".into()),
            }),
            "subnet type fiduciary does not exist",
        ),
        (
            CreateArgs {
                creation_args: Some(CreationArgs {
                    settings: Some(many),
                    subnet_selection: None,
                }),
                ..creation(2 * TRILLION)
            },
            "exceeds maximum allowed",
        ),
    ];
    for (number, (args, expected)) in failing.iter().enumerate() {
        match ledger.create(args) {
            Err(CreateError::FailedToCreate {
                fee_block: Some(taken),
                refund_block: Some(given),
                error,
            }) => {
                assert!(error.contains(expected), "{error}");
                assert_eq!(given, taken + 1_u8);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(ledger.balance(user(1)), START - (number as u128 + 1) * FEE);
        ledger.check();
    }
    let balance = Nat::from(ledger.balance(user(1)));
    let refused = ledger.create(&creation(START));
    assert_eq!(refused, Err(CreateError::InsufficientFunds { balance }));
}

#[test]
fn calls_with_a_time_are_executed_once_also_across_upgrades() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let now = ledger.subnet.time_ns();
    let args = CreateArgs {
        created_at_time: Some(now),
        ..creation(2 * TRILLION)
    };
    let created = ledger.create(&args).unwrap();
    let told = CreateError::Duplicate {
        duplicate_of: created.block_id,
        canister_id: Some(created.canister_id),
    };
    assert_eq!(ledger.create(&args).unwrap_err(), told);
    let withdrawal = WithdrawArgs {
        created_at_time: Some(now),
        ..withdrawal(TRILLION, created.canister_id)
    };
    let duplicate_of = ledger.withdraw(&withdrawal).unwrap();
    let balance = ledger.balance(user(1));

    let (id, wasm) = (ledger.id, ledger.wasm);
    ledger.subnet.upgrade(id, wasm, b"", None).unwrap();
    assert_eq!(ledger.balance(user(1)), balance);
    assert_eq!(ledger.create(&args).unwrap_err(), told);
    let told = WithdrawError::Duplicate { duplicate_of };
    assert_eq!(ledger.withdraw(&withdrawal), Err(told));
    // Another call is another one.
    let other = CreateArgs {
        creation_args: Some(CreationArgs {
            settings: None,
            subnet_selection: None,
        }),
        amount: (2 * TRILLION + 1).into(),
        ..args.clone()
    };
    ledger.create(&other).unwrap();
    let balance = ledger.balance(user(1));

    ledger
        .subnet
        .advance_time(Duration::from_secs(25 * 60 * 60));
    assert_eq!(ledger.create(&args).unwrap_err(), CreateError::TooOld);
    let early = CreateArgs {
        created_at_time: Some(ledger.subnet.time_ns() + 3_600_000_000_000),
        ..args
    };
    match ledger.create(&early).unwrap_err() {
        CreateError::CreatedInFuture { .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.balance(user(1)), balance);
}

#[derive(CandidType)]
struct DepositArgs {
    to: Account,
    memo: Option<ByteBuf>,
}

#[derive(CandidType, Deserialize)]
struct DepositResult {
    balance: Nat,
    block_index: Nat,
}

/// A canister whose `send` deposits so many cycles, and which answers what it is answered.
fn depositor(ledger: &mut Ledger, cycles: u64, argument: &[u8]) -> Principal {
    let escaped =
        |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:02x}")).collect() };
    let (callee, data) = (ledger.id.as_slice(), escaped(argument));
    let text = format!(
        r#"(module
            (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
            (import "ic0" "call_data_append" (func $append (param i32 i32)))
            (import "ic0" "call_cycles_add" (func $add (param i64)))
            (import "ic0" "call_perform" (func $perform (result i32)))
            (import "ic0" "msg_arg_data_size" (func $size (result i32)))
            (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
            (import "ic0" "msg_reply_data_append" (func $reply_append (param i32 i32)))
            (import "ic0" "msg_reply" (func $reply))
            (import "ic0" "msg_reject" (func $reject (param i32 i32)))
            (memory 1)
            (table funcref (elem $replied $rejected))
            (data (i32.const 0) "{}")
            (data (i32.const 100) "deposit")
            (data (i32.const 200) "{data}")
            (func $replied (param i32)
                (call $copy (i32.const 1000) (i32.const 0) (call $size))
                (call $reply_append (i32.const 1000) (call $size))
                (call $reply))
            (func $rejected (param i32) (call $reject (i32.const 100) (i32.const 7)))
            (func (export "canister_update send")
                (call $new (i32.const 0) (i32.const {}) (i32.const 100) (i32.const 7)
                    (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
                (call $append (i32.const 200) (i32.const {}))
                (call $add (i64.const {cycles}))
                (drop (call $perform))))"#,
        escaped(callee),
        callee.len(),
        argument.len(),
    );
    let canister = ledger.subnet.create_canister();
    let module = wat::parse_str(text).unwrap();
    ledger.subnet.install(canister, &module, b"").unwrap();
    canister
}

#[test]
fn canisters_deposit_what_they_send() {
    let Some(mut ledger) = Ledger::new() else {
        return;
    };
    let argument = encode(&(DepositArgs {
        to: account(user(5)),
        memo: Some(ByteBuf::from([1, 2, 3])),
    },));
    let sender = depositor(&mut ledger, 3_000_000_000_000, &argument);
    let reply = ledger.subnet.update(sender, user(9), "send", b"").unwrap();
    let result = Decode!(&reply, DepositResult).unwrap();
    assert_eq!(result.balance, 3 * TRILLION);
    assert_eq!(result.block_index, 0_u8);
    assert_eq!(ledger.balance(user(5)), 3 * TRILLION);
    assert_eq!(ledger.supply(), START + 3 * TRILLION);
    ledger.check();

    // Less than the fee is refused and goes back.
    let poor = depositor(&mut ledger, 99_999_999, &argument);
    let rejected = ledger
        .subnet
        .update(poor, user(9), "send", b"")
        .unwrap_err();
    assert!(rejected.message.contains("deposit"), "{rejected}");
    assert_eq!(ledger.supply(), START + 3 * TRILLION);
}
