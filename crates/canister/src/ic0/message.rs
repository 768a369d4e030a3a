//! What a message carries, and answering it.
use super::{
    import, import_blob,
    letters::{ANY, C, CC, CQ, CRT, CRY, F, I, NRQ, Q, RQ, RT, RY, TASKS, U},
};
use crate::{
    engine::{Rejection, Response},
    host::{Contexts, Host, Imports, Pointer, copy_as, enter, read, read_as, violated},
};
use wasmtime::Caller;

const REPLY_BYTES_MAX: u64 = crate::prices::REPLY_BYTES_MAX;
const QUERY_REPLY_BYTES_MAX: u64 = 3 * 1024 * 1024;
/// Where there is something to answer.
const ANSWERS: Contexts = U | RQ | NRQ | CQ | RY | RT | CRY | CRT;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    arguments::<P>(imports);
    rejections::<P>(imports);
    answers::<P>(imports);
}

fn arguments<P: Pointer>(imports: &mut Imports) {
    const ARGUMENT: Contexts = I | U | RQ | NRQ | CQ | RY | CRY | F | TASKS;
    const CALLER_INFO: Contexts = U | RQ | NRQ | CQ | RY | RT | CRY | CRT | C | CC | F;
    import_blob!(imports, P, msg_arg_data_size, msg_arg_data_copy in ARGUMENT, "payload", |host| &*host.argument);
    import_blob!(imports, P, msg_caller_size, msg_caller_copy in ANY | TASKS, "id", |host| host.caller.as_slice());
    import_blob!(imports, P, msg_caller_info_data_size, msg_caller_info_data_copy in CALLER_INFO, "bytes", |host| {
        host.given.caller_info.as_ref().map_or(&[][..], |info| &info.data)
    });
    import_blob!(imports, P, msg_caller_info_signer_size, msg_caller_info_signer_copy in CALLER_INFO, "bytes", |host| {
        host.given.caller_info.as_ref().map_or(&[][..], |info| info.signer.as_slice())
    });
    import_blob!(imports, P, msg_method_name_size, msg_method_name_copy in F, "payload", |host| host.method.as_bytes());
    import!(imports, msg_deadline in U | Q | CQ | RY | RT | CRY | CRT, (caller) -> i64 {
        Ok(caller.data().given.deadline_ns.cast_signed())
    });
    import!(imports, accept_message in F, (caller) {
        if std::mem::replace(&mut caller.data_mut().accepted, true) {
            return violated("ic0.accept_message: the function was already called.");
        }
        Ok(())
    });
}

fn rejections<P: Pointer>(imports: &mut Imports) {
    import_blob!(imports, P, msg_reject_msg_size, msg_reject_msg_copy in RT | CRT, "msg", |host| {
        rejection(host).map_or(&[][..], |rejection| rejection.message.as_bytes())
    });
    import!(imports, msg_reject_code in RY | RT | CRY | CRT | C, (caller) -> i32 {
        Ok(rejection(caller.data()).map_or(0, |rejection| i32::from(rejection.code)))
    });
}

fn rejection(host: &Host) -> Option<&Rejection> {
    host.given.rejection.as_ref()
}

fn answers<P: Pointer>(imports: &mut Imports) {
    import!(imports, msg_reply_data_append in ANSWERS, bytes(size), (caller, src: P, size: P) {
        if is_answered(caller.data()) {
            return violated("ic0.msg_reply_data_append: the call is already replied.");
        }
        check_size(caller.data(), NAME, (caller.data().reply.len() as u64).saturating_add(size.widen()))?;
        let bytes = read_as(caller, format_args!("msg.reply"), src, size)?;
        caller.data_mut().reply.extend_from_slice(&bytes);
        Ok(())
    });
    import!(imports, msg_reply in ANSWERS, (caller) {
        let host = caller.data_mut();
        if is_answered(host) {
            return violated("ic0.msg_reply: the call is already replied");
        }
        host.response = Some(Response::Reply(std::mem::take(&mut host.reply)));
        Ok(())
    });
    import!(imports, msg_reject in ANSWERS, bytes(size), (caller, src: P, size: P) {
        if is_answered(caller.data()) {
            return violated("ic0.msg_reject: the call is already replied");
        }
        check_size(caller.data(), NAME, size.widen())?;
        let Ok(text) = String::from_utf8(read(caller, NAME, src, size)?) else {
            return violated("ic0.msg_reject: invalid UTF-8 string provided");
        };
        caller.data_mut().response = Some(Response::Reject(text));
        Ok(())
    });
}

fn is_answered(host: &Host) -> bool {
    host.exchange.answered || host.response.is_some()
}

fn check_size(host: &Host, name: &str, bytes: u64) -> wasmtime::Result<()> {
    let limit = if host.replicated {
        REPLY_BYTES_MAX
    } else {
        QUERY_REPLY_BYTES_MAX
    };
    if bytes > limit {
        return violated(format!(
            "ic0.{name}: application payload size ({bytes}) cannot be larger than {limit}."
        ));
    }
    Ok(())
}
