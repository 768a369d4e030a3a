//! The system API of the Internet Computer, for canisters with 32-bit memories.
//!
//! Functions, contexts and semantics follow the interface specification, section "System imports".
//!
//! # Invariants
//! What this system does not have answers as an Internet Computer where it is absent: calls between
//! canisters are prepared and then fail to be sent (`call_perform` returns 2, and a line in the
//! canister's log says why); no cycles arrive or are burned; prices are 0; there are no environment
//! variables and no caller information.
use crate::{
    engine::Response,
    host::{
        Contexts, Host, Imports, SYSTEM_CALL, called_trap,
        context::{
            ANY, ANY_AND_START, FORK as TASKS, INIT as I, INSPECT as F, PRE_UPGRADE as G, QUERY,
            REPLICATED_QUERY, TASK as T, UPDATE as U,
        },
        copy, enter, read, stable_read, stable_write, used, violated, write,
    },
};
use ic_principal::Principal;
use wasmtime::Caller;

/// Queries of both kinds.
const Q: Contexts = QUERY | REPLICATED_QUERY;
const REPLY_BYTES_MAX: usize = 2 * 1024 * 1024;
const QUERY_REPLY_BYTES_MAX: usize = 3 * 1024 * 1024;
const CERTIFIED_DATA_BYTES_MAX: i32 = 32;

/// Defines `ic0.NAME` for the given contexts; `NAME` is in scope of its body.
macro_rules! import {
    ($imports:ident, $name:ident in $contexts:expr, ($caller:ident $(, $argument:ident: $ty:ty)*) $(-> $result:ty)? $body:block) => {
        $imports.add("ic0", stringify!($name), |mut caller: Caller<'_, Host> $(, $argument: $ty)*| -> wasmtime::Result<import!(@ $($result)?)> {
            #[allow(dead_code)]
            const NAME: &str = stringify!($name);
            let $caller = &mut caller;
            enter($caller, ("ic0", NAME), $contexts, SYSTEM_CALL)?;
            $body
        });
    };
    (@) => { () };
    (@ $result:ty) => { $result };
}

/// Defines the pair `ic0.X_size` and `ic0.X_copy` over one byte string of the host.
macro_rules! import_blob {
    ($imports:ident, $size:ident, $copy:ident in $contexts:expr, |$host:ident| $bytes:expr) => {
        import!($imports, $size in $contexts, (caller) -> i32 {
            let $host = caller.data();
            Ok($bytes.len() as i32)
        });
        import!($imports, $copy in $contexts, (caller, dst: i32, offset: i32, size: i32) {
            copy(caller, NAME, |$host| $bytes, (dst, offset, size))
        });
    };
}

/// Defines all of `ic0`.
pub(crate) fn define(imports: &mut Imports) {
    message(imports);
    cycles(imports);
    canister(imports);
    calls(imports);
    stable(imports);
    certification(imports);
    clock_and_counters(imports);
    costs(imports);
    environment_variables(imports);
    import!(imports, debug_print in ANY_AND_START | TASKS, (caller, src: i32, size: i32) {
        if let Ok(text) = read(caller, NAME, src, size) {
            caller.data_mut().print(&text);
        }
        Ok(())
    });
    import!(imports, trap in ANY_AND_START | TASKS, (caller, src: i32, size: i32) {
        Err(called_trap(&read(caller, NAME, src, size)?))
    });
}

fn message(imports: &mut Imports) {
    import_blob!(imports, msg_arg_data_size, msg_arg_data_copy in I | U | Q | F | TASKS, |host| &*host.argument);
    import_blob!(imports, msg_caller_size, msg_caller_copy in ANY | TASKS, |host| host.caller.as_slice());
    import_blob!(imports, msg_caller_info_data_size, msg_caller_info_data_copy in U | Q | F, |_host| b"".as_slice());
    import_blob!(imports, msg_caller_info_signer_size, msg_caller_info_signer_copy in U | Q | F, |_host| b"".as_slice());
    import_blob!(imports, msg_method_name_size, msg_method_name_copy in F, |host| host.method.as_bytes());
    // Only the callbacks of calls between canisters see rejections.
    import_blob!(imports, msg_reject_msg_size, msg_reject_msg_copy in 0, |_host| b"".as_slice());
    import!(imports, msg_reject_code in 0, (_caller) -> i32 { Ok(0) });
    import!(imports, msg_deadline in U | Q, (_caller) -> i64 { Ok(0) });
    import!(imports, msg_reply_data_append in U | Q, (caller, src: i32, size: i32) {
        check_unanswered(caller, NAME)?;
        let host = caller.data();
        let limit = if host.replicated { REPLY_BYTES_MAX } else { QUERY_REPLY_BYTES_MAX };
        let total = host.reply.len() + size.cast_unsigned() as usize;
        if total > limit {
            return violated(format!("ic0_msg_reply_data_append: application payload size ({total}) cannot be larger than {limit}"));
        }
        let bytes = read(caller, NAME, src, size)?;
        caller.data_mut().reply.extend_from_slice(&bytes);
        Ok(())
    });
    import!(imports, msg_reply in U | Q, (caller) {
        check_unanswered(caller, NAME)?;
        let host = caller.data_mut();
        host.response = Some(Response::Reply(std::mem::take(&mut host.reply)));
        Ok(())
    });
    import!(imports, msg_reject in U | Q, (caller, src: i32, size: i32) {
        check_unanswered(caller, NAME)?;
        if size.cast_unsigned() as usize > REPLY_BYTES_MAX {
            return violated(format!("ic0_msg_reject: application payload size ({}) cannot be larger than {REPLY_BYTES_MAX}", size.cast_unsigned()));
        }
        let Ok(text) = String::from_utf8(read(caller, NAME, src, size)?) else {
            return violated("ic0_msg_reject: invalid UTF-8 string provided");
        };
        caller.data_mut().response = Some(Response::Reject(text));
        Ok(())
    });
    import!(imports, accept_message in F, (caller) {
        if std::mem::replace(&mut caller.data_mut().accepted, true) {
            return violated("ic0_accept_message: the message was already accepted");
        }
        Ok(())
    });
}

fn check_unanswered(caller: &Caller<'_, Host>, name: &str) -> wasmtime::Result<()> {
    match caller.data().response {
        Some(_) => violated(format!(
            "ic0_{name}: the call is already replied or rejected"
        )),
        None => Ok(()),
    }
}

fn cycles(imports: &mut Imports) {
    import!(imports, msg_cycles_available128 in U | REPLICATED_QUERY, (caller, dst: i32) { write(caller, NAME, dst, &[0; 16]) });
    import!(imports, msg_cycles_available in U | REPLICATED_QUERY, (_caller) -> i64 { Ok(0) });
    import!(imports, msg_cycles_refunded128 in 0, (_caller, _dst: i32) { Ok(()) });
    import!(imports, msg_cycles_refunded in 0, (_caller) -> i64 { Ok(0) });
    import!(imports, msg_cycles_accept128 in U | REPLICATED_QUERY, (caller, _high: i64, _low: i64, dst: i32) {
        write(caller, NAME, dst, &[0; 16])
    });
    import!(imports, msg_cycles_accept in U | REPLICATED_QUERY, (_caller, _amount: i64) -> i64 { Ok(0) });
    import!(imports, cycles_burn128 in I | G | U | REPLICATED_QUERY | T, (caller, _high: i64, _low: i64, dst: i32) {
        write(caller, NAME, dst, &[0; 16])
    });
    import!(imports, canister_cycle_balance128 in ANY, (caller, dst: i32) {
        let cycles = caller.data().cycles;
        write(caller, NAME, dst, &cycles.to_le_bytes())
    });
    import!(imports, canister_liquid_cycle_balance128 in ANY, (caller, dst: i32) {
        let cycles = caller.data().cycles;
        write(caller, NAME, dst, &cycles.to_le_bytes())
    });
    import!(imports, canister_cycle_balance in ANY, (caller) -> i64 {
        match u64::try_from(caller.data().cycles) {
            Ok(cycles) => Ok(cycles.cast_signed()),
            Err(_) => violated("ic0_canister_cycle_balance: the balance does not fit into 64 bits"),
        }
    });
}

fn canister(imports: &mut Imports) {
    import_blob!(imports, canister_self_size, canister_self_copy in ANY | TASKS, |host| host.canister_id.as_slice());
    import_blob!(imports, subnet_self_size, subnet_self_copy in ANY, |host| host.subnet_id.as_slice());
    // A message only reaches a canister that runs.
    import!(imports, canister_status in ANY, (_caller) -> i32 { Ok(1) });
    import!(imports, canister_version in ANY | TASKS, (caller) -> i64 { Ok(caller.data().version.cast_signed()) });
    import!(imports, is_controller in ANY_AND_START | TASKS, (caller, src: i32, size: i32) -> i32 {
        let Ok(principal) = Principal::try_from_slice(&read(caller, NAME, src, size)?) else {
            return violated("ic0_is_controller: the argument is not a principal");
        };
        Ok(i32::from(caller.data().controllers.contains(&principal)))
    });
    import!(imports, in_replicated_execution in ANY_AND_START | TASKS, (caller) -> i32 { Ok(i32::from(caller.data().replicated)) });
}

fn calls(imports: &mut Imports) {
    import!(imports, call_new in U | T, (
        caller,
        _callee_src: i32, _callee_size: i32, _name_src: i32, _name_size: i32,
        _reply_fun: i32, _reply_env: i32, _reject_fun: i32, _reject_env: i32
    ) {
        caller.data_mut().call_pending = true;
        Ok(())
    });
    import!(imports, call_on_cleanup in U | T, (caller, _fun: i32, _env: i32) { check_call_pending(caller, NAME) });
    import!(imports, call_data_append in U | T, (caller, _src: i32, _size: i32) { check_call_pending(caller, NAME) });
    import!(imports, call_with_best_effort_response in U | T, (caller, _timeout_seconds: i32) { check_call_pending(caller, NAME) });
    import!(imports, call_cycles_add128 in U | T, (caller, _high: i64, _low: i64) { check_call_pending(caller, NAME) });
    import!(imports, call_cycles_add in U | T, (caller, _amount: i64) { check_call_pending(caller, NAME) });
    import!(imports, call_perform in U | T, (caller) -> i32 {
        check_call_pending(caller, NAME)?;
        let host = caller.data_mut();
        host.call_pending = false;
        host.print(b"calls between canisters are not supported yet: ic0.call_perform returns 2");
        Ok(2)
    });
}

fn check_call_pending(caller: &Caller<'_, Host>, name: &str) -> wasmtime::Result<()> {
    if caller.data().call_pending {
        Ok(())
    } else {
        violated(format!(
            "ic0_{name} called when no call is under construction."
        ))
    }
}

fn stable(imports: &mut Imports) {
    import!(imports, stable64_size in ANY_AND_START, (caller) -> i64 { Ok(caller.data().stable.size_pages().cast_signed()) });
    import!(imports, stable64_grow in ANY_AND_START, (caller, pages: i64) -> i64 {
        Ok(caller.data_mut().stable.grow(pages.cast_unsigned()).map_or(-1, u64::cast_signed))
    });
    import!(imports, stable64_write in ANY_AND_START, (caller, offset: i64, src: i64, size: i64) {
        stable_write(caller, NAME, offset.cast_unsigned(), src.cast_unsigned(), size.cast_unsigned())
    });
    import!(imports, stable64_read in ANY_AND_START, (caller, dst: i64, offset: i64, size: i64) {
        stable_read(caller, NAME, dst.cast_unsigned(), offset.cast_unsigned(), size.cast_unsigned())
    });
    // The limit of stable memory keeps every size and address within 32 bits.
    import!(imports, stable_size in ANY_AND_START, (caller) -> i32 { Ok(caller.data().stable.size_pages() as i32) });
    import!(imports, stable_grow in ANY_AND_START, (caller, pages: i32) -> i32 {
        Ok(caller.data_mut().stable.grow(u64::from(pages.cast_unsigned())).map_or(-1, |old| old as i32))
    });
    import!(imports, stable_write in ANY_AND_START, (caller, offset: i32, src: i32, size: i32) {
        let [offset, src, size] = [offset, src, size].map(|value| u64::from(value.cast_unsigned()));
        stable_write(caller, NAME, offset, src, size)
    });
    import!(imports, stable_read in ANY_AND_START, (caller, dst: i32, offset: i32, size: i32) {
        let [dst, offset, size] = [dst, offset, size].map(|value| u64::from(value.cast_unsigned()));
        stable_read(caller, NAME, dst, offset, size)
    });
}

fn certification(imports: &mut Imports) {
    import_blob!(imports, root_key_size, root_key_copy in I | G | U | REPLICATED_QUERY | T, |host| &*host.root_key);
    import!(imports, certified_data_set in I | G | U | T, (caller, src: i32, size: i32) {
        if !(0..=CERTIFIED_DATA_BYTES_MAX).contains(&size) {
            return violated(format!(
                "ic0_certified_data_set failed because the passed data must be no larger than {CERTIFIED_DATA_BYTES_MAX} bytes. Found {} bytes",
                size.cast_unsigned()
            ));
        }
        let data = read(caller, NAME, src, size)?;
        caller.data_mut().certified_data = Some(data);
        Ok(())
    });
    import!(imports, data_certificate_present in ANY, (caller) -> i32 { Ok(i32::from(caller.data().data_certificate.is_some())) });
    import!(imports, data_certificate_size in QUERY, (caller) -> i32 {
        check_certificate(caller, NAME)?;
        Ok(certificate(caller.data()).len() as i32)
    });
    import!(imports, data_certificate_copy in QUERY, (caller, dst: i32, offset: i32, size: i32) {
        check_certificate(caller, NAME)?;
        copy(caller, NAME, certificate, (dst, offset, size))
    });
}

fn certificate(host: &Host) -> &[u8] {
    host.data_certificate.as_deref().unwrap_or_default()
}

fn check_certificate(caller: &Caller<'_, Host>, name: &str) -> wasmtime::Result<()> {
    if caller.data().data_certificate.is_some() {
        Ok(())
    } else {
        violated(format!("ic0_{name}: no data certificate is present"))
    }
}

fn clock_and_counters(imports: &mut Imports) {
    import!(imports, time in ANY | TASKS, (caller) -> i64 { Ok(caller.data().time_ns.cast_signed()) });
    import!(imports, global_timer_set in I | G | U | T, (caller, deadline_ns: i64) -> i64 {
        let timer = &mut caller.data_mut().global_timer;
        Ok(std::mem::replace(timer, (deadline_ns.cast_unsigned(), true)).0.cast_signed())
    });
    import!(imports, performance_counter in ANY_AND_START | TASKS, (caller, counter: i32) -> i64 {
        // Without calls between canisters a call context is one message.
        if !(0..=1).contains(&counter) {
            return violated(format!("Error getting performance counter type {counter}"));
        }
        Ok((used(caller) + caller.data().overlap).cast_signed())
    });
}

fn costs(imports: &mut Imports) {
    import!(imports, cost_call in ANY_AND_START, (caller, _method_name_size: i64, _payload_size: i64, dst: i32) {
        write(caller, NAME, dst, &[0; 16])
    });
    import!(imports, cost_create_canister in ANY_AND_START, (caller, dst: i32) { write(caller, NAME, dst, &[0; 16]) });
    import!(imports, cost_http_request in ANY_AND_START, (caller, _request_size: i64, _max_res_bytes: i64, dst: i32) {
        write(caller, NAME, dst, &[0; 16])
    });
    // 2: no key of that name.
    import!(imports, cost_sign_with_ecdsa in ANY_AND_START, (_caller, _src: i32, _size: i32, _curve: i32, _dst: i32) -> i32 { Ok(2) });
    import!(imports, cost_sign_with_schnorr in ANY_AND_START, (_caller, _src: i32, _size: i32, _algorithm: i32, _dst: i32) -> i32 { Ok(2) });
    import!(imports, cost_vetkd_derive_key in ANY_AND_START, (_caller, _src: i32, _size: i32, _curve: i32, _dst: i32) -> i32 { Ok(2) });
}

fn environment_variables(imports: &mut Imports) {
    import!(imports, env_var_count in ANY, (_caller) -> i32 { Ok(0) });
    import!(imports, env_var_name_size in ANY, (_caller, index: i32) -> i32 { no_variable(index) });
    import!(imports, env_var_name_copy in ANY, (_caller, index: i32, _dst: i32, _offset: i32, _size: i32) { no_variable(index) });
    import!(imports, env_var_name_exists in ANY, (_caller, _src: i32, _size: i32) -> i32 { Ok(0) });
    import!(imports, env_var_value_size in ANY, (_caller, _src: i32, _size: i32) -> i32 {
        violated("ic0_env_var_value_size: no such environment variable")
    });
    import!(imports, env_var_value_copy in ANY, (_caller, _src: i32, _name_size: i32, _dst: i32, _offset: i32, _size: i32) {
        violated("ic0_env_var_value_copy: no such environment variable")
    });
}

fn no_variable<T>(index: i32) -> wasmtime::Result<T> {
    violated(format!(
        "environment variable index {} is out of bounds: there are 0",
        index.cast_unsigned()
    ))
}
