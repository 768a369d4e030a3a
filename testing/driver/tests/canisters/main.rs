//! The canisters we ship, on a subnet.
mod batch;
#[path = "../common/mod.rs"]
mod common;
mod ledger;
mod matmul;
mod support;
