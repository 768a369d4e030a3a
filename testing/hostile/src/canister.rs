//! The steps, done.
#![allow(unsafe_code)] // exports, callbacks, and reading where one may not

use crate::{Call, Step};
use lockstep_cdk::parallel::Plan;
use std::{cell::RefCell, hint::black_box};

/// What lives from message to message.
#[derive(Default)]
struct State {
    sum: u64,
    touched: Vec<u8>,
    timer: Vec<Step>,
    heartbeat: Vec<Step>,
    pre_upgrade: Vec<Step>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(change: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(change)
}

fn add(word: u64) {
    with(|state| {
        state.sum = (state.sum ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29)
    });
}

fn add_bytes(bytes: &[u8]) {
    add(bytes.len() as u64);
    for byte in bytes {
        add(u64::from(*byte));
    }
}

fn add_wide(value: u128) {
    add(value as u64);
    add((value >> 64) as u64);
}

fn argument() -> Vec<u8> {
    let mut argument = vec![0; ic0::msg_arg_data_size()];
    ic0::msg_arg_data_copy(&mut argument, 0);
    argument
}

fn rejection() -> Vec<u8> {
    let mut text = vec![0; ic0::msg_reject_msg_size()];
    ic0::msg_reject_msg_copy(&mut text, 0);
    [&ic0::msg_reject_code().to_le_bytes()[..], &text].concat()
}

fn run_argument() {
    match postcard::from_bytes::<Vec<Step>>(&argument()) {
        Ok(program) => run(&program),
        Err(_) => ic0::trap(b"the argument is no program"),
    }
}

fn reply(bytes: &[u8]) {
    ic0::msg_reply_data_append(bytes);
    ic0::msg_reply();
}

fn run(program: &[Step]) {
    program.iter().for_each(take);
}

fn take(step: &Step) {
    add(1);
    match step {
        Step::Reply(bytes) => reply(bytes),
        Step::ReplySum => reply(&with(|state| state.sum).to_le_bytes()),
        Step::ReplyArgument => reply(&argument()),
        Step::ReplyRejection => reply(&rejection()),
        Step::Reject(text) => ic0::msg_reject(text.as_bytes()),
        Step::Trap(text) => ic0::trap(text.as_bytes()),
        Step::Unreachable => core::arch::wasm32::unreachable(),
        // SAFETY: there is none: the canister is to trap.
        Step::OutOfBounds => add(u64::from(unsafe { *black_box(usize::MAX as *const u8) })),
        Step::Print(text) => ic0::debug_print(text.as_bytes()),
        Step::Spin(turns) => {
            let spun = (0..*turns).fold(7, |word: u64, turn| black_box(word.rotate_left(5) ^ turn));
            add(spun);
        }
        Step::Recurse(depth) => add(recurse(*depth)),
        Step::Touch(pages) => with(|state| {
            let size = *pages as usize * 4096;
            if state.touched.len() < size {
                state.touched.resize(size, 0);
            }
            for byte in state.touched[..size].iter_mut().step_by(4096) {
                *byte = byte.wrapping_add(1);
            }
        }),
        Step::Grow(pages) => add(core::arch::wasm32::memory_grow(0, *pages as usize) as u64),
        Step::StableGrow(pages) => add(ic0::stable64_grow(*pages)),
        Step::StableWrite { offset, byte, size } => {
            ic0::stable64_write(&vec![*byte; *size as usize], *offset);
        }
        Step::StableRead { offset, size } => {
            let mut bytes = vec![0; *size as usize];
            ic0::stable64_read(&mut bytes, *offset);
            add_bytes(&bytes);
        }
        Step::Call(call) => send(call),
        Step::Accept(cycles) => add_wide(ic0::msg_cycles_accept128(u128::from(*cycles))),
        Step::Burn(cycles) => add_wide(ic0::cycles_burn128(u128::from(*cycles))),
        Step::Timer { delay_ns, program } => {
            with(|state| state.timer.clone_from(program));
            add(ic0::global_timer_set(ic0::time() + delay_ns));
        }
        Step::Heartbeat(program) => with(|state| state.heartbeat.clone_from(program)),
        Step::PreUpgrade(program) => with(|state| state.pre_upgrade.clone_from(program)),
        Step::Certify(data) => ic0::certified_data_set(data),
        Step::Fork {
            elements,
            spin,
            trap,
        } => fork(*elements, *spin, *trap),
        Step::Observe => observe(),
    }
}

fn recurse(depth: u32) -> u64 {
    match depth {
        0 => 1,
        _ => black_box(recurse(depth - 1)) + 1,
    }
}

fn observe() {
    add(ic0::time());
    add(ic0::canister_version());
    add(u64::from(ic0::canister_status()));
    add(ic0::performance_counter(0));
    add(ic0::performance_counter(1));
    add(ic0::stable64_size());
    add(core::arch::wasm32::memory_size(0) as u64);
    add_wide(ic0::canister_cycle_balance128());
    add_wide(ic0::canister_liquid_cycle_balance128());
    let mut caller = vec![0; ic0::msg_caller_size()];
    ic0::msg_caller_copy(&mut caller, 0);
    add_bytes(&caller);
}

/// What a call runs when it is answered. It lives until then, and is leaked where nobody is there to
/// free it.
struct Closures {
    reply: Vec<Step>,
    reject: Vec<Step>,
    cleanup: Vec<Step>,
}

fn send(call: &Call) {
    let closures = Box::leak(Box::new(Closures {
        reply: call.on_reply.clone(),
        reject: call.on_reject.clone(),
        cleanup: call.on_cleanup.clone().unwrap_or_default(),
    }));
    let environment = std::ptr::from_mut(closures) as usize;
    // SAFETY: the callbacks get the address of closures that are never freed.
    unsafe {
        ic0::call_new(
            &call.callee,
            &call.method,
            on_reply,
            environment,
            on_reject,
            environment,
        );
        if call.on_cleanup.is_some() {
            ic0::call_on_cleanup(on_cleanup, environment);
        }
    }
    ic0::call_data_append(&call.argument);
    if let Some(seconds) = call.timeout_seconds {
        ic0::call_with_best_effort_response(seconds);
    }
    if call.cycles > 0 {
        ic0::call_cycles_add128(u128::from(call.cycles));
    }
    add(u64::from(ic0::call_perform()));
}

/// # Safety
/// `environment` is the address of [`Closures`].
unsafe fn closures<'a>(environment: usize) -> &'a Closures {
    // SAFETY: see above.
    unsafe { &*(environment as *const Closures) }
}

unsafe extern "C" fn on_reply(environment: usize) {
    add_bytes(&argument());
    add_wide(ic0::msg_cycles_refunded128());
    // SAFETY: `send` passed the address.
    run(&unsafe { closures(environment) }.reply);
}

unsafe extern "C" fn on_reject(environment: usize) {
    add_bytes(&rejection());
    add_wide(ic0::msg_cycles_refunded128());
    // SAFETY: `send` passed the address.
    run(&unsafe { closures(environment) }.reject);
}

unsafe extern "C" fn on_cleanup(environment: usize) {
    // SAFETY: `send` passed the address.
    run(&unsafe { closures(environment) }.cleanup);
}

fn fork(elements: u32, spin: u32, trap: Option<u32>) {
    let mut results = vec![0_u64; elements as usize];
    let plan = Plan::new().instructions(50_000_000).pages(256);
    let trap = trap.map_or(u64::MAX, u64::from);
    plan.for_each_chunk_mut(
        &mut results,
        3,
        &(u64::from(spin), trap),
        |(spin, trap), first, chunk| {
            let task = first as u64 / 3;
            if task == *trap {
                ic0::trap(b"as it was told");
            }
            let word =
                (0..spin * task).fold(task, |word, turn| black_box(word.rotate_left(9) ^ turn));
            chunk.fill(word);
        },
    );
    results.iter().for_each(|word| add(*word));
}

macro_rules! exports {
    ($($name:literal = $function:ident $body:block)*) => {
        $(
            // SAFETY: no other symbol of the module has this name.
            #[unsafe(export_name = $name)]
            extern "C" fn $function() $body
        )*
    };
}
exports! {
    "canister_init" = init {
        if ic0::msg_arg_data_size() > 0 {
            run_argument();
        }
    }
    "canister_post_upgrade" = post_upgrade {
        if ic0::msg_arg_data_size() > 0 {
            run_argument();
        }
    }
    "canister_pre_upgrade" = pre_upgrade { run(&with(|state| state.pre_upgrade.clone())) }
    "canister_update run" = update { run_argument() }
    "canister_query read" = query { run_argument() }
    "canister_global_timer" = timer { run(&with(|state| state.timer.clone())) }
    "canister_heartbeat" = heartbeat { run(&with(|state| state.heartbeat.clone())) }
}
