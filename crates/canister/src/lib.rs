//! Runs canisters: Wasm actors whose every message gives the same bytes on every replica.
//!
//! A message is executed by [`Engine::execute`](engine::Engine::execute) against a
//! [`CanisterState`](state::CanisterState); what it changed comes back as
//! [`Effects`](engine::Effects), which the caller applies or drops. Nothing here knows how messages
//! are ordered, replicated or received.
// Mappings, what is under a running instance, and stacks: `heap::{dirty, mapping, slot, view}`, `stack`.
#![deny(unsafe_code)]

mod backtrace;
pub mod engine;
mod execute;
pub mod fork;
pub mod heap;
mod host;
mod ic0;
mod instance;
mod instances;
mod instrument;
pub mod lockstep_api;
pub mod memory;
pub mod models;
mod module;
pub mod session;
mod stable;
#[allow(unsafe_code)]
mod stack;
pub mod state;
mod validate;
pub mod weights;
