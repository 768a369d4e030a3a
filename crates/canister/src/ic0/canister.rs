//! The canister itself, the time, and what it has used of its instructions.
use super::{
    import, import_blob,
    letters::{ANY, ANY_AND_START, C, G, I, RT, RY, T, TASKS, U},
};
use crate::{
    host::{Host, Imports, Pointer, code, copy_as, enter, read, refused, used, violated},
    state::RunState,
};
use ic_principal::Principal;
use wasmtime::Caller;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import_blob!(imports, P, canister_self_size, canister_self_copy in ANY | TASKS, "id", |host| host.canister_id.as_slice());
    import_blob!(imports, P, subnet_self_size, subnet_self_copy in ANY, "id", |host| host.subnet_id.as_slice());
    import!(imports, subnet_self_node_count in ANY, (caller) -> i32 {
        Ok(caller.data().given.prices.nodes().cast_signed())
    });
    import!(imports, canister_status in ANY, (caller) -> i32 {
        Ok(match caller.data().given.run_state {
            RunState::Running => 1,
            RunState::Stopping => 2,
            RunState::Stopped => 3,
        })
    });
    import!(imports, canister_version in ANY | TASKS, (caller) -> i64 { Ok(caller.data().version.cast_signed()) });
    import!(imports, is_controller in ANY_AND_START | TASKS, bytes(size), (caller, src: P, size: P) -> i32 {
        let Ok(principal) = Principal::try_from_slice(&read(caller, NAME, src, size)?) else {
            return refused(code::CONTRACT_VIOLATION, "Canister provided invalid principal id");
        };
        Ok(i32::from(caller.data().controllers.contains(&principal)))
    });
    import!(imports, in_replicated_execution in ANY_AND_START | TASKS, (caller) -> i32 { Ok(i32::from(caller.data().replicated)) });
    import!(imports, time in ANY | TASKS, (caller) -> i64 { Ok(caller.data().time_ns.cast_signed()) });
    import!(imports, global_timer_set in I | G | U | RY | RT | C | T, (caller, deadline_ns: i64) -> i64 {
        let timer = &mut caller.data_mut().global_timer;
        Ok(std::mem::replace(timer, (deadline_ns.cast_unsigned(), true)).0.cast_signed())
    });
    import!(imports, performance_counter in ANY_AND_START | TASKS, (caller, counter: i32) -> i64 {
        let host = caller.data();
        let before = match counter {
            0 => host.overlap,
            1 => host.overlap + host.given.context_instructions,
            _ => return violated(format!("Error getting performance counter type {counter}")),
        };
        Ok((used(caller) + before).cast_signed())
    });
}
