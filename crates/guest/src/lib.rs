//! A model's self-check as a Wasm module: the third kind of machine beside threads and vector units.
//!
//! # Design
//! On wasm32 this crate is the module, whose exports are in `module`; elsewhere it is empty. A host
//! allocates memory, writes a model file and a prompt there, and asks for the outcome of a
//! [`SelfCheck`](lockstep_model::selfcheck::SelfCheck) in one configuration.
//!
//! # Determinism
//! The module has no clock and no entropy. What seeds hash tables is fixed, and must not matter.
#![deny(unsafe_code)]

#[cfg(target_family = "wasm")]
mod module;
