//! The contexts of the interface specification and that of a forked task, as bits.

/// A set of contexts.
pub(crate) type Contexts = u32;

pub(crate) const INIT: Contexts = 1;
pub(crate) const PRE_UPGRADE: Contexts = 1 << 1;
pub(crate) const UPDATE: Contexts = 1 << 2;
pub(crate) const REPLICATED_QUERY: Contexts = 1 << 3;
pub(crate) const QUERY: Contexts = 1 << 4;
pub(crate) const INSPECT: Contexts = 1 << 5;
pub(crate) const HEARTBEAT: Contexts = 1 << 6;
pub(crate) const GLOBAL_TIMER: Contexts = 1 << 7;
pub(crate) const LOW_WASM_MEMORY: Contexts = 1 << 8;
pub(crate) const START: Contexts = 1 << 9;
/// A task of a fork.
pub(crate) const FORK: Contexts = 1 << 10;
pub(crate) const REPLY: Contexts = 1 << 11;
pub(crate) const REJECT: Contexts = 1 << 12;
pub(crate) const CLEANUP: Contexts = 1 << 13;
pub(crate) const COMPOSITE_QUERY: Contexts = 1 << 14;
pub(crate) const COMPOSITE_REPLY: Contexts = 1 << 15;
pub(crate) const COMPOSITE_REJECT: Contexts = 1 << 16;
pub(crate) const COMPOSITE_CLEANUP: Contexts = 1 << 17;

/// The specification's `T`.
pub(crate) const TASK: Contexts = HEARTBEAT | GLOBAL_TIMER | LOW_WASM_MEMORY;
/// A composite query and what comes of its calls.
pub(crate) const COMPOSITE: Contexts =
    COMPOSITE_QUERY | COMPOSITE_REPLY | COMPOSITE_REJECT | COMPOSITE_CLEANUP;
/// What runs beside updates, on a state that stays as it is.
pub(crate) const NOT_REPLICATED: Contexts = QUERY | COMPOSITE | INSPECT;
/// Where the canister's own limit of its heap holds: not in callbacks, which cannot be called off, nor
/// in tasks, whose failure nobody sees, nor where changes are dropped or made room for.
pub(crate) const HEAP_LIMITED: Contexts = INIT | UPDATE;
/// The specification's `*`.
pub(crate) const ANY: Contexts = !(START | FORK);
/// The specification's `* s`.
pub(crate) const ANY_AND_START: Contexts = !FORK;

/// The replica's name of a context.
pub(crate) fn name(context: Contexts) -> &'static str {
    match context {
        INIT => "init",
        PRE_UPGRADE => "pre upgrade",
        UPDATE => "update",
        REPLICATED_QUERY => "replicated query",
        QUERY => "non replicated query",
        INSPECT => "inspect message",
        HEARTBEAT => "heartbeat",
        GLOBAL_TIMER => "global timer",
        LOW_WASM_MEMORY => "on low Wasm memory",
        FORK => "fork task",
        REPLY => "reply callback",
        REJECT => "reject callback",
        CLEANUP => "cleanup",
        COMPOSITE_QUERY => "composite query",
        COMPOSITE_REPLY => "composite reply callback",
        COMPOSITE_REJECT => "composite reject callback",
        COMPOSITE_CLEANUP => "composite cleanup",
        _ => "start",
    }
}
