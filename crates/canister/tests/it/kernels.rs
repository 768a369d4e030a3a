//! Kernels on a canister's memory: where they may be called and what they cost.
mod hostile;

use crate::support::{Canister, ENGINE, LIMIT, number, text};
use lockstep_canister::{
    engine::{Engine, EntryPoint, Execution, Response},
    kernels::{format_code, prices},
};
use lockstep_numeric::{Isa, WeightFormat};
use std::{num::NonZeroUsize, sync::LazyLock};

/// Engines of several thread counts and of every instruction set; results may not depend on which.
static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| {
    let threads = [1, 2, 3, 8].map(|threads| NonZeroUsize::new(threads).unwrap());
    let isas = Isa::available().into_iter();
    threads
        .map(|threads| ENGINE.on_threads(threads))
        .into_iter()
        .chain(isas.map(|isa| ENGINE.on_isa(isa).unwrap()))
        .collect()
});

/// Imports and their numbers of i32 arguments; the last of the norm's is a float.
const KERNELS: [(&str, usize); 7] = [
    ("kernel_matmul_f32", 6),
    ("kernel_matmul_rows", 7),
    ("kernel_rms_norm", 6),
    ("kernel_softmax", 3),
    ("kernel_silu_mul", 3),
    ("kernel_add", 3),
    ("kernel_exp", 2),
];
const MATMUL: usize = 0;
const ROWS: usize = 1;
const NORM: usize = 2;
const SOFTMAX: usize = 3;
const SILU: usize = 4;
const ADD: usize = 5;
const EXP: usize = 6;

/// Bytes of the memory: one page of Wasm.
const MEMORY_BYTES: u32 = 65_536;
/// Where the argument's data go.
const DATA: u32 = 64;

/// Update `kernel N` calls kernel N with the words at the start of the argument, whose rest lies at 64 then, and replies
/// with all of memory; `forked N` does so from a task; `cost N` replies with the instructions that the call takes.
fn module() -> String {
    let mut imports = String::new();
    let mut functions = String::new();
    let mut names = Vec::new();
    for (index, (name, arguments)) in KERNELS.iter().enumerate() {
        let mut types = vec!["i32"; *arguments];
        let mut loads: Vec<_> = (0..*arguments)
            .map(|word| format!("(i32.load (i32.const {}))", word * 4))
            .collect();
        if index == NORM {
            types[5] = "f32";
            loads[5] = "(f32.load (i32.const 20))".into();
        }
        imports += &format!(
            r#"(import "lockstep" "{name}" (func ${name} (param {})))"#,
            types.join(" ")
        );
        functions += &format!(
            r#"(func $call{index} (call ${name} {}))
            (func $task{index} (param i32 i32) (call $call{index}))
            (func (export "canister_update kernel {index}") (call $read) (call $call{index}) (call $answer))
            (func (export "canister_query query {index}") (call $read) (call $call{index}) (call $answer))
            (func (export "canister_update forked {index}") (call $read)
                (i32.store (i32.const 48) (i32.const 64)) (i32.store (i32.const 52) (i32.const 65472))
                (call $fork (i32.const {index}) (i32.const 0) (i32.const 1) (i32.const 48) (i64.const 8000000) (i32.const -1))
                (call $answer))
            (func (export "canister_update cost {index}") (local $before i64)
                (call $read)
                (local.set $before (call $counter (i32.const 0)))
                (call $call{index})
                (i64.store (i32.const 0) (i64.sub (call $counter (i32.const 0)) (local.get $before)))
                (call $append (i32.const 0) (i32.const 8))
                (call $reply))
            "#,
            loads.join(" ")
        );
        names.push(format!("$task{index}"));
    }
    format!(
        r#"(module
        (import "ic0" "msg_reply" (func $reply))
        (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
        (import "ic0" "msg_arg_data_size" (func $size (result i32)))
        (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
        (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
        (import "lockstep" "fork" (func $fork (param i32 i32 i32 i32 i64 i32)))
        {imports}
        (memory 1)
        (table 16 funcref) (elem (i32.const 0) {})
        (func $read
            (call $copy (i32.const 0) (i32.const 0) (i32.const 28))
            (call $copy (i32.const {DATA}) (i32.const 28) (i32.sub (call $size) (i32.const 28))))
        (func $answer (call $append (i32.const 0) (i32.const {MEMORY_BYTES})) (call $reply))
        {functions})"#,
        names.join(" ")
    )
}

static CANISTER: LazyLock<Canister> = LazyLock::new(|| Canister::new(&module()));

/// Seven words and what follows them, as an argument.
fn argument(words: &[u32], data: &[u8]) -> Vec<u8> {
    let mut argument = words.to_vec();
    argument.resize(7, 0);
    let words = argument.iter().flat_map(|word| word.to_le_bytes());
    words.chain(data.iter().copied()).collect()
}

fn update(method: &str, kernel: usize) -> EntryPoint {
    EntryPoint::Update(format!("{method} {kernel}"))
}

fn reply(execution: Execution) -> Vec<u8> {
    match execution.result.expect("the message completes").0 {
        Response::Reply(bytes) => bytes,
        other => panic!("a reply, not {other:?}"),
    }
}

fn call(kernel: usize, words: &[u32], data: &[u8]) -> Vec<u8> {
    reply(CANISTER.execute(update("kernel", kernel), &argument(words, data)))
}

fn bytes(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.collect()
}

fn floats(memory: &[u8], start: u32, count: usize) -> Vec<f32> {
    let words = memory[start as usize..].as_chunks::<4>().0[..count].iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}

#[test]
fn kernels_compute_in_place() {
    let data = bytes(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let memory = call(MATMUL, &[64, 88, 1024, 2, 3, 2], &data);
    assert_eq!(floats(&memory, 1024, 5), [4.0, 5.0, 10.0, 11.0, 0.0]);
    // The same with rows of weights: a times a transposed.
    let memory = call(ROWS, &[0, 64, 64, 1024, 2, 2, 3], &data);
    assert_eq!(floats(&memory, 1024, 5), [14.0, 32.0, 32.0, 77.0, 0.0]);
    let memory = call(
        NORM,
        &[64, 64, 1024, 1, 2, 1.0_f32.to_bits()],
        &bytes(&[1.0, 1.0]),
    );
    let half = 1.0 / 2.0_f32.sqrt();
    assert_eq!(floats(&memory, 1024, 3), [half, half, 0.0]);
    let memory = call(
        SOFTMAX,
        &[64, 2, 2],
        &bytes(&[3.0, 3.0, 0.0, f32::NEG_INFINITY]),
    );
    assert_eq!(floats(&memory, 64, 4), [0.5, 0.5, 1.0, 0.0]);
    let memory = call(SILU, &[64, 72, 2], &bytes(&[0.0, 100.0, 5.0, 2.0]));
    assert_eq!(floats(&memory, 64, 4), [0.0, 200.0, 5.0, 2.0]);
    let memory = call(ADD, &[64, 72, 2], &bytes(&[0.5, 1.0, 5.0, 2.0]));
    assert_eq!(floats(&memory, 64, 4), [5.5, 3.0, 5.0, 2.0]);
    let memory = call(EXP, &[64, 2], &bytes(&[0.0, f32::NEG_INFINITY, 7.0]));
    assert_eq!(floats(&memory, 64, 3), [1.0, 0.0, 7.0]);
}

#[test]
fn kernels_may_stand_in_queries_tasks_and_start() {
    let argument = argument(&[64, 1], &bytes(&[0.0]));
    let query = CANISTER.execute(EntryPoint::Query(format!("query {EXP}")), &argument);
    assert_eq!(floats(&reply(query), 64, 1), [1.0]);
    for engine in &*ENGINES {
        let forked = CANISTER.execute_on(engine, update("forked", EXP), &argument);
        assert_eq!(floats(&reply(forked), 64, 1), [1.0]);
    }
    let canister = Canister::new(
        r#"(module
        (import "ic0" "msg_reply" (func $reply))
        (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
        (import "lockstep" "kernel_exp" (func $exp (param i32 i32)))
        (memory 1)
        (func $start (call $exp (i32.const 0) (i32.const 1)))
        (start $start)
        (func (export "canister_query get") (call $append (i32.const 0) (i32.const 4)) (call $reply)))"#,
    );
    assert_eq!(canister.query("get"), 1.0_f32.to_le_bytes());
}

#[test]
fn a_trap_in_a_task_names_it() {
    let execution = CANISTER.execute(update("forked", EXP), &argument(&[65, 1], &[]));
    let error = execution.result.unwrap_err();
    assert_eq!(
        text(&error),
        "Canister violated contract: lockstep.kernel_exp: values is not aligned to 4 bytes: 65 (task 0 of a fork)"
    );
}

#[test]
fn calls_cost_their_price() {
    let cost = |kernel, words: &[u32]| {
        let execution = CANISTER.execute(update("cost", kernel), &argument(words, &[]));
        assert_eq!(execution.time, execution.instructions);
        number(&reply(execution))
    };
    // What reading the arguments and the counter takes, told by calls that cost no more than a call.
    let beside = KERNELS.map(|(_, arguments)| 2 * arguments as i64);
    let floor = cost(EXP, &[64, 0]) - prices::KERNEL as i64 - beside[EXP];
    let price = |kernel: usize, words: &[u32]| cost(kernel, words) - floor - beside[kernel];
    let q8_0 = format_code(WeightFormat::Q8_0).unwrap().cast_unsigned();
    let frozen = [
        (MATMUL, vec![64, 64, 4096, 1, 1, 1], 2_021),
        (MATMUL, vec![64, 64, 4096, 2, 3, 17], 2_178),
        (MATMUL, vec![64, 64, 4096, 0, 0, 0], 2_000),
        (ROWS, vec![q8_0, 64, 64, 4096, 1, 16, 32], 2_624),
        (ROWS, vec![0, 64, 64, 4096, 1, 16, 32], 2_656),
        (NORM, vec![64, 64, 4096, 3, 5, 0], 2_228),
        (SOFTMAX, vec![64, 3, 5], 3_140),
        (SILU, vec![64, 4096, 3], 2_060),
        (ADD, vec![64, 4096, 3], 2_002),
        (EXP, vec![64, 3], 2_048),
    ];
    for (kernel, words, expected) in frozen {
        assert_eq!(
            price(kernel, &words),
            expected,
            "{} {words:?}",
            KERNELS[kernel].0
        );
    }
}

#[test]
fn what_cannot_be_paid_is_not_computed() {
    // All fit into memory, and none into the limit.
    let mut canister = Canister::new(&module().replace("(memory 1)", "(memory 1024)"));
    for (kernel, words) in [
        (EXP, vec![0, 1 << 20]),
        (SOFTMAX, vec![0, 1, 1 << 20]),
        (MATMUL, vec![0, 0, 1 << 25, 1 << 10, 1 << 10, 1 << 10]),
        (ROWS, vec![0, 0, 0, 1 << 25, 1 << 12, 1 << 11, 1 << 10]),
    ] {
        let execution = canister.replicated(update("kernel", kernel), &argument(&words, &[]));
        let error = execution.result.unwrap_err();
        assert_eq!(error.code, 522, "{}: {error}", KERNELS[kernel].0);
        assert_eq!(execution.instructions, LIMIT);
    }
}
