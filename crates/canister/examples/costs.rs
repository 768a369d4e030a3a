//! Prints what messages and forks cost on this machine beside what their code does.
//!
//! `cargo run --release -p lockstep-canister --example costs`
//!
//! Every figure is the median over repetitions of a whole message, or the difference of two such medians
//! divided by what one has more of.
#![allow(clippy::disallowed_methods)] // Measures time, on purpose.

use ic_principal::Principal;
use lockstep_canister::{
    engine::{Call, Effects, Engine, EntryPoint, Environment},
    session::Sessions,
    state::{CanisterState, Installed},
};
use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    sync::Arc,
    time::Instant,
};

/// Arguments of every method: up to five u32 at address 64.
const MODULE: &str = r#"(module
    (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
    (import "ic0" "msg_arg_data_size" (func $size (result i32)))
    (import "ic0" "msg_reply" (func $reply))
    (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
    (memory PAGES 65536)
    (table 1 funcref) (elem (i32.const 0) $task)
    (global $salt (mut i32) (i32.const 1))
    (func $arguments (call $argument (i32.const 64) (i32.const 0) (call $size)))
    (func $at (param $index i32) (result i32) (i32.load (i32.add (i32.const 64) (i32.mul (local.get $index) (i32.const 4)))))
    (func $touch (param $count i32) (param $stride i32) (local $at i32)
        (global.set $salt (i32.add (global.get $salt) (i32.const 1)))
        (local.set $at (i32.const 1048576))
        (loop $next
            (if (local.get $count) (then
                (i32.store (local.get $at) (global.get $salt))
                (local.set $at (i32.add (local.get $at) (local.get $stride)))
                (local.set $count (i32.sub (local.get $count) (i32.const 1)))
                (br $next)))))
    ;; pages, stride: writes to so many pages
    (func (export "canister_update touch") (call $arguments) (call $touch (call $at (i32.const 0)) (call $at (i32.const 1))) (call $reply))
    ;; Reads bytes, spins, fills the window.
    (func $task (param $environment i32) (param $index i32) (local $i i32) (local $sum i64)
        (local.set $i (call $at (i32.const 4)))
        (loop $read
            (if (local.get $i) (then
                (local.set $i (i32.sub (local.get $i) (i32.const 8)))
                (local.set $sum (i64.add (local.get $sum) (i64.load (i32.add (i32.const 268435456) (local.get $i)))))
                (br $read))))
        (local.set $i (call $at (i32.const 3)))
        (loop $spin
            (if (local.get $i) (then
                (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
                (local.set $i (i32.sub (local.get $i) (i32.const 1)))
                (br $spin))))
        (memory.fill (i32.add (i32.const 134217728) (i32.mul (local.get $index) (call $at (i32.const 2))))
            (i32.add (i32.wrap_i64 (local.get $sum)) (global.get $salt)) (call $at (i32.const 2))))
    (func $windows (param $count i32) (param $size i32) (local $i i32)
        (loop $next
            (if (i32.lt_u (local.get $i) (local.get $count)) (then
                (i32.store (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 8)))
                    (i32.add (i32.const 134217728) (i32.mul (local.get $i) (local.get $size))))
                (i32.store (i32.add (i32.const 1028) (i32.mul (local.get $i) (i32.const 8))) (local.get $size))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br $next)))))
    ;; dirty pages, tasks, bytes of a window, spins, bytes read, forks: dirties and forks so many times
    (func (export "canister_update fork") (local $forks i32)
        (call $arguments)
        (call $windows (call $at (i32.const 1)) (call $at (i32.const 2)))
        (local.set $forks (call $at (i32.const 5)))
        (loop $next
            (if (local.get $forks) (then
                (call $touch (call $at (i32.const 0)) (i32.const 65536))
                (call $fork (i32.const 0) (i32.const 0) (call $at (i32.const 1)) (i32.const 1024) (i64.const 1000000000) (i32.const -1))
                (local.set $forks (i32.sub (local.get $forks) (i32.const 1)))
                (br $next))))
        (call $reply)))"#;

struct Canister {
    engine: Engine,
    state: CanisterState,
}

impl Canister {
    /// With a heap of `pages` of Wasm, `resident` bytes of which are in memory.
    fn new(engine: &Engine, pages: usize, resident: u32) -> Self {
        let wasm =
            wat::parse_str(MODULE.replace("PAGES", &pages.to_string())).expect("well formed");
        let module = engine.compile(&wasm).expect("a valid module");
        let id = Principal::from_slice(&[7, 1, 1]);
        let mut state = CanisterState::new(id, BTreeSet::new(), 0);
        state.installed = Some(Installed::new(Arc::new(module)));
        let mut canister = Self {
            engine: engine.clone(),
            state,
        };
        let (_, init) = canister.run(EntryPoint::Init, &[]);
        canister.state.apply(&init);
        canister.apply("touch", &[resident / 4096, 4096]);
        canister
    }

    /// Seconds of a message and what it did.
    fn run(&self, entry: EntryPoint, arguments: &[u32]) -> (f64, Effects) {
        let environment = Environment {
            time_ns: 0,
            subnet_id: Principal::management_canister(),
            root_key: b"",
            instruction_limit: 1 << 50,
            pace: None,
            lanes: NonZeroU32::new(4).expect("not zero"),
            data_certificate: None,
            sessions: &Sessions::default(),
        };
        let argument = arguments.iter().flat_map(|word| word.to_le_bytes());
        let call = Call {
            entry,
            caller: Principal::anonymous(),
            argument: argument.collect(),
        };
        let begun = Instant::now();
        let execution = self.engine.execute(&self.state, &call, &environment);
        let seconds = begun.elapsed().as_secs_f64();
        (seconds, execution.result.expect("the message completes").1)
    }

    /// Seconds of a message and of taking its effects over.
    fn apply(&mut self, method: &str, arguments: &[u32]) -> f64 {
        let (seconds, effects) = self.run(EntryPoint::Update(method.into()), arguments);
        let begun = Instant::now();
        self.state.apply(&effects);
        drop(effects);
        seconds + begun.elapsed().as_secs_f64()
    }

    fn median(&mut self, repetitions: usize, method: &str, arguments: &[u32]) -> f64 {
        self.apply(method, arguments);
        let mut seconds: Vec<_> = (0..repetitions)
            .map(|_| self.apply(method, arguments))
            .collect();
        seconds.sort_by(f64::total_cmp);
        seconds[repetitions / 2]
    }
}

fn main() {
    let engine = Engine::new();
    let one = engine.on_threads(NonZeroUsize::MIN);
    messages(&engine);
    forks(&engine);
    speedups(&engine, &one);
}

fn messages(engine: &Engine) {
    println!("message on a heap of 2 GiB, all of it resident, effects applied:");
    let mut canister = Canister::new(engine, 32_768, 2_000_000_000);
    for (pages, stride) in [
        (0, 0),
        (1, 4096),
        (100, 16 << 20),
        (100, 4096),
        (10_000, 200_704),
    ] {
        let seconds = canister.median(
            if pages > 1000 { 9 } else { 201 },
            "touch",
            &[pages, stride],
        );
        let spread = if stride > 4096 { "spread" } else { "together" };
        println!(
            "  {pages:>6} pages written, {spread:>8}: {:>9.1} us",
            seconds * 1e6
        );
    }
}

fn forks(engine: &Engine) {
    println!("a fork on a heap of 1 GiB, 100 MB of it resident, windows of 4 KiB:");
    let mut canister = Canister::new(engine, 16_384, 100 << 20);
    for (dirty, tasks) in [(100, 2), (100, 8), (1000, 2)] {
        let [few, many] =
            [1, 21].map(|forks| canister.median(31, "fork", &[dirty, tasks, 4096, 0, 0, forks]));
        let each = (many - few) / 20.0;
        println!(
            "  {dirty:>5} dirty pages, {tasks} tasks: {:>8.1} us",
            each * 1e6
        );
    }
}

fn speedups(engine: &Engine, one: &Engine) {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    println!("speed-up of {threads} threads over one:");
    let mut canister = Canister::new(engine, 16_384, 600 << 20);
    let mut compare = |name: String, repetitions, arguments: [u32; 6]| {
        let [alone, together] = [one, engine].map(|engine| {
            canister.engine = engine.clone();
            canister.median(repetitions, "fork", &arguments)
        });
        let (alone, together) = (alone * 1e3, together * 1e3);
        println!(
            "  {name}: {:.2} ({alone:.1} and {together:.1} ms)",
            alone / together
        );
    };
    for window in [4096, 256 << 10, 1 << 20] {
        let name = format!("8 tasks of some 10 ms, windows of {} KiB", window >> 10);
        compare(name, 9, [100, 8, window, 8_000_000, 0, 1]);
    }
    compare(
        "100 forks of 2 tasks that read 128 MiB and write 512 KiB each".into(),
        3,
        [100, 2, 512 << 10, 0, 128 << 20, 100],
    );
}
