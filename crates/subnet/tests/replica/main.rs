//! Replicas without consensus: execution, storage, certificates.
mod blocks;
mod certificates;
mod epochs;
mod execution;
mod kills;
mod management;
mod people;
mod restart;
mod signatures;
mod support;
mod sync;
