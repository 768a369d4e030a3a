//! The subnet as canisters and their users see it.
mod calls;
mod motoko;
mod support;
mod workloads;
