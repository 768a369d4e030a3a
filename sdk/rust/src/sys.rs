//! The imports of module `lockstep` as safe functions over slices.
//!
//! # Panics
//! On every target but wasm32, where there is no host to ask.

/// Defines the raw import and a panicking stand-in for other targets.
macro_rules! imports {
    ($(fn $name:ident($($argument:ident: $ty:ty),*) $(-> $result:ty)?;)*) => {
        #[cfg(target_arch = "wasm32")]
        mod raw {
            #[link(wasm_import_module = "lockstep")]
            unsafe extern "C" {
                $(pub(super) fn $name($($argument: $ty),*) $(-> $result)?;)*
            }
        }

        #[cfg(not(target_arch = "wasm32"))]
        mod raw {
            $(
                pub(super) unsafe fn $name($(_: $ty),*) $(-> $result)? {
                    panic!(concat!("lockstep.", stringify!($name), " exists only inside a canister"))
                }
            )*
        }
    };
}

imports! {
    fn model_open(name: *const u8, name_size: usize) -> i64;
    fn session_start(model: i64, prompt: *const u8, prompt_size: usize, seed: i64, temperature_milli: i32) -> i64;
    fn session_advance(session: i64, tokens: i32) -> i32;
    fn session_close(session: i64) -> i32;
    fn session_status(session: i64) -> i32;
    fn session_tokens(session: i64) -> i32;
    fn session_text_size(session: i64) -> i32;
    fn session_text_copy(session: i64, dst: *mut u8, offset: usize, size: usize);
    fn session_digest_copy(session: i64, dst: *mut u8);
    fn session_error_size(session: i64) -> i32;
    fn session_error_copy(session: i64, dst: *mut u8, offset: usize, size: usize);
}

pub(crate) fn model_open(name: &[u8]) -> i64 {
    // SAFETY: the host reads `name.len()` bytes from a live slice.
    unsafe { raw::model_open(name.as_ptr(), name.len()) }
}

pub(crate) fn session_start(model: i64, prompt: &[u8], seed: i64, temperature_milli: i32) -> i64 {
    // SAFETY: the host reads `prompt.len()` bytes from a live slice.
    unsafe {
        raw::session_start(
            model,
            prompt.as_ptr(),
            prompt.len(),
            seed,
            temperature_milli,
        )
    }
}

pub(crate) fn session_advance(session: i64, tokens: i32) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_advance(session, tokens) }
}

pub(crate) fn session_close(session: i64) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_close(session) }
}

pub(crate) fn session_status(session: i64) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_status(session) }
}

pub(crate) fn session_tokens(session: i64) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_tokens(session) }
}

pub(crate) fn session_text_size(session: i64) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_text_size(session) }
}

pub(crate) fn session_text_copy(session: i64, text: &mut [u8]) {
    // SAFETY: the host writes exactly `text.len()` bytes into a live slice or traps.
    unsafe { raw::session_text_copy(session, text.as_mut_ptr(), 0, text.len()) }
}

pub(crate) fn session_digest_copy(session: i64, digest: &mut [u8; 32]) {
    // SAFETY: the host writes exactly 32 bytes into a live array or traps.
    unsafe { raw::session_digest_copy(session, digest.as_mut_ptr()) }
}

pub(crate) fn session_error_size(session: i64) -> i32 {
    // SAFETY: no pointers.
    unsafe { raw::session_error_size(session) }
}

pub(crate) fn session_error_copy(session: i64, reason: &mut [u8]) {
    // SAFETY: the host writes exactly `reason.len()` bytes into a live slice or traps.
    unsafe { raw::session_error_copy(session, reason.as_mut_ptr(), 0, reason.len()) }
}

/// A part of memory that a task fills.
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
#[repr(C)]
pub(crate) struct Window {
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

/// A task, entered with the environment's address and its index.
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
pub(crate) type Task = unsafe extern "C" fn(*const (), u32);

#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
mod fork {
    use super::{Task, Window};

    #[link(wasm_import_module = "lockstep")]
    unsafe extern "C" {
        pub(super) fn fork(
            task: Task,
            environment: *const (),
            count: usize,
            windows: *const Window,
            instructions: i64,
            pages: u32,
        );
    }

    #[link(wasm_import_module = "ic0")]
    unsafe extern "C" {
        pub(super) safe fn performance_counter(kind: i32) -> i64;
    }
}

/// Runs a task per window and returns when all are done.
///
/// # Safety
/// `task` may be entered with `environment` and every index below the number of windows, and the
/// windows hold data of which any bytes are valid and to which nothing else refers.
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
pub(crate) unsafe fn fork(
    task: Task,
    environment: *const (),
    windows: &[Window],
    instructions: u64,
    pages: u32,
) {
    let instructions = i64::try_from(instructions).unwrap_or(i64::MAX);
    // SAFETY: the host reads the windows from a live slice; the rest is the caller's promise.
    unsafe {
        fork::fork(
            task,
            environment,
            windows.len(),
            windows.as_ptr(),
            instructions,
            pages,
        );
    }
}

/// Instructions that this message has used.
#[cfg(all(target_arch = "wasm32", not(feature = "sequential")))]
pub(crate) fn instructions_used() -> u64 {
    fork::performance_counter(0).cast_unsigned()
}
