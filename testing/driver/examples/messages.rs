//! Prints how many messages a subnet executes in a second on this machine, on one thread and on two.
//!
//! `cargo run --release --package lockstep-driver --example messages [-- rates|scaling]`
//!
//! A rate is that of the fastest of several blocks, of the execution alone: no consensus, no signatures, no storage.
//! Scaling is the ratio of medians of blocks that alternate between one thread and two.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use candid::Principal;
use lockstep_canister::engine::Engine;
use lockstep_driver::{MessageId, Subnet};
use std::{num::NonZeroUsize, time::Instant};

const MODULE: &str = r#"(module
    (import "ic0" "msg_arg_data_size" (func $size (result i32)))
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_perform" (func $perform (result i32)))
    (memory PAGES)
    (data (i32.const 0) "pong")
    (table 1 funcref) (elem (i32.const 0) $again)
    (global $salt (mut i32) (i32.const 1))
    (func $arguments (call $argument (i32.const 64) (i32.const 0) (call $size)))
    (func (export "canister_init")
        (memory.fill (i32.const 4096) (i32.const 1) (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4096))))
    (func (export "canister_update touch")
        (global.set $salt (i32.add (global.get $salt) (i32.const 1)))
        (i32.store (i32.const 8192) (global.get $salt))
        (call $reply))
    ;; rounds
    (func (export "canister_update spin") (local $i i32) (local $sum i64)
        (call $arguments)
        (local.set $i (i32.load (i32.const 64)))
        (loop $spin
            (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
            (br_if $spin (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
        (i64.store (i32.const 8192) (local.get $sum))
        (call $reply))
    (func (export "canister_update pong") (call $reply))
    ;; calls, peer: so many calls of the peer, one after another
    (func (export "canister_update ping") (call $arguments) (call $call))
    (func $call
        (call $new (i32.const 68) (i32.const 10) (i32.const 0) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (if (call $perform) (then unreachable)))
    (func $again (param i32)
        (i32.store (i32.const 64) (i32.sub (i32.load (i32.const 64)) (i32.const 1)))
        (if (i32.load (i32.const 64)) (then (call $call)) (else (call $reply)))))"#;

/// Blocks that are measured, after one that is not.
const BLOCKS: usize = 10;

struct Bench {
    subnet: Subnet,
    canisters: Vec<Principal>,
}

impl Bench {
    /// With so many canisters, each with a heap of so many pages of Wasm, all of it written.
    fn new(engine: Engine, canisters: usize, pages: usize) -> Self {
        let wasm =
            wat::parse_str(MODULE.replace("PAGES", &pages.to_string())).expect("well formed");
        let mut subnet = Subnet::with_engine(engine);
        let canisters = (0..canisters).map(|_| {
            let canister = subnet.create_canister();
            let installed = subnet.install(canister, &wasm, b"");
            installed.expect("a valid module");
            canister
        });
        let canisters = canisters.collect();
        Self { subnet, canisters }
    }

    /// Seconds that the subnet takes to answer so many calls of each canister.
    fn run(&mut self, calls: usize, method: &str, argument: impl Fn(usize) -> Vec<u8>) -> f64 {
        let ids: Vec<MessageId> = (0..calls * self.canisters.len())
            .map(|index| {
                let canister = index % self.canisters.len();
                let argument = argument(canister);
                let id = self.canisters[canister];
                let sender = Principal::anonymous();
                self.subnet.submit(id, sender, method, &argument)
            })
            .collect();
        let begun = Instant::now();
        self.subnet.settle();
        let seconds = begun.elapsed().as_secs_f64();
        for id in ids {
            self.subnet.wait(id).expect("the call is replied to");
        }
        seconds
    }
}

fn main() {
    let part = std::env::args().nth(1);
    let wanted = |name| part.as_deref().is_none_or(|part| part == name);
    if wanted("rates") {
        for threads in [1, 2] {
            rates(threads);
        }
    }
    if wanted("scaling") {
        scaling();
    }
}

fn engine(threads: usize) -> Engine {
    Engine::new().on_threads(NonZeroUsize::new(threads).expect("not zero"))
}

fn rates(threads: usize) {
    println!("messages executed per second, threads: {threads}");
    let print = |name: &str, messages: usize, seconds: f64| {
        let each = seconds / messages as f64;
        println!(
            "  {name:<52}{:>9.0} ({:.1} us each)",
            1.0 / each,
            each * 1e6
        );
    };
    let fastest = |bench: &mut Bench, calls, method, argument: &dyn Fn(usize) -> Vec<u8>| {
        bench.run(calls, method, argument);
        (0..BLOCKS)
            .map(|_| bench.run(calls, method, argument))
            .fold(f64::INFINITY, f64::min)
    };
    let nothing = |_| Vec::new();
    for (name, canisters, pages, calls) in [
        ("one canister, heap of 64 KiB", 1, 1, 1_000),
        ("100 canisters, heaps of 64 KiB", 100, 1, 10),
        (
            "one canister, heap of 1 GiB, one page written",
            1,
            16_384,
            200,
        ),
    ] {
        let mut bench = Bench::new(engine(threads), canisters, pages);
        let seconds = fastest(&mut bench, calls, "touch", &nothing);
        print(name, canisters * calls, seconds);
    }
    let (pairs, calls) = (50, 20_u32);
    let mut bench = Bench::new(engine(threads), 2 * pairs, 1);
    let peers: Vec<_> = bench.canisters.drain(pairs..).collect();
    let argument = |index: usize| {
        let mut bytes = calls.to_le_bytes().to_vec();
        bytes.extend(peers[index].as_slice());
        bytes
    };
    let seconds = fastest(&mut bench, 1, "ping", &argument);
    // The user's message, then for every call that of the peer and the callback.
    let messages = pairs * (1 + 2 * calls as usize);
    print(
        "50 pairs of canisters that call each other",
        messages,
        seconds,
    );
}

fn scaling() {
    const CANISTERS: usize = 8;
    let [mut one, mut two] = [1, 2].map(|threads| Bench::new(engine(threads), CANISTERS, 1));
    println!("{CANISTERS} canisters that compute, one message each, on 1 and 2 threads:");
    for rounds in [100_000_u32, 1_000_000, 100_000_000] {
        let argument = |_| rounds.to_le_bytes().to_vec();
        let mut times = [Vec::new(), Vec::new()];
        for repetition in 0..=BLOCKS {
            for (bench, times) in [&mut one, &mut two].into_iter().zip(&mut times) {
                let seconds = bench.run(1, "spin", argument);
                if repetition > 0 {
                    times.push(seconds);
                }
            }
        }
        let [alone, together] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2] * 1e3
        });
        println!(
            "  {rounds:>11} rounds each: {:.2} ({alone:.2} and {together:.2} ms)",
            alone / together
        );
    }
}
