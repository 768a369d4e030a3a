//! The engine through its public interface, on small modules in the text format.
mod calls;
mod contexts;
mod cycles;
mod errors;
mod fork;
mod kernels;
mod limits;
mod metering;
mod modules;
mod persistence;
mod queries;
mod sessions;
mod stable;
mod support;
mod surroundings;
mod upgrades;
