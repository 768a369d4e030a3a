//! Kernels for aarch64.
//!
//! # Determinism
//! The instructions used are plain IEEE operations in the default environment, each rounded once; none fuses or
//! approximates. NaNs come out with any bits, and are made canonical before they are stored.

pub(crate) mod neon;
