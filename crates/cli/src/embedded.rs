//! Canisters the binary carries, built by the build script.

/// `canisters/llm`: asks a resident model.
pub(crate) const LLM_WASM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llm.wasm"));
