//! The method as an export.
#![allow(unsafe_code)] // imports, and the attribute that keeps an export's name

use crate::Request;

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    safe fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(dst: *mut u8, offset: usize, size: usize);
    fn msg_reply_data_append(src: *const u8, size: usize);
    safe fn msg_reply();
}

// SAFETY: no other symbol of the module has this name.
#[unsafe(export_name = "canister_update answer")]
extern "C" fn answer() {
    let mut argument = vec![0; msg_arg_data_size()];
    // SAFETY: the host writes so many bytes into a live vector.
    unsafe { msg_arg_data_copy(argument.as_mut_ptr(), 0, argument.len()) };
    let reply = Request::decode(&argument).answer();
    // SAFETY: the host reads the bytes of a live vector.
    unsafe { msg_reply_data_append(reply.as_ptr(), reply.len()) };
    msg_reply();
}
