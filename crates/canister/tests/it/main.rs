//! The engine through its public interface, on small modules in the text format.
mod contexts;
mod errors;
mod fork;
mod metering;
mod modules;
mod pacing;
mod persistence;
mod sessions;
mod support;
