//! Wasm modules the binary carries, built by the build script.

/// `canisters/llm`: asks a resident model.
pub(crate) const LLM_WASM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llm.wasm"));

/// `crates/guest`: the self-check of a model.
pub(crate) const GUEST_WASM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));
