//! Wasm modules the binary carries, built by the build script.

/// `canisters/llm`: asks a resident model.
pub(crate) const LLM_WASM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/llm.wasm"));

/// `canisters/icp_ledger`.
pub(crate) const ICP_LEDGER_WASM: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/icp_ledger.wasm"));

/// `canisters/cycles_ledger`.
pub(crate) const CYCLES_LEDGER_WASM: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/cycles_ledger.wasm"));

/// `canisters/cycles_minting`.
pub(crate) const CYCLES_MINTING_WASM: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/cycles_minting.wasm"));

/// `crates/guest`: the self-check of a model.
pub(crate) const GUEST_WASM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.wasm"));
