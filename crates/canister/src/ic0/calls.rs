//! Calls to other canisters.
use super::{
    amount, import,
    letters::{CQ, CRT, CRY, RT, RY, T, U},
};
use crate::{
    engine::{Closure, Cycles, OutgoingCall},
    host::{Contexts, Host, Imports, Pointer, code, context, enter, read, refused, violated},
};
use ic_principal::Principal;
use wasmtime::Caller;

/// Most calls that may be under way from one canister to another.
const CALLS_MAX: usize = 500;
/// Most bytes of a method's name and a call's argument together, to a canister of the same subnet.
const CALL_BYTES_MAX: u64 = 10 * 1024 * 1024;
const METHOD_NAME_BYTES_MAX: u64 = 20_000;
const TIMEOUT_SECONDS_MAX: u32 = 300;
/// The answer of a call that cannot be made (`SYS_TRANSIENT`).
const NOT_MADE: i32 = 2;

const CALLS: Contexts = U | CQ | RY | RT | CRY | CRT | T;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import!(imports, call_new in CALLS, bytes(callee_size, name_size), (
        caller,
        callee_src: P, callee_size: P, name_src: P, name_size: P,
        reply_fun: P, reply_env: P, reject_fun: P, reject_env: P
    ) {
        caller.data_mut().exchange.draft = None;
        let size = name_size.widen();
        if size > METHOD_NAME_BYTES_MAX {
            return violated(format!(
                "Size of method_name {size} exceeds the allowed limit of {METHOD_NAME_BYTES_MAX}."
            ));
        }
        let name = read(caller, "call_new method_name", name_src, name_size)?;
        let callee = read(caller, "call_new callee_src", callee_src, callee_size)?;
        let Ok(callee) = Principal::try_from_slice(&callee) else {
            return refused(code::CONTRACT_VIOLATION, "Canister provided invalid principal id");
        };
        caller.data_mut().exchange.draft = Some(OutgoingCall {
            callee,
            method: String::from_utf8_lossy(&name).into_owned(),
            argument: Vec::new(),
            cycles: 0,
            timeout_seconds: None,
            on_reply: closure(reply_fun, reply_env),
            on_reject: closure(reject_fun, reject_env),
            on_cleanup: None,
            prepaid: 0,
        });
        Ok(())
    });
    import!(imports, call_on_cleanup in CALLS, (caller, fun: P, env: P) {
        let draft = draft(caller, NAME)?;
        if draft.on_cleanup.is_some() {
            return violated("ic0.call_on_cleanup can be called at most once between `ic0.call_new` and `ic0.call_perform`");
        }
        draft.on_cleanup = Some(closure(fun, env));
        Ok(())
    });
    import!(imports, call_data_append in CALLS, bytes(size), (caller, src: P, size: P) {
        let draft = draft(caller, NAME)?;
        let bytes = bytes(draft).saturating_add(size.widen());
        if bytes > CALL_BYTES_MAX {
            return violated(format!(
                "Request to {}:{} has a payload size of {bytes}, which exceeds the allowed limit of {CALL_BYTES_MAX}.",
                draft.callee, draft.method
            ));
        }
        let data = read(caller, NAME, src, size)?;
        self::draft(caller, NAME)?.argument.extend_from_slice(&data);
        Ok(())
    });
    import!(imports, call_with_best_effort_response in CALLS, (caller, timeout_seconds: i32) {
        let draft = draft(caller, NAME)?;
        if draft.timeout_seconds.is_some() {
            return violated("ic0_call_with_best_effort_response failed because a timeout is already set.");
        }
        draft.timeout_seconds = Some(timeout_seconds.cast_unsigned().min(TIMEOUT_SECONDS_MAX));
        Ok(())
    });
    import!(imports, call_cycles_add128 in U | RY | RT | T, (caller, high: i64, low: i64) {
        add_cycles(caller, "ic0_call_cycles_add128", amount(high, low))
    });
    import!(imports, call_perform in CALLS, (caller) -> i32 {
        draft(caller, NAME)?;
        Ok(if perform(caller.data_mut()) { 0 } else { NOT_MADE })
    });
}

/// That which only modules with 32-bit memories have.
pub(super) fn define_narrow(imports: &mut Imports) {
    import!(imports, call_cycles_add in U | RY | RT | T, (caller, cycles: i64) {
        add_cycles(caller, "ic0_call_cycles_add", amount(0, cycles))
    });
}

fn closure<P: Pointer>(function: P, environment: P) -> Closure {
    Closure {
        function: function.widen(),
        environment: environment.widen(),
    }
}

/// The call under construction.
fn draft<'a>(
    caller: &'a mut Caller<'_, Host>,
    name: &str,
) -> wasmtime::Result<&'a mut OutgoingCall> {
    match &mut caller.data_mut().exchange.draft {
        Some(draft) => Ok(draft),
        None => violated(format!(
            "ic0.{name} called when no call is under construction."
        )),
    }
}

fn bytes(call: &OutgoingCall) -> u64 {
    (call.method.len() + call.argument.len()) as u64
}

fn add_cycles(caller: &mut Caller<'_, Host>, name: &str, cycles: Cycles) -> wasmtime::Result<()> {
    let host = caller.data_mut();
    let liquid = host.exchange.liquid();
    let Some(draft) = &mut host.exchange.draft else {
        return violated(format!("{name} called when no call is under construction."));
    };
    if cycles > liquid {
        return refused(
            code::CONTRACT_VIOLATION,
            format!("Canister {} is out of cycles", host.canister_id),
        );
    }
    draft.cycles += cycles;
    Ok(())
}

/// Makes the call under construction, if it can be made; otherwise what it holds comes back.
fn perform(host: &mut Host) -> bool {
    let Some(mut draft) = host.exchange.draft.take() else {
        return false;
    };
    // What a query pays with is nobody's: its calls cost nothing and are not kept.
    let bytes = bytes(&draft);
    let mut fee = 0;
    if host.context & context::COMPOSITE == 0 {
        fee = host.given.prices.request(bytes);
        draft.prepaid = host
            .given
            .prices
            .response_prepayment(host.module.memory64());
    }
    let made = host.exchange.calls.iter();
    let made = made.filter(|call| call.callee == draft.callee).count();
    let under_way = host.given.calls_under_way.get(&draft.callee);
    under_way.copied().unwrap_or(0).saturating_add(made) < CALLS_MAX
        && host.exchange.send(draft, bytes, fee)
}
