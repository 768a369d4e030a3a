//! The subnet as canisters and their users see it.
mod calls;
mod hostile;
mod long;
mod motoko;
mod snapshots;
mod support;
mod workloads;
