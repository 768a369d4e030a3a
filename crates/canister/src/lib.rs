//! Runs canisters: Wasm actors whose every message gives the same bytes on every replica.
//!
//! A message is executed by [`Engine::execute`](engine::Engine::execute) against a
//! [`CanisterState`](state::CanisterState); what it changed comes back as
//! [`Effects`](engine::Effects), which the caller applies or drops. Queries with all that they call are
//! evaluated by [`query::evaluate`]. Nothing here knows how messages are ordered, replicated or received,
//! nor what becomes of the calls that a message makes.
// Mappings, what is under a running instance, and stacks: `gate`,
// `heap::{dirty, mapping, slot, view}`, `stack`.
#![deny(unsafe_code)]

mod backtrace;
mod callback;
pub mod engine;
mod execute;
pub mod fork;
mod gate;
pub mod heap;
mod host;
mod ic0;
mod instance;
mod instances;
mod instrument;
pub mod kernels;
pub mod lockstep_api;
pub mod memory;
mod message;
mod meter;
pub mod models;
mod module;
pub mod pacer;
pub mod prices;
pub mod query;
pub mod session;
mod stable;
#[allow(unsafe_code)]
mod stack;
pub mod state;
mod validate;
mod weights;
