//! The cycles ledger's interface: cycles that belong to users, who create and fill canisters with them.
//!
//! # Design
//! The canister has the cycles of all accounts, and some of its own that pay for its work. Balances are decided in the
//! crate `book`. What leaves the ledger is taken from its account first, together with the fee; if the call that passes
//! the cycles on fails, the amount comes back and the fee does not. Canisters are created on the ledger's own subnet.
//!
//! # Invariants
//! The cycles of all accounts are at most those of the canister. Balances, numbers, remembered transfers and created
//! canisters survive upgrades.
//!
//! # Errors
//! Those of the interface. A deposit of less than the fee, and a query for an account whose subaccount has not 32 bytes,
//! trap: their replies have no place for a reason.
mod types;

use book::{
    Account, Book, DRIFT_NS, Holder, Order, Rules, Saved as SavedBook, WINDOW_NS,
    icrc1::{Standard, TransferArgs, TransferError, Value, metadata, standards},
};
use candid::{CandidType, Deserialize, Nat, Principal};
use ic_cdk::{
    api,
    call::{Call, CallFailed},
    init, post_upgrade, pre_upgrade, query, update,
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use std::{cell::RefCell, collections::BTreeMap};
use types::{
    CanisterSettings, CreateCanisterArgs, CreateCanisterError, Created, CreationArgs, DepositArgs,
    DepositResult, InitArgs, Rejection, SubnetSelection, WithdrawArgs, WithdrawError,
};

/// The interface, for tools that read it from the module.
#[cfg(target_arch = "wasm32")]
#[used]
// SAFETY: a custom section of its own; nothing reads the static as code or data.
#[unsafe(link_section = "icp:public candid:service")]
static CANDID_SERVICE: [u8; include_bytes!("../cycles_ledger.did").len()] =
    *include_bytes!("../cycles_ledger.did");

const NAME: &str = "Trillion Cycles";
const SYMBOL: &str = "TCYCLES";
const DECIMALS: u8 = 12;
/// Of every transfer, withdrawal and creation: it pays for the ledger's work.
const FEE: u128 = 100_000_000;
/// Code of `GenericError` for a subaccount that is none.
const BAD_SUBACCOUNT: u128 = 1;

struct Ledger {
    book: Book<Holder>,
    /// Canisters created by calls with a time of creation: by that time and the call's number.
    created: BTreeMap<(u64, u64), Principal>,
}

impl Ledger {
    /// Forgets what is too old to have a duplicate.
    fn remember(&mut self, call: (u64, u64), canister: Principal) {
        let oldest = api::time().saturating_sub(WINDOW_NS + DRIFT_NS);
        self.created = self.created.split_off(&(oldest, 0));
        self.created.insert(call, canister);
    }
}

/// The ledger in stable memory during an upgrade.
#[derive(CandidType, Deserialize)]
struct Saved {
    book: SavedBook,
    created: Vec<(u64, u64, Principal)>,
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

fn rules() -> Rules<Holder> {
    Rules {
        fee: FEE,
        minting: None,
        supply_max: u128::MAX,
        recent_max: None,
    }
}

#[init]
fn init(args: InitArgs) {
    let balances = args.development_balances.iter();
    let balances: Result<Vec<_>, String> = balances
        .map(|(account, amount)| Ok((Holder::try_from(account)?, *amount)))
        .collect();
    let book = balances.and_then(|balances| Book::new(rules(), balances));
    let book = book.unwrap_or_else(|reason| api::trap(reason));
    let (supply, own) = (book.total_supply(), api::canister_cycle_balance());
    if own < supply {
        api::trap(format!(
            "the canister has {own} cycles, fewer than its accounts: {supply}"
        ));
    }
    let created = BTreeMap::new();
    LEDGER.set(Some(Ledger { book, created }));
}

#[pre_upgrade]
fn pre_upgrade() {
    let ledger = LEDGER.take().expect("set when installed");
    let created = ledger.created.into_iter();
    let saved = Saved {
        book: ledger.book.save(),
        created: created
            .map(|((time, index), id)| (time, index, id))
            .collect(),
    };
    ic_cdk::storage::stable_save((saved,)).expect("the state is encodable");
}

#[post_upgrade]
fn post_upgrade() {
    let (saved,): (Saved,) =
        ic_cdk::storage::stable_restore().expect("the state was saved before the upgrade");
    let book = Book::restore(rules(), saved.book).unwrap_or_else(|reason| api::trap(reason));
    let created = saved.created.into_iter();
    let created = created
        .map(|(time, index, id)| ((time, index), id))
        .collect();
    LEDGER.set(Some(Ledger { book, created }));
}

#[query]
fn icrc1_name() -> &'static str {
    NAME
}

#[query]
fn icrc1_symbol() -> &'static str {
    SYMBOL
}

#[query]
fn icrc1_decimals() -> u8 {
    DECIMALS
}

#[query]
fn icrc1_fee() -> u128 {
    FEE
}

#[query]
fn icrc1_metadata() -> Vec<(String, Value)> {
    metadata(NAME, SYMBOL, DECIMALS, FEE)
}

#[query]
fn icrc1_total_supply() -> u128 {
    with(|ledger| ledger.book.total_supply())
}

/// Nobody: cycles come by deposits.
#[query]
fn icrc1_minting_account() -> Option<Account> {
    None
}

#[query]
fn icrc1_balance_of(account: Account) -> u128 {
    match Holder::try_from(&account) {
        Ok(holder) => with(|ledger| ledger.book.balance(&holder)),
        Err(reason) => api::trap(reason),
    }
}

#[query]
fn icrc1_supported_standards() -> Vec<Standard> {
    standards()
}

#[update]
fn icrc1_transfer(args: TransferArgs) -> Result<Nat, TransferError> {
    with_mut(|ledger| {
        let book = &mut ledger.book;
        let index = book.icrc1_transfer(api::msg_caller(), args, api::time())?;
        Ok(index.into())
    })
}

#[update]
fn deposit(args: DepositArgs) -> DepositResult {
    let to = Holder::try_from(&args.to).unwrap_or_else(|reason| api::trap(reason));
    let available = api::msg_cycles_available();
    if available < FEE {
        api::trap(format!(
            "a deposit has at least {FEE} cycles, not {available}"
        ));
    }
    let accepted = api::msg_cycles_accept(available);
    with_mut(|ledger| {
        let index = ledger.book.deposit(to, accepted);
        DepositResult {
            balance: ledger.book.balance(&to),
            block_index: index.expect("so many cycles do not exist").into(),
        }
    })
}

#[update]
async fn withdraw(args: WithdrawArgs) -> Result<Nat, WithdrawError> {
    if !is_canister(&args.to) {
        return Err(WithdrawError::InvalidReceiver { receiver: args.to });
    }
    let detail = [b"withdraw", args.to.as_slice()].concat();
    let taken = take(
        args.from_subaccount,
        args.amount,
        args.created_at_time,
        detail,
    )?;
    let call = Call::unbounded_wait(Principal::management_canister(), "deposit_cycles")
        .with_arg(Target {
            canister_id: args.to,
        })
        .with_cycles(taken.amount);
    match call.await {
        Ok(_) => Ok(taken.index.into()),
        Err(failed) => {
            taken.give_back();
            let rejection = Rejection::from(failed);
            Err(WithdrawError::FailedToWithdraw {
                fee_block: Some(taken.index.into()),
                rejection_code: rejection.code,
                rejection_reason: rejection.reason,
            })
        }
    }
}

#[update]
async fn create_canister(args: CreateCanisterArgs) -> Result<Created, CreateCanisterError> {
    let creation = args.creation_args.unwrap_or_default();
    let encoded = candid::encode_one(&creation).expect("it was decoded");
    let detail = [&b"create"[..], &Sha256::digest(encoded)].concat();
    let created_at_time = args.created_at_time;
    let caller = api::msg_caller();
    let taken = take(args.from_subaccount, args.amount, created_at_time, detail);
    let taken = taken.map_err(|error| told(error.into(), created_at_time))?;
    match create(creation, caller, taken.amount).await {
        Ok(canister_id) => {
            if let Some(time) = created_at_time {
                with_mut(|ledger| ledger.remember((time, taken.index), canister_id));
            }
            Ok(Created {
                block_id: taken.index.into(),
                canister_id,
            })
        }
        Err(error) => Err(CreateCanisterError::FailedToCreate {
            fee_block: Some(taken.index.into()),
            refund_block: Some(taken.give_back().into()),
            error,
        }),
    }
}

/// An argument of the management canister, and a reply.
#[derive(CandidType, Deserialize)]
struct Target {
    canister_id: Principal,
}

async fn create(
    creation: CreationArgs,
    caller: Principal,
    cycles: u128,
) -> Result<Principal, String> {
    #[derive(CandidType)]
    struct Argument {
        settings: Option<CanisterSettings>,
    }
    let own = api::subnet_self();
    match creation.subnet_selection {
        Some(SubnetSelection::Subnet { subnet }) if subnet != own => {
            return Err(format!(
                "subnet {subnet} does not exist: this network is {own}"
            ));
        }
        Some(SubnetSelection::Filter {
            subnet_type: Some(kind),
        }) => return Err(format!("subnet type {kind} does not exist")),
        _ => {}
    }
    let mut settings = creation.settings.unwrap_or_default();
    settings.controllers.get_or_insert_with(|| vec![caller]);
    let call = Call::unbounded_wait(Principal::management_canister(), "create_canister")
        .with_arg(Argument {
            settings: Some(settings),
        })
        .with_cycles(cycles);
    let reply = call
        .await
        .map_err(|failed: CallFailed| Rejection::from(failed).reason)?;
    let target: Target = reply.candid().expect("the system's replies are typed");
    Ok(target.canister_id)
}

/// Cycles taken from an account, on their way out.
struct Taken {
    from: Holder,
    amount: u128,
    index: u64,
}

impl Taken {
    /// Returns the number of the refund. The fee is not part of it.
    fn give_back(&self) -> u64 {
        let index = with_mut(|ledger| ledger.book.deposit(self.from, self.amount));
        index.expect("the cycles were here before")
    }
}

/// Takes the amount and the fee from the caller's account.
fn take(
    from_subaccount: Option<ByteBuf>,
    amount: Nat,
    created_at_time: Option<u64>,
    detail: Vec<u8>,
) -> Result<Taken, WithdrawError> {
    let from = Holder::new(api::msg_caller(), from_subaccount.as_ref());
    let from = from.map_err(|message| WithdrawError::GenericError {
        error_code: BAD_SUBACCOUNT,
        message,
    })?;
    let amount = u128::try_from(amount.0).ok();
    let order = Order {
        from,
        to: None,
        amount,
        fee: None,
        memo: None,
        detail: Some(detail),
        created_at_time,
    };
    let index = with_mut(|ledger| ledger.book.transfer(order, api::time()))?;
    let amount = amount.expect("nobody has more");
    Ok(Taken {
        from,
        amount,
        index,
    })
}

/// Names the canister of a creation that is told to be a duplicate.
fn told(mut error: CreateCanisterError, created_at_time: Option<u64>) -> CreateCanisterError {
    if let (
        CreateCanisterError::Duplicate {
            duplicate_of,
            canister_id,
        },
        Some(time),
    ) = (&mut error, created_at_time)
    {
        let index = u64::try_from(*duplicate_of).expect("it is a number of ours");
        *canister_id = with(|ledger| ledger.created.get(&(time, index)).copied());
    }
    error
}

/// Whether a principal has the form of a canister's.
fn is_canister(id: &Principal) -> bool {
    id.as_slice().len() == 10 && id.as_slice().ends_with(&[1, 1])
}
