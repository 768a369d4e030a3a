//! The canisters we ship, on a subnet.
mod batch;
#[path = "../common/mod.rs"]
mod common;
mod cycles_ledger;
mod cycles_minting;
mod icp_ledger;
mod ledger;
mod matmul;
mod support;
