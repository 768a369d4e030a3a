//! The checks that every import makes, what it is charged, and how it reaches the canister's memory.
use super::{
    Contexts, Host, HostTrap, Instructions, STABLE_LEAF_WRITTEN, code, context, imports::Pointer,
    refused, trapped, violated,
};
use crate::meter::Meter;
use std::{fmt, ops::Range};
use wasmtime::Caller;

/// Checks the context and charges for an import.
pub(crate) fn enter(
    caller: &mut Caller<'_, Host>,
    (module, name): (&str, &str),
    contexts: Contexts,
    cost: Instructions,
) -> wasmtime::Result<()> {
    if cost > 0 {
        charge(caller, cost)?;
    }
    let context = caller.data().context;
    if context & contexts == 0 {
        return violated(format!(
            "\"{module}_{name}\" cannot be executed in {} mode",
            context::name(context)
        ));
    }
    Ok(())
}

/// Takes instructions from what is left, waiting for slices if need be.
pub(crate) fn charge(caller: &mut Caller<'_, Host>, cost: Instructions) -> wasmtime::Result<()> {
    let meter = meter(caller);
    if meter.charge(caller, cost) {
        Ok(())
    } else {
        Err(HostTrap::OutOfInstructions.into())
    }
}

/// Instructions used.
pub(crate) fn used(caller: &mut Caller<'_, Host>) -> Instructions {
    meter(caller).used(caller)
}

fn meter(caller: &Caller<'_, Host>) -> Meter {
    let meter = caller.data().meter.clone();
    meter.expect("set right after instantiation")
}

/// Takes bytes by which a memory grows from those that are available, if there are so many.
pub(crate) fn allocate(host: &mut Host, bytes: u64) -> bool {
    match host.memory_available.checked_sub(bytes) {
        Some(left) => {
            host.memory_available = left;
            true
        }
        None => false,
    }
}

/// The canister's memory (empty when it has none) and the host.
pub(crate) fn memory<'a>(caller: &'a mut Caller<'_, Host>) -> (&'a mut [u8], &'a mut Host) {
    match caller.data().memory {
        Some(memory) => memory.data_and_store_mut(caller),
        None => (&mut [], caller.data_mut()),
    }
}

/// A range of a byte string, with the replica's text when it is outside.
fn range(
    what: fmt::Arguments<'_>,
    start: u64,
    size: u64,
    length: usize,
) -> wasmtime::Result<Range<usize>> {
    inside(start, size, length).map_or_else(
        || {
            violated(format!(
                "{what}: src={start} + length={size} exceeds the slice size={length}"
            ))
        },
        Ok,
    )
}

fn inside(start: u64, size: u64, length: usize) -> Option<Range<usize>> {
    let end = start.checked_add(size)?;
    (end <= length as u64).then_some(start as usize..end as usize)
}

/// As [`read`], at one instruction per byte.
pub(crate) fn pay_to_read<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    src: P,
    size: P,
) -> wasmtime::Result<Vec<u8>> {
    charge(caller, size.widen())?;
    read(caller, name, src, size)
}

/// As [`copy`], at one instruction per byte.
pub(crate) fn pay_to_copy<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    source: impl FnOnce(&Host) -> &[u8],
    window: (P, P, P),
) -> wasmtime::Result<()> {
    charge(caller, window.2.widen())?;
    copy(caller, name, source, window)
}

/// Bytes of the canister's memory.
pub(crate) fn read<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    src: P,
    size: P,
) -> wasmtime::Result<Vec<u8>> {
    read_as(caller, format_args!("ic0.{name}"), src, size)
}

/// Bytes of the canister's memory; `what` names them when they lie outside.
pub(crate) fn read_as<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    what: fmt::Arguments<'_>,
    src: P,
    size: P,
) -> wasmtime::Result<Vec<u8>> {
    let (memory, _) = memory(caller);
    let range = range(what, src.widen(), size.widen(), memory.len())?;
    Ok(memory[range].to_vec())
}

/// The first bytes of a text in the canister's memory, so many at most; `None` when it lies outside.
pub(crate) fn peek<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    src: P,
    size: P,
    most: usize,
) -> wasmtime::Result<Option<Vec<u8>>> {
    let (memory, _) = memory(caller);
    let size = size.widen().min(most as u64);
    let range = inside(src.widen(), size, memory.len());
    Ok(range.map(|range| memory[range].to_vec()))
}

/// Copies part of what `source` selects into the canister's memory.
pub(crate) fn copy<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    source: impl FnOnce(&Host) -> &[u8],
    window: (P, P, P),
) -> wasmtime::Result<()> {
    copy_as(caller, (name, "payload"), source, window)
}

/// Copies part of what `source` selects and `what` names into the canister's memory.
pub(crate) fn copy_as<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    (name, what): (&str, &str),
    source: impl FnOnce(&Host) -> &[u8],
    (dst, offset, size): (P, P, P),
) -> wasmtime::Result<()> {
    let size = size.widen();
    let (memory, host) = memory(caller);
    let heap = format_args!("ic0.{name} heap");
    let target = range(heap, dst.widen(), size, memory.len())?;
    let source = source(host);
    let what = format_args!("ic0.{name} {what}");
    let part = range(what, offset.widen(), size, source.len())?;
    memory[target].copy_from_slice(&source[part]);
    Ok(())
}

/// Writes bytes of the host's into the canister's memory.
pub(crate) fn write<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    dst: P,
    bytes: &[u8],
) -> wasmtime::Result<()> {
    let size = bytes.len() as u64;
    let (memory, _) = memory(caller);
    let what = format_args!("ic0.{name} heap");
    let target = range(what, dst.widen(), size, memory.len())?;
    memory[target].copy_from_slice(bytes);
    Ok(())
}

pub(crate) fn stable_read(
    caller: &mut Caller<'_, Host>,
    dst: u64,
    offset: u64,
    size: u64,
) -> wasmtime::Result<()> {
    let (memory, host) = memory(caller);
    let Some(target) = inside(dst, size, memory.len()) else {
        return trapped("heap out of bounds");
    };
    let read = host.stable.read(offset, &mut memory[target]);
    Ok(read.map_err(HostTrap::from)?)
}

pub(crate) fn stable_write(
    caller: &mut Caller<'_, Host>,
    offset: u64,
    src: u64,
    size: u64,
) -> wasmtime::Result<()> {
    let (memory, host) = memory(caller);
    let Some(source) = inside(src, size, memory.len()) else {
        return trapped("heap out of bounds");
    };
    let copied = host.stable.write(offset, &memory[source]);
    let copied = copied.map_err(HostTrap::from)?;
    charge(caller, copied * STABLE_LEAF_WRITTEN)
}

/// Ends a message that called `ic0.trap`, with so much of its text at most.
pub(crate) fn called_trap<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    src: P,
    size: P,
    most: usize,
) -> wasmtime::Result<()> {
    let text = peek(caller, src, size, most)?;
    let text = text.unwrap_or_else(|| b"(trap message out of memory bounds)".to_vec());
    refused(
        code::CALLED_TRAP,
        format!(
            "Canister called `ic0.trap` with message: '{}'",
            String::from_utf8_lossy(&text)
        ),
    )
}
