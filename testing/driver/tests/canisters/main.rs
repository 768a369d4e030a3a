//! The canisters we ship, on a subnet.
mod batch;
mod ledger;
mod matmul;
mod support;
