//! The methods as exports.
#![allow(unsafe_code)] // imports, and the attribute that keeps an export's name

use crate::METHODS;

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    safe fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(dst: *mut u8, offset: usize, size: usize);
    fn msg_reply_data_append(src: *const u8, size: usize);
    safe fn msg_reply();
}

fn answer(name: &str) {
    let mut size = [0; 4];
    assert_eq!(msg_arg_data_size(), size.len(), "bytes of the argument");
    // SAFETY: the host writes four bytes into a live array.
    unsafe { msg_arg_data_copy(size.as_mut_ptr(), 0, size.len()) };
    let (_, method) = METHODS
        .iter()
        .find(|(other, _)| *other == name)
        .expect("a method");
    let reply = method(u32::from_le_bytes(size));
    // SAFETY: the host reads the bytes of a live vector.
    unsafe { msg_reply_data_append(reply.as_ptr(), reply.len()) };
    msg_reply();
}

macro_rules! updates {
    ($($function:ident = $export:literal;)*) => {
        $(
            // SAFETY: no other symbol of the module has this name.
            #[unsafe(export_name = $export)]
            extern "C" fn $function() {
                answer(stringify!($function));
            }
        )*
    };
}
updates! {
    product = "canister_update product";
    primes = "canister_update primes";
    norm = "canister_update norm";
    uneven = "canister_update uneven";
}
