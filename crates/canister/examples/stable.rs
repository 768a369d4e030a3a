//! Prints what messages cost on this machine that use a stable memory of 64 GiB.
//!
//! `cargo run --release -p lockstep-canister --example stable`
//!
//! 65,536 leaves of 4 KiB, 1 MiB apart, are not zeros at the start. Every figure is the median over
//! repetitions: of a whole message with its effects applied, and of the digest that follows it. Writes fill
//! their piece anew in the heap first, once a message.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Engine, EntryPoint, Environment},
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{collections::BTreeSet, sync::Arc, time::Instant};

/// Arguments of every method: three i64 at address 64.
const MODULE: &str = r#"(module
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
    (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
    (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
    (memory 32)
    (global $salt (mut i64) (i64.const 0))
    (func (export "canister_init") (drop (call $grow (i64.const 1048576))))
    ;; count, stride, size: writes so many pieces
    (func (export "canister_update write") (local $at i64)
        (call $argument (i32.const 64) (i32.const 0) (i32.const 24))
        (global.set $salt (i64.add (global.get $salt) (i64.const 1)))
        (memory.fill (i32.const 1024) (i32.wrap_i64 (global.get $salt)) (i32.wrap_i64 (i64.load (i32.const 80))))
        (loop $next
            (if (i64.ne (i64.load (i32.const 64)) (i64.const 0)) (then
                (call $write (local.get $at) (i64.const 1024) (i64.load (i32.const 80)))
                (local.set $at (i64.add (local.get $at) (i64.load (i32.const 72))))
                (i64.store (i32.const 64) (i64.sub (i64.load (i32.const 64)) (i64.const 1)))
                (br $next))))
        (call $reply))
    ;; The same: reads.
    (func (export "canister_update read") (local $at i64)
        (call $argument (i32.const 64) (i32.const 0) (i32.const 24))
        (loop $next
            (if (i64.ne (i64.load (i32.const 64)) (i64.const 0)) (then
                (call $read (i64.const 1024) (local.get $at) (i64.load (i32.const 80)))
                (local.set $at (i64.add (local.get $at) (i64.load (i32.const 72))))
                (i64.store (i32.const 64) (i64.sub (i64.load (i32.const 64)) (i64.const 1)))
                (br $next))))
        (call $reply)))"#;

const MIB: i64 = 1 << 20;

struct Canister {
    engine: Engine,
    state: CanisterState,
}

impl Canister {
    fn new() -> Self {
        let engine = Engine::new();
        let wasm = wat::parse_str(MODULE).expect("well formed");
        let module = engine.compile(&wasm).expect("a valid module");
        let id = Principal::from_slice(&[7, 1, 1]);
        let mut state = CanisterState::new(id, BTreeSet::new(), 0);
        state.installed = Some(Installed::new(Arc::new(module)));
        let mut canister = Self { engine, state };
        canister.apply(EntryPoint::Init, &[]);
        canister.apply(EntryPoint::Update("write".into()), &[65_536, MIB, 8]);
        std::hint::black_box(canister.state.digest());
        canister
    }

    fn apply(&mut self, entry: EntryPoint, arguments: &[i64]) {
        let sessions = Sessions::default();
        let environment = Environment {
            instruction_limit: 1 << 50,
            ..Environment::new(&sessions)
        };
        let argument = arguments.iter().flat_map(|word| word.to_le_bytes());
        let call = Call::new(entry, Principal::anonymous(), argument.collect());
        let execution = self.engine.execute(&self.state, &call, &environment);
        let (_, effects) = execution.result.expect("the message completes");
        self.state.apply(&effects);
    }

    fn print(&mut self, what: &str, repetitions: usize, method: &str, arguments: [i64; 3]) {
        let (mut messages, mut digests) = (Vec::new(), Vec::new());
        for _ in 0..=repetitions {
            let begun = Instant::now();
            self.apply(EntryPoint::Update(method.into()), &arguments);
            messages.push(begun.elapsed().as_secs_f64());
            let begun = Instant::now();
            std::hint::black_box(self.state.digest());
            digests.push(begun.elapsed().as_secs_f64());
        }
        let [message, digest] = [messages, digests].map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[repetitions / 2] * 1e6
        });
        println!("  {what:<44} {message:>10.1} us, digest {digest:>10.1} us");
    }
}

fn main() {
    let mut canister = Canister::new();
    println!("a message on a stable memory of 64 GiB:");
    let mut print = |what, repetitions, method, arguments| {
        canister.print(what, repetitions, method, arguments);
    };
    print("nothing", 201, "write", [0, 0, 0]);
    print("one write of 8 bytes", 201, "write", [1, 0, 8]);
    print(
        "1,000 writes of 8 bytes, 1 MiB apart",
        51,
        "write",
        [1000, MIB, 8],
    );
    print(
        "1,000 writes of 8 bytes, together",
        51,
        "write",
        [1000, 8, 8],
    );
    print("100 writes of 1 MiB, together", 9, "write", [100, MIB, MIB]);
    print(
        "1,000 reads of 8 bytes, 64 MiB apart",
        51,
        "read",
        [1000, 64 * MIB, 8],
    );
    print(
        "1,000,000 reads of 8 bytes, together",
        9,
        "read",
        [1_000_000, 8, 8],
    );
    print("100 reads of 1 MiB, together", 9, "read", [100, MIB, MIB]);
    print(
        "100 reads of 1 MiB of zeros",
        9,
        "read",
        [100, 64 * MIB + 4096, MIB - 4096],
    );
}
