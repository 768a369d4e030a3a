//! Balances and what changes them.
//!
//! # Errors
//! Checked in this order: form, fee, time, duplicate, funds; the first that fails is the answer.
use crate::{
    Holder,
    icrc1::{TransferArgs, TransferError},
};
use candid::{CandidType, Deserialize, Nat, Principal};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;

/// How long a transfer can be sent after it was created.
pub const WINDOW_NS: u64 = 24 * 60 * 60 * 1_000_000_000;
/// How far the clock of whoever created it may differ.
pub const DRIFT_NS: u64 = 60 * 1_000_000_000;
/// Bytes of a memo.
const MEMO_BYTES_MAX: usize = 32;
/// Transfers remembered, if the rules do not say.
const RECENT_MAX: u32 = 1_000_000;

/// Codes of `GenericError`.
const BAD_SUBACCOUNT: u128 = 1;
const LONG_MEMO: u128 = 2;
const MINT_TO_ITSELF: u128 = 3;
const SUPPLY_OVERFLOW: u128 = 4;

/// What balances are kept by.
pub trait Key: Copy + Ord {
    /// Its one form, for stable memory.
    fn to_bytes(&self) -> Vec<u8>;

    /// A key from its form.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// What is fixed.
#[derive(Clone, Debug)]
pub struct Rules<K> {
    /// Of every transfer between accounts; it is burned.
    pub fee: u128,
    /// Transfers from it make tokens, transfers to it destroy them.
    pub minting: Option<K>,
    /// More tokens than these are never made.
    pub supply_max: u128,
    /// How many transfers with a time of creation are remembered at a time; a million without.
    pub recent_max: Option<u32>,
}

/// A transfer to be made.
#[derive(Clone, Debug)]
pub struct Order<K> {
    pub from: K,
    /// Nobody: the amount leaves the ledger, for a fee.
    pub to: Option<K>,
    /// Nothing: it does not fit into 128 bits.
    pub amount: Option<u128>,
    /// The fee that its sender expects.
    pub fee: Option<Nat>,
    pub memo: Option<Vec<u8>>,
    /// What else tells it from others, in a form of the ledger's own.
    pub detail: Option<Vec<u8>>,
    pub created_at_time: Option<u64>,
}

/// What makes two transfers the same; by time first, so that old ones are at the beginning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recent<K> {
    created_at_time: u64,
    from: K,
    to: Option<K>,
    amount: u128,
    fee: Option<u128>,
    memo: Option<Vec<u8>>,
    detail: Option<Vec<u8>>,
}

/// Balances, by what they are kept by.
#[derive(Debug)]
pub struct Book<K> {
    rules: Rules<K>,
    balances: BTreeMap<K, u128>,
    total_supply: u128,
    next_index: u64,
    recent: BTreeMap<Recent<K>, u64>,
}

/// The book in stable memory during an upgrade.
#[derive(CandidType, Deserialize, Debug)]
pub struct Saved {
    balances: Vec<(ByteBuf, u128)>,
    next_index: u64,
    recent: Vec<SavedRecent>,
}

#[derive(CandidType, Deserialize, Debug)]
struct SavedRecent {
    created_at_time: u64,
    from: ByteBuf,
    to: Option<ByteBuf>,
    amount: u128,
    fee: Option<u128>,
    memo: Option<ByteBuf>,
    detail: Option<ByteBuf>,
    index: u64,
}

impl<K: Key> Book<K> {
    /// A book in which these have balances from the start.
    ///
    /// # Errors
    /// A balance of the minting account, a supply beyond its bound.
    pub fn new(
        rules: Rules<K>,
        balances: impl IntoIterator<Item = (K, u128)>,
    ) -> Result<Self, String> {
        let mut book = Self {
            rules,
            balances: BTreeMap::new(),
            total_supply: 0,
            next_index: 0,
            recent: BTreeMap::new(),
        };
        for (holder, amount) in balances {
            if book.rules.minting == Some(holder) {
                return Err("the minting account has no balance".into());
            }
            book.mint(holder, amount).ok_or_else(|| book.too_many())?;
        }
        Ok(book)
    }

    #[must_use]
    pub fn save(self) -> Saved {
        let bytes = |key: &K| ByteBuf::from(key.to_bytes());
        let recent = self.recent.into_iter().map(|(key, index)| SavedRecent {
            created_at_time: key.created_at_time,
            from: bytes(&key.from),
            to: key.to.as_ref().map(bytes),
            amount: key.amount,
            fee: key.fee,
            memo: key.memo.map(ByteBuf::from),
            detail: key.detail.map(ByteBuf::from),
            index,
        });
        let balances = self.balances.iter();
        Saved {
            balances: balances
                .map(|(key, balance)| (bytes(key), *balance))
                .collect(),
            next_index: self.next_index,
            recent: recent.collect(),
        }
    }

    /// # Errors
    /// As [`Self::new`], and keys that are none: never for what [`Self::save`] gave.
    pub fn restore(rules: Rules<K>, saved: Saved) -> Result<Self, String> {
        let key = |bytes: &ByteBuf| K::from_bytes(bytes).ok_or("not an account");
        let balances = saved.balances.iter();
        let balances: Result<Vec<_>, String> = balances
            .map(|(bytes, balance)| Ok((key(bytes)?, *balance)))
            .collect();
        let mut book = Self::new(rules, balances?)?;
        book.next_index = saved.next_index;
        for entry in saved.recent {
            let recent = Recent {
                created_at_time: entry.created_at_time,
                from: key(&entry.from)?,
                to: entry.to.as_ref().map(key).transpose()?,
                amount: entry.amount,
                fee: entry.fee,
                memo: entry.memo.map(ByteBuf::into_vec),
                detail: entry.detail.map(ByteBuf::into_vec),
            };
            book.recent.insert(recent, entry.index);
        }
        Ok(book)
    }

    #[must_use]
    pub fn total_supply(&self) -> u128 {
        self.total_supply
    }

    #[must_use]
    pub fn fee(&self) -> u128 {
        self.rules.fee
    }

    #[must_use]
    pub fn balance(&self, holder: &K) -> u128 {
        self.balances.get(holder).copied().unwrap_or(0)
    }

    /// Makes tokens that came from outside; returns the deposit's index, nothing if the supply would not fit.
    pub fn deposit(&mut self, to: K, amount: u128) -> Option<u64> {
        self.mint(to, amount)?;
        Some(self.next())
    }

    /// Returns the transfer's index.
    ///
    /// # Errors
    /// As the standard says.
    pub fn transfer(&mut self, order: Order<K>, now_ns: u64) -> Result<u64, TransferError> {
        let minting = self.rules.minting;
        let mints = minting == Some(order.from);
        let burns = order.to.is_some() && minting == order.to;
        if mints && burns {
            let message = "the minting account cannot mint to itself".into();
            return Err(generic(MINT_TO_ITSELF, message));
        }
        let expected_fee = if mints || burns { 0 } else { self.rules.fee };
        if order.fee.as_ref().is_some_and(|fee| *fee != expected_fee) {
            return Err(TransferError::BadFee { expected_fee });
        }
        let recent = self.check_recent(&order, expected_fee, now_ns)?;
        match order.to {
            Some(to) if mints => order
                .amount
                .and_then(|amount| self.mint(to, amount))
                .ok_or_else(|| generic(SUPPLY_OVERFLOW, self.too_many()))?,
            _ if burns => {
                self.check_burn(order.amount)?;
                self.spend(order.from, None, order.amount, expected_fee)?;
            }
            to => self.spend(order.from, to, order.amount, expected_fee)?,
        }
        let index = self.next();
        if let Some(recent) = recent {
            self.recent.insert(recent, index);
        }
        Ok(index)
    }

    /// Checks the time of creation, if there is one, and what was sent lately. Returns what to remember.
    fn check_recent(
        &mut self,
        order: &Order<K>,
        expected_fee: u128,
        now_ns: u64,
    ) -> Result<Option<Recent<K>>, TransferError> {
        let oldest = now_ns.saturating_sub(WINDOW_NS + DRIFT_NS);
        while let Some(entry) = self.recent.first_entry() {
            if entry.key().created_at_time >= oldest {
                break;
            }
            entry.remove();
        }
        let Some(created_at_time) = order.created_at_time else {
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
        let Some(amount) = order.amount else {
            // It fails for its amount, and was never sent before.
            return Ok(None);
        };
        let recent = Recent {
            created_at_time,
            from: order.from,
            to: order.to,
            amount,
            fee: order.fee.is_some().then_some(expected_fee),
            memo: order.memo.clone(),
            detail: order.detail.clone(),
        };
        if let Some(duplicate_of) = self.recent.get(&recent) {
            return Err(TransferError::Duplicate {
                duplicate_of: (*duplicate_of).into(),
            });
        }
        if self.recent.len() >= self.rules.recent_max.unwrap_or(RECENT_MAX) as usize {
            return Err(TransferError::TemporarilyUnavailable);
        }
        Ok(Some(recent))
    }

    fn next(&mut self) -> u64 {
        let index = self.next_index;
        self.next_index += 1;
        index
    }

    fn too_many(&self) -> String {
        format!("the supply exceeds {}", self.rules.supply_max)
    }

    /// Nothing if the supply would not fit.
    fn mint(&mut self, to: K, amount: u128) -> Option<()> {
        let supply = self.total_supply.checked_add(amount);
        self.total_supply = supply.filter(|supply| *supply <= self.rules.supply_max)?;
        self.set_balance(to, self.balance(&to) + amount);
        Some(())
    }

    fn check_burn(&self, amount: Option<u128>) -> Result<(), TransferError> {
        let min_burn_amount = self.rules.fee.max(1);
        if amount.is_some_and(|amount| amount < min_burn_amount) {
            return Err(TransferError::BadBurn { min_burn_amount });
        }
        Ok(())
    }

    /// Takes the amount and the fee from one account; what `to` does not get is no more.
    fn spend(
        &mut self,
        from: K,
        to: Option<K>,
        amount: Option<u128>,
        fee: u128,
    ) -> Result<(), TransferError> {
        let balance = self.balance(&from);
        let total = amount.and_then(|amount| amount.checked_add(fee));
        let (Some(amount), Some(rest)) =
            (amount, total.and_then(|total| balance.checked_sub(total)))
        else {
            return Err(TransferError::InsufficientFunds { balance });
        };
        self.set_balance(from, rest);
        self.total_supply -= fee;
        match to {
            Some(to) => self.set_balance(to, self.balance(&to) + amount),
            None => self.total_supply -= amount,
        }
        Ok(())
    }

    fn set_balance(&mut self, holder: K, balance: u128) {
        if balance == 0 {
            self.balances.remove(&holder);
        } else {
            self.balances.insert(holder, balance);
        }
    }
}

impl<K: Key + From<Holder>> Book<K> {
    /// A transfer as the standard ICRC-1 has it.
    ///
    /// # Errors
    /// As the standard says.
    pub fn icrc1_transfer(
        &mut self,
        caller: Principal,
        args: TransferArgs,
        now_ns: u64,
    ) -> Result<u64, TransferError> {
        let bad = |message| generic(BAD_SUBACCOUNT, message);
        let from = Holder::new(caller, args.from_subaccount.as_ref()).map_err(bad)?;
        let to = Holder::try_from(&args.to).map_err(bad)?;
        let memo = args.memo.map(ByteBuf::into_vec);
        if let Some(memo) = memo.as_ref().filter(|memo| memo.len() > MEMO_BYTES_MAX) {
            let message = format!(
                "a memo has at most {MEMO_BYTES_MAX} bytes, not {}",
                memo.len()
            );
            return Err(generic(LONG_MEMO, message));
        }
        let order = Order {
            from: from.into(),
            to: Some(to.into()),
            amount: u128::try_from(args.amount.0).ok(),
            fee: args.fee,
            memo,
            detail: None,
            created_at_time: args.created_at_time,
        };
        self.transfer(order, now_ns)
    }
}

fn generic(error_code: u128, message: String) -> TransferError {
    TransferError::GenericError {
        error_code,
        message,
    }
}
