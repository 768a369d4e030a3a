//! Kernels for wasm32.
//!
//! # Determinism
//! The instructions used are plain IEEE operations, each rounded once. Only the bits of NaNs are left open by the
//! engine, and every NaN is made canonical before it is stored. Relaxed instructions are not used.

// There is no detection at run time: an engine rejects a module with instructions it lacks.
#[cfg(target_feature = "simd128")]
pub(crate) mod simd128;
