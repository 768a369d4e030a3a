//! Who has how much, and how that changes: a state machine without a system around it.
//!
//! # Invariants
//! The total supply is the sum of all balances, in 128 bits: minting adds to it, burning and fees take away. A transfer
//! that is refused changes nothing. The minting account has no balance, and no entry is zero.
//!
//! # Errors
//! Checks in this order: form, fee, time, duplicate, funds; the first that fails is the answer.
use crate::account::{Account, Holder};
use candid::{CandidType, Deserialize, Nat, Principal};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// How long a transfer can be sent after it was created.
const WINDOW_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// How far the clock of whoever created it may differ.
const DRIFT_NS: u64 = 60 * 1_000_000_000;
/// Bytes of a memo.
const MEMO_BYTES_MAX: usize = 32;
/// Transfers remembered, if the configuration does not say.
const RECENT_MAX: u32 = 1_000_000;

/// Codes of `GenericError`.
const BAD_SUBACCOUNT: u128 = 1;
const LONG_MEMO: u128 = 2;
const MINT_TO_ITSELF: u128 = 3;
const SUPPLY_OVERFLOW: u128 = 4;

#[derive(CandidType, Deserialize, Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) symbol: String,
    pub(crate) decimals: u8,
    pub(crate) fee: u128,
    pub(crate) minting_account: Account,
    pub(crate) initial_balances: Vec<(Account, u128)>,
    pub(crate) recent_max: Option<u32>,
}

#[derive(CandidType, Deserialize, Clone, Debug)]
pub(crate) struct TransferArgs {
    from_subaccount: Option<ByteBuf>,
    to: Account,
    amount: Nat,
    fee: Option<Nat>,
    memo: Option<ByteBuf>,
    created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize, Clone, Debug)]
pub(crate) enum TransferError {
    BadFee { expected_fee: u128 },
    BadBurn { min_burn_amount: u128 },
    InsufficientFunds { balance: u128 },
    TooOld,
    CreatedInFuture { ledger_time: u64 },
    Duplicate { duplicate_of: u128 },
    TemporarilyUnavailable,
    GenericError { error_code: u128, message: String },
}

/// What makes two transfers the same; by time first, so that old ones are at the beginning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recent {
    created_at_time: u64,
    from: Holder,
    to: Holder,
    amount: u128,
    fee: Option<u128>,
    memo: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) config: Config,
    minting: Holder,
    balances: BTreeMap<Holder, u128>,
    total_supply: u128,
    next_index: u64,
    recent: BTreeMap<Recent, u64>,
}

/// The book in stable memory during an upgrade.
#[derive(CandidType, Deserialize)]
pub(crate) struct Saved {
    config: Config,
    balances: Vec<(Account, u128)>,
    next_index: u64,
    recent: Vec<SavedRecent>,
}

#[derive(CandidType, Deserialize)]
struct SavedRecent {
    created_at_time: u64,
    from: Account,
    to: Account,
    amount: u128,
    fee: Option<u128>,
    memo: Option<ByteBuf>,
    index: u64,
}

impl Book {
    /// # Errors
    /// Accounts that are none, a balance of the minting account, a supply beyond 128 bits.
    pub(crate) fn new(mut config: Config) -> Result<Self, String> {
        let initial_balances = std::mem::take(&mut config.initial_balances);
        let mut book = Self {
            minting: Holder::try_from(&config.minting_account)?,
            config,
            balances: BTreeMap::new(),
            total_supply: 0,
            next_index: 0,
            recent: BTreeMap::new(),
        };
        for (account, amount) in &initial_balances {
            let holder = Holder::try_from(account)?;
            if holder == book.minting {
                return Err("the minting account has no balance".into());
            }
            book.mint(holder, *amount)
                .ok_or("the supply exceeds 128 bits")?;
        }
        Ok(book)
    }

    pub(crate) fn save(self) -> Saved {
        let recent = self.recent.into_iter().map(|(key, index)| SavedRecent {
            created_at_time: key.created_at_time,
            from: key.from.into(),
            to: key.to.into(),
            amount: key.amount,
            fee: key.fee,
            memo: key.memo.map(ByteBuf::from),
            index,
        });
        let balances = self.balances.into_iter();
        Saved {
            config: self.config,
            balances: balances
                .map(|(holder, balance)| (holder.into(), balance))
                .collect(),
            next_index: self.next_index,
            recent: recent.collect(),
        }
    }

    /// # Errors
    /// As [`Self::new`]: never for what [`Self::save`] gave.
    pub(crate) fn restore(saved: Saved) -> Result<Self, String> {
        let mut config = saved.config;
        config.initial_balances = saved.balances;
        let mut book = Self::new(config)?;
        book.next_index = saved.next_index;
        for entry in saved.recent {
            let key = Recent {
                created_at_time: entry.created_at_time,
                from: Holder::try_from(&entry.from)?,
                to: Holder::try_from(&entry.to)?,
                amount: entry.amount,
                fee: entry.fee,
                memo: entry.memo.map(ByteBuf::into_vec),
            };
            book.recent.insert(key, entry.index);
        }
        Ok(book)
    }

    pub(crate) fn total_supply(&self) -> u128 {
        self.total_supply
    }

    pub(crate) fn balance(&self, holder: &Holder) -> u128 {
        self.balances.get(holder).copied().unwrap_or(0)
    }

    /// Returns the transfer's index.
    ///
    /// # Errors
    /// As the standard says.
    pub(crate) fn transfer(
        &mut self,
        caller: Principal,
        args: &TransferArgs,
        now_ns: u64,
    ) -> Result<u64, TransferError> {
        let bad = |message| generic(BAD_SUBACCOUNT, message);
        let from = Holder::new(caller, args.from_subaccount.as_ref()).map_err(bad)?;
        let to = Holder::try_from(&args.to).map_err(bad)?;
        let memo = args.memo.as_ref();
        if let Some(memo) = memo.filter(|memo| memo.len() > MEMO_BYTES_MAX) {
            let message = format!(
                "a memo has at most {MEMO_BYTES_MAX} bytes, not {}",
                memo.len()
            );
            return Err(generic(LONG_MEMO, message));
        }
        if from == self.minting && to == self.minting {
            let message = "the minting account cannot mint to itself".into();
            return Err(generic(MINT_TO_ITSELF, message));
        }
        let between = from != self.minting && to != self.minting;
        let expected_fee = if between { self.config.fee } else { 0 };
        // Nobody has what does not fit into 128 bits.
        let amount = u128::try_from(&args.amount.0).ok();
        let fee = args.fee.is_some().then_some(expected_fee);
        if args.fee.as_ref().is_some_and(|fee| *fee != expected_fee) {
            return Err(TransferError::BadFee { expected_fee });
        }
        let key = self.check_recent(args, from, to, amount, fee, now_ns)?;
        if from == self.minting {
            amount
                .and_then(|amount| self.mint(to, amount))
                .ok_or_else(|| generic(SUPPLY_OVERFLOW, "the supply exceeds 128 bits".into()))?;
        } else {
            self.spend(from, to, amount, expected_fee)?;
        }
        let index = self.next_index;
        self.next_index += 1;
        if let Some(key) = key {
            self.recent.insert(key, index);
        }
        Ok(index)
    }

    /// Checks the time of creation, if there is one, and what was sent lately. Returns what to remember.
    fn check_recent(
        &mut self,
        args: &TransferArgs,
        from: Holder,
        to: Holder,
        amount: Option<u128>,
        fee: Option<u128>,
        now_ns: u64,
    ) -> Result<Option<Recent>, TransferError> {
        let oldest = now_ns.saturating_sub(WINDOW_NS + DRIFT_NS);
        while let Some(entry) = self.recent.first_entry() {
            if entry.key().created_at_time >= oldest {
                break;
            }
            entry.remove();
        }
        let Some(created_at_time) = args.created_at_time else {
            return Ok(None);
        };
        if created_at_time < oldest {
            return Err(TransferError::TooOld);
        }
        if created_at_time > now_ns.saturating_add(DRIFT_NS) {
            return Err(TransferError::CreatedInFuture {
                ledger_time: now_ns,
            });
        }
        let Some(amount) = amount else {
            // It fails for its amount, and was never sent before.
            return Ok(None);
        };
        let key = Recent {
            created_at_time,
            from,
            to,
            amount,
            fee,
            memo: args.memo.as_ref().map(|memo| memo.to_vec()),
        };
        if let Some(duplicate_of) = self.recent.get(&key) {
            return Err(TransferError::Duplicate {
                duplicate_of: (*duplicate_of).into(),
            });
        }
        if self.recent.len() >= self.config.recent_max.unwrap_or(RECENT_MAX) as usize {
            return Err(TransferError::TemporarilyUnavailable);
        }
        Ok(Some(key))
    }

    /// Nothing if the supply would not fit.
    fn mint(&mut self, to: Holder, amount: u128) -> Option<()> {
        self.total_supply = self.total_supply.checked_add(amount)?;
        self.set_balance(to, self.balance(&to) + amount);
        Some(())
    }

    /// Burns if `to` is the minting account.
    fn spend(
        &mut self,
        from: Holder,
        to: Holder,
        amount: Option<u128>,
        fee: u128,
    ) -> Result<(), TransferError> {
        let balance = self.balance(&from);
        let burns = to == self.minting;
        if burns && amount.is_some_and(|amount| amount < self.config.fee || amount == 0) {
            return Err(TransferError::BadBurn {
                min_burn_amount: self.config.fee.max(1),
            });
        }
        let total = amount.and_then(|amount| amount.checked_add(fee));
        let (Some(amount), Some(rest)) =
            (amount, total.and_then(|total| balance.checked_sub(total)))
        else {
            return Err(TransferError::InsufficientFunds { balance });
        };
        self.set_balance(from, rest);
        if burns {
            self.total_supply -= amount;
        } else {
            self.total_supply -= fee;
            self.set_balance(to, self.balance(&to) + amount);
        }
        Ok(())
    }

    fn set_balance(&mut self, holder: Holder, balance: u128) {
        if balance == 0 {
            self.balances.remove(&holder);
        } else {
            self.balances.insert(holder, balance);
        }
    }
}

fn generic(error_code: u128, message: String) -> TransferError {
    TransferError::GenericError {
        error_code,
        message,
    }
}
