//! What the ledgers share: accounts, balances, and transfers that are executed once however often they are sent.
//!
//! # Design
//! A [`Book`] decides, and knows no system. It keeps balances by a [`Key`]: accounts themselves, or a digest of them.
//! Transfers are numbered, from 0 on; what they were is not kept beyond what telling duplicates needs. [`icrc1`] has the
//! types of the standard ICRC-1, and what a ledger says about its token.
//!
//! # Invariants
//! The total supply is the sum of all balances.
//!
//! # Units and bounds
//! Amounts in the token's smallest part, held in 128 bits: an amount beyond is one that nobody has. A transfer with a
//! time of creation is good for a day from then, and for clocks that differ by a minute.
mod account;
mod book;
pub mod icrc1;

pub use account::{Account, Holder};
pub use book::{Book, DRIFT_NS, Key, Order, Rules, Saved, WINDOW_NS};
