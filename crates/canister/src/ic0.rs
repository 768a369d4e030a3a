//! The system API of the Internet Computer.
//!
//! Functions, contexts and semantics follow the interface specification, section "System imports"; the
//! names of contexts below are its letters. Every import is defined once for memories of both widths; the
//! specification's `I` is the type parameter `P`.
//!
//! # Invariants
//! What this system does not have answers as an Internet Computer where it is absent: there are no keys to
//! sign with or to derive from.
mod calls;
mod canister;
mod certification;
mod charges;
mod costs;
mod cycles;
mod message;
mod stable;
mod variables;

pub(crate) use charges::Log;

use crate::host::{Host, ImportSets, Imports, Pointer, called_trap, charge, enter, peek};
use wasmtime::Caller;

/// The specification's letters.
mod letters {
    pub(super) use crate::host::context::{
        ANY, ANY_AND_START, CLEANUP as C, COMPOSITE_CLEANUP as CC, COMPOSITE_QUERY as CQ,
        COMPOSITE_REJECT as CRT, COMPOSITE_REPLY as CRY, FORK as TASKS, INIT as I, INSPECT as F,
        PRE_UPGRADE as G, QUERY as NRQ, REJECT as RT, REPLICATED_QUERY as RQ, REPLY as RY,
        TASK as T, UPDATE as U,
    };
    use crate::host::{Contexts, context};

    /// Queries of both kinds.
    pub(super) const Q: Contexts = context::QUERY | context::REPLICATED_QUERY;
}

/// Most bytes that a line of the log or a trap's text may have.
const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Defines `ic0.NAME` for the given contexts, at the price of its row in [`charges`], for the bytes that its arguments
/// say; `NAME` is in scope of its body.
macro_rules! import {
    ($imports:ident, $name:ident in $contexts:expr, $(bytes($($size:ident),+),)? ($caller:ident $(, $argument:ident: $ty:ty)*) $(-> $result:ty)? $body:block) => {
        $imports.add("ic0", stringify!($name), |mut caller: Caller<'_, Host> $(, $argument: $ty)*| -> wasmtime::Result<import!(@ $($result)?)> {
            #[allow(dead_code)]
            const NAME: &str = stringify!($name);
            let $caller = &mut caller;
            let bytes = 0_u64 $($(.saturating_add($size.widen()))+)?;
            let price = crate::ic0::charges::$name.of(bytes);
            enter($caller, ("ic0", NAME), $contexts, price)?;
            $body
        });
    };
    (@) => { () };
    (@ $result:ty) => { $result };
}

/// Defines the pair `ic0.X_size` and `ic0.X_copy` over one byte string of the host, which
/// refusals call `$what`, with pointers `$p`.
macro_rules! import_blob {
    ($imports:ident, $p:ident, $size:ident, $copy:ident in $contexts:expr, $what:literal, |$host:ident| $bytes:expr) => {
        import!($imports, $size in $contexts, (caller) -> $p {
            let $host = caller.data();
            Ok($p::narrow($bytes.len() as u64))
        });
        import!($imports, $copy in $contexts, bytes(size), (caller, dst: $p, offset: $p, size: $p) {
            copy_as(caller, (NAME, $what), |$host| $bytes, (dst, offset, size))
        });
    };
}

use {import, import_blob};

/// Defines all of `ic0` for both widths.
pub(crate) fn define(sets: &mut ImportSets) {
    for_width::<i32>(&mut sets.narrow);
    for_width::<i64>(&mut sets.wide);
    cycles::define_narrow(&mut sets.narrow);
    calls::define_narrow(&mut sets.narrow);
    stable::define_narrow(&mut sets.narrow);
}

fn for_width<P: Pointer>(imports: &mut Imports) {
    message::define::<P>(imports);
    cycles::define::<P>(imports);
    canister::define::<P>(imports);
    calls::define::<P>(imports);
    stable::define(imports);
    certification::define::<P>(imports);
    costs::define::<P>(imports);
    variables::define::<P>(imports);
    texts::<P>(imports);
}

fn texts<P: Pointer>(imports: &mut Imports) {
    use letters::{ANY_AND_START, TASKS};
    import!(imports, debug_print in ANY_AND_START | TASKS, (caller, src: P, size: P) {
        pay_to_log(caller, size.widen())?;
        let text = peek(caller, src, size, TEXT_BYTES_MAX)?;
        let text = text.unwrap_or_else(|| b"(debug_print message out of memory bounds)".to_vec());
        let host = caller.data_mut();
        let limit = host.given.log_limit;
        host.log.push(text.len() as u64, limit);
        host.print(&text);
        Ok(())
    });
    import!(imports, trap in ANY_AND_START | TASKS, bytes(size), (caller, src: P, size: P) {
        pay_to_log(caller, size.widen())?;
        called_trap(caller, src, size, TEXT_BYTES_MAX)
    });
}

/// Charges for a line of the log, of so many bytes.
fn pay_to_log(caller: &mut Caller<'_, Host>, size: u64) -> wasmtime::Result<()> {
    let host = caller.data();
    let price = host.log.charge(size, host.given.log_limit);
    charge(caller, price)
}

#[cfg(test)]
mod tests;

/// Amount of two halves.
fn amount(high: i64, low: i64) -> u128 {
    u128::from(high.cast_unsigned()) << 64 | u128::from(low.cast_unsigned())
}
