//! A replicated subnet: orders messages, executes them, certifies the result.
#![forbid(unsafe_code)]

pub mod application;
pub mod consensus;
pub mod execution;
pub mod ingress;
pub mod members;
mod mempool;
pub mod replica;
pub mod state;
mod store;
pub mod sync;
pub mod tree;
