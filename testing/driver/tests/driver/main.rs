//! The subnet as canisters and their users see it.
mod calls;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod long;
mod motoko;
mod snapshots;
mod support;
mod workloads;
