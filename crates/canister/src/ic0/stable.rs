//! Stable memory.
use super::{
    import,
    letters::{ANY_AND_START, TASKS},
};
use crate::{
    heap::PAGE_BYTES,
    host::{Contexts, Host, Imports, Pointer, allocate, enter, stable_read, stable_write, trapped},
    stable::NARROW_PAGES_MAX,
};
use wasmtime::Caller;

/// Where it may be read.
const READS: Contexts = ANY_AND_START | TASKS;

pub(super) fn define(imports: &mut Imports) {
    import!(imports, stable64_size in READS, (caller) -> i64 { Ok(caller.data().stable.size_pages().cast_signed()) });
    import!(imports, stable64_grow in ANY_AND_START, (caller, pages: i64) -> i64 {
        Ok(grow(caller.data_mut(), pages.cast_unsigned()).map_or(-1, u64::cast_signed))
    });
    import!(imports, stable64_write in ANY_AND_START, bytes(size), (caller, offset: i64, src: i64, size: i64) {
        stable_write(caller, offset.widen(), src.widen(), size.widen())
    });
    import!(imports, stable64_read in READS, bytes(size), (caller, dst: i64, offset: i64, size: i64) {
        stable_read(caller, dst.widen(), offset.widen(), size.widen())
    });
}

/// Those that only modules with 32-bit memories have.
pub(super) fn define_narrow(imports: &mut Imports) {
    import!(imports, stable_size in READS, (caller) -> i32 { Ok(i32::narrow(narrow_pages(caller.data())?)) });
    import!(imports, stable_grow in ANY_AND_START, (caller, pages: i32) -> i32 {
        if narrow_pages(caller.data())? + pages.widen() > NARROW_PAGES_MAX {
            return Ok(-1);
        }
        Ok(grow(caller.data_mut(), pages.widen()).map_or(-1, i32::narrow))
    });
    import!(imports, stable_write in ANY_AND_START, bytes(size), (caller, offset: i32, src: i32, size: i32) {
        narrow_pages(caller.data())?;
        stable_write(caller, offset.widen(), src.widen(), size.widen())
    });
    import!(imports, stable_read in READS, bytes(size), (caller, dst: i32, offset: i32, size: i32) {
        narrow_pages(caller.data())?;
        stable_read(caller, dst.widen(), offset.widen(), size.widen())
    });
}

/// Pages of a stable memory that 32-bit addresses reach.
fn narrow_pages(host: &Host) -> wasmtime::Result<u64> {
    match host.stable.size_pages() {
        pages if pages <= NARROW_PAGES_MAX => Ok(pages),
        _ => trapped("32 bit stable memory api used on a memory larger than 4GB"),
    }
}

/// Adds pages and returns the old size, or `None` when there are not so many to be had.
fn grow(host: &mut Host, pages: u64) -> Option<u64> {
    let bytes = pages.checked_mul(PAGE_BYTES as u64)?;
    if bytes > host.memory_available {
        return None;
    }
    let old = host.stable.grow(pages)?;
    allocate(host, bytes);
    Some(old)
}
