//! The speed of a whole subnet, as its clients see it.
//!
//! # Design
//! The subnet runs in processes of its own, so that its processor time and that of the load are told apart. Calls are
//! signed before they are measured and sent over connections that stay open, spread over all gateways. Inputs are a
//! function of their number, but for the expiry of calls, which the interface demands.
//!
//! # Determinism
//! None is claimed of what is measured: this is the one place where clocks are the point.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "nothing here is replicated"
)]

pub mod agents;
pub mod calls;
pub mod counter;
pub mod crash;
pub mod http;
pub mod links;
pub mod load;
pub mod process;
pub mod queries;
pub mod start;
pub mod sync;
pub mod times;
