//! The engine through its public interface, on small modules in the text format.
mod contexts;
mod errors;
mod fork;
mod kernels;
mod metering;
mod modules;
mod persistence;
mod sessions;
mod support;
