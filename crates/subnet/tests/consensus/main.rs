//! The consensus module with an application that only hashes: in virtual time and on loopback.
mod epochs;
mod loopback;
mod simulation;
mod toy;
