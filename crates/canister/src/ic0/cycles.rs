//! Cycles that come with calls, and the balance.
use super::{
    amount, import,
    letters::{ANY, C, G, I, RQ, RT, RY, T, U},
};
use crate::{
    engine::Cycles,
    host::{Contexts, Host, Imports, Message, Pointer, enter, trapped, write},
};
use wasmtime::Caller;

/// Where cycles can have come with the call.
const RECEIVES: Contexts = U | RQ | RT | RY;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import!(imports, msg_cycles_available128 in RECEIVES, (caller, dst: P) {
        let available = available(caller.data());
        write(caller, NAME, dst, &available.to_le_bytes())
    });
    import!(imports, msg_cycles_refunded128 in RT | RY, (caller, dst: P) {
        let refunded = caller.data().given.cycles_refunded;
        write(caller, NAME, dst, &refunded.to_le_bytes())
    });
    import!(imports, msg_cycles_accept128 in RECEIVES, (caller, high: i64, low: i64, dst: P) {
        let accepted = accept(caller.data_mut(), amount(high, low));
        write(caller, NAME, dst, &accepted.to_le_bytes())
    });
    import!(imports, cycles_burn128 in I | G | U | RQ | RY | RT | C | T, (caller, high: i64, low: i64, dst: P) {
        let burned = caller.data_mut().exchange.burn(amount(high, low));
        write(caller, NAME, dst, &burned.to_le_bytes())
    });
    import!(imports, canister_cycle_balance128 in ANY, (caller, dst: P) {
        let balance = caller.data().exchange.balance();
        write(caller, NAME, dst, &balance.to_le_bytes())
    });
    import!(imports, canister_liquid_cycle_balance128 in ANY, (caller, dst: P) {
        let liquid = caller.data().exchange.liquid();
        write(caller, NAME, dst, &liquid.to_le_bytes())
    });
}

/// Those that only modules with 32-bit memories have.
pub(super) fn define_narrow(imports: &mut Imports) {
    import!(imports, msg_cycles_available in RECEIVES, (caller) -> i64 { narrow(available(caller.data())) });
    import!(imports, msg_cycles_refunded in RT | RY, (caller) -> i64 { narrow(caller.data().given.cycles_refunded) });
    import!(imports, msg_cycles_accept in RECEIVES, (caller, most: i64) -> i64 {
        narrow(accept(caller.data_mut(), amount(0, most)))
    });
    import!(imports, canister_cycle_balance in ANY, (caller) -> i64 { narrow(caller.data().exchange.balance()) });
}

fn available(host: &Host) -> Cycles {
    host.exchange.available(host.response.as_ref())
}

fn accept(host: &mut Host, most: Cycles) -> Cycles {
    let host: &mut Message = host;
    host.exchange.accept(most, host.response.as_ref())
}

fn narrow(cycles: Cycles) -> wasmtime::Result<i64> {
    match u64::try_from(cycles) {
        Ok(cycles) => Ok(cycles.cast_signed()),
        Err(_) => trapped("cycles amount exceeds 64-bit representation"),
    }
}
