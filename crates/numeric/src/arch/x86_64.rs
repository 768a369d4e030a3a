//! Kernels for x86-64.
//!
//! # Determinism
//! The intrinsics used are plain IEEE operations in the default environment, each rounded once; none approximates, and
//! none fuses but in the exponential function, whose result is the correctly rounded one or is not used. Conversions between f16 and f32 are exact or rounded half to even whatever the environment.

pub(crate) mod avx2;
pub(crate) mod avx512;
