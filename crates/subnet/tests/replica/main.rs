//! Replicas without consensus: execution, storage, certificates.
mod certificates;
mod execution;
mod restart;
mod support;
