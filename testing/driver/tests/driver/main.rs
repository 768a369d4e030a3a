//! The subnet as canisters and their users see it.
mod calls;
mod support;
mod workloads;
