//! Runs canisters: Wasm actors whose every message gives the same bytes on every replica.
//!
//! A message is executed by [`Engine::execute`](engine::Engine::execute) against a
//! [`CanisterState`](state::CanisterState); what it changed comes back as
//! [`Effects`](engine::Effects), which the caller applies or drops. Nothing here knows how messages
//! are ordered, replicated or received.
// Mappings and what is under a running instance: `gate` and `heap::{dirty, mapping, view}`.
#![deny(unsafe_code)]

pub mod engine;
mod execute;
pub mod fork;
mod gate;
pub mod heap;
mod host;
mod ic0;
mod instance;
mod instrument;
pub mod lockstep_api;
pub mod memory;
mod meter;
pub mod models;
mod module;
pub mod pacer;
pub mod session;
mod stable;
pub mod state;
mod validate;
pub mod weights;
