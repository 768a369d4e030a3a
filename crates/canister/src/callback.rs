//! Running a callback: an element of the first table, called with what the call recorded beside it.
//!
//! # Errors
//! What is recorded is whatever the canister said when it made the call. An index outside of the table, no
//! function at it and a function of another type end the message, with the replica's texts.
use crate::{
    engine::Closure,
    host::{Pointer, code, refused, violated},
    instance::Running,
};
use wasmtime::{Func, WasmParams};

/// Runs a closure of a message.
pub(crate) fn run(running: &mut Running, closure: &Closure) -> wasmtime::Result<()> {
    let function = find(running, closure)?;
    if running.store.data().module.memory64() {
        call(running, function, i64::narrow(closure.environment))
    } else {
        call(running, function, i32::narrow(closure.environment))
    }
}

fn find(running: &mut Running, closure: &Closure) -> wasmtime::Result<Func> {
    let Some(table) = running.table() else {
        return violated("table not found");
    };
    let Some(element) = table.get(&mut running.store, closure.function) else {
        return refused(
            code::FUNCTION_NOT_FOUND,
            format!(
                "Canister requested to invoke a non-existent Wasm function {} from table 0",
                closure.function
            ),
        );
    };
    match element.as_func() {
        Some(Some(function)) => Ok(*function),
        Some(None) => violated("unexpected null function reference"),
        None => violated("not a function reference"),
    }
}

fn call<P>(running: &mut Running, function: Func, environment: P) -> wasmtime::Result<()>
where
    P: WasmParams,
{
    match function.typed::<P, ()>(&running.store) {
        Ok(function) => function.call(&mut running.store, environment),
        Err(_) => violated("function invocation does not match its signature"),
    }
}
