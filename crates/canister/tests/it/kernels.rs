//! Kernels on a canister's memory: where they may be called, what they cost, what they refuse.
use crate::support::{Canister, ENGINE, LIMIT, number, text};
use lockstep_canister::{
    engine::{Engine, EntryPoint, Execution, Response},
    kernels::{format_code, prices},
};
use lockstep_numeric::{Isa, WeightFormat};
use proptest::prelude::*;
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

fn refusal(kernel: usize, words: &[u32]) -> (u16, String) {
    refusal_with(kernel, words, &[])
}

fn refusal_with(kernel: usize, words: &[u32], data: &[u8]) -> (u16, String) {
    let execution = CANISTER.execute(update("kernel", kernel), &argument(words, data));
    let error = execution.result.expect_err("the message must not complete");
    (error.code, text(&error).to_owned())
}

fn violated(kernel: usize, reason: &str) -> (u16, String) {
    let name = KERNELS[kernel].0;
    let text = format!("Canister violated contract: lockstep.{name}: {reason}");
    (504, text)
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
        (NORM, vec![64, 64, 4096, 3, 5, 0], 2_015),
        (SOFTMAX, vec![64, 3, 5], 2_300),
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

#[test]
fn ranges_end_where_memory_does() {
    let end = MEMORY_BYTES;
    // Each range once as far as it goes, and once a float (or a byte) further.
    let good: [(usize, Vec<u32>); 16] = [
        (MATMUL, vec![end - 24, 64, 1024, 2, 3, 2]),
        (MATMUL, vec![64, end - 24, 1024, 2, 3, 2]),
        (MATMUL, vec![64, 1024, end - 16, 2, 3, 2]),
        (ROWS, vec![8, end - 34, 64, 1024, 1, 1, 32]),
        (ROWS, vec![8, 64, end - 128, 1024, 1, 1, 32]),
        (ROWS, vec![8, 64, 1024, end - 4, 1, 1, 32]),
        (NORM, vec![end - 24, 64, 1024, 2, 3, 0]),
        (NORM, vec![64, end - 12, 1024, 2, 3, 0]),
        (NORM, vec![64, 1024, end - 24, 2, 3, 0]),
        (SOFTMAX, vec![end - 24, 2, 3]),
        (SILU, vec![end - 12, 64, 3]),
        (SILU, vec![64, end - 12, 3]),
        (ADD, vec![end - 12, 64, 3]),
        (ADD, vec![64, end - 12, 3]),
        (EXP, vec![end - 12, 3]),
        (EXP, vec![end, 0]),
    ];
    for (kernel, words) in good {
        call(kernel, &words, &[]);
        let place = words.iter().position(|word| *word > 32_768).unwrap();
        let step = if kernel == ROWS && place == 1 { 1 } else { 4 };
        let mut beyond = words.clone();
        beyond[place] += step;
        let (code, text) = refusal(kernel, &beyond);
        assert_eq!(code, 504, "{kernel} {words:?}: {text}");
        assert!(text.contains("lies outside of the heap: start="), "{text}");
        assert!(text.ends_with("exceeds 65536"), "{text}");
    }
}

#[test]
fn hostile_arguments_are_named() {
    let most = u32::MAX;
    for (kernel, words, reason) in [
        (
            MATMUL,
            vec![66, 64, 1024, 1, 1, 1],
            "a is not aligned to 4 bytes: 66",
        ),
        (
            MATMUL,
            vec![64, 65, 1024, 1, 1, 1],
            "b is not aligned to 4 bytes: 65",
        ),
        (
            MATMUL,
            vec![64, 64, 1027, 1, 1, 1],
            "out is not aligned to 4 bytes: 1027",
        ),
        (MATMUL, vec![64, 64, 64, 1, 1, 1], "out overlaps a"),
        (MATMUL, vec![0, 64, 72, 1, 3, 3], "out overlaps b"),
        (
            MATMUL,
            vec![0, 0, 0, most, most, most],
            "a is too large: 18446744065119617025 floats",
        ),
        (
            MATMUL,
            vec![0, 0, 0, 1 << 31, 1 << 30, 1],
            "a lies outside of the heap: start=0 + bytes=9223372036854775808 exceeds 65536",
        ),
        (
            MATMUL,
            vec![0, 0, 0, 0, (1 << 20) + 1, 0],
            "k is more than 1048576: 1048577",
        ),
        (ROWS, vec![4, 0, 0, 0, 0, 0, 0], "unknown format: 4"),
        (ROWS, vec![most, 0, 0, 0, 0, 0, 0], "unknown format: -1"),
        (
            ROWS,
            vec![8, 0, 0, 0, 0, 0, 33],
            "columns are not a multiple of the block length 32 of Q8_0: 33",
        ),
        (
            ROWS,
            vec![8, 0, 0, 0, 0, 0, most],
            "more columns than 1048576: 4294967295",
        ),
        (
            ROWS,
            vec![8, 0, 0, 0, 0, most, 32],
            "weights lies outside of the heap: start=0 + bytes=146028888030 exceeds 65536",
        ),
        (
            ROWS,
            vec![8, 1000, 64, 1032, 1, 1, 32],
            "out overlaps weights",
        ),
        (ROWS, vec![8, 1000, 64, 188, 1, 1, 32], "out overlaps input"),
        (NORM, vec![64, 1024, 64, 1, 2, 0], "out overlaps input"),
        (NORM, vec![64, 1024, 1028, 1, 2, 0], "out overlaps weight"),
        (
            NORM,
            vec![64, 64, 64, 0, most, 0],
            "weight lies outside of the heap: start=64 + bytes=17179869180 exceeds 65536",
        ),
        (
            SOFTMAX,
            vec![64, most, most],
            "values is too large: 18446744065119617025 floats",
        ),
        (SILU, vec![64, 72, 3], "gate overlaps up"),
        (ADD, vec![72, 64, 3], "accumulator overlaps addend"),
        (ADD, vec![64, 66, 3], "addend is not aligned to 4 bytes: 66"),
        (
            EXP,
            vec![64, most],
            "values lies outside of the heap: start=64 + bytes=17179869180 exceeds 65536",
        ),
    ] {
        assert_eq!(
            refusal(kernel, &words),
            violated(kernel, reason),
            "{words:?}"
        );
    }
    let int8 = format_code(WeightFormat::Int8).unwrap().cast_unsigned();
    let row = [&[0; 4][..], &(-129_i32).to_le_bytes(), &[0; 32]].concat();
    assert_eq!(
        refusal_with(ROWS, &[int8, 64, 1024, 4096, 1, 1, 32], &row),
        violated(
            ROWS,
            "zero-point of row 0 is not between -128 and 127: -129"
        )
    );
}

#[test]
fn empty_ranges_overlap_nothing_and_huge_counts_of_nothing_end_at_once() {
    call(MATMUL, &[64, 64, 64, 0, 5, 0], &[]);
    call(MATMUL, &[64, 64, 64, u32::MAX, 0, 0], &[]);
    call(SOFTMAX, &[64, u32::MAX, 0], &[]);
    call(NORM, &[64, 64, 64, u32::MAX, 0, 0], &[]);
    call(ROWS, &[0, 64, 64, 64, u32::MAX, 0, 0], &[]);
    // Inputs may be one; an empty one may lie inside the output.
    call(MATMUL, &[64, 64, 1024, 3, 3, 3], &[]);
    let memory = call(MATMUL, &[68, 68, 64, 3, 0, 3], &[1; 36]);
    assert_eq!(floats(&memory, 64, 9), [0.0; 9]);
}

/// Words that are likely to be good, and sometimes any.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0_u32..40,
        3 => (0_u32..1024).prop_map(|word| word * 64),
        1 => (0_u32..64).prop_map(|step| MEMORY_BYTES - 32 + step),
        1 => any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_arguments_end_the_same_way_on_all_engines(
        kernel in 0..KERNELS.len(),
        words in proptest::collection::vec(word(), 7),
        format in 0..WeightFormat::ALL.len(),
        data in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut words = words;
        if kernel == ROWS && words[0] % 4 > 0 {
            words[0] = format_code(WeightFormat::ALL[format]).unwrap().cast_unsigned();
            words[6] = words[6] / 32 * 32;
        }
        let argument = argument(&words, &data);
        let mut outcomes = Vec::new();
        for engine in &*ENGINES {
            let execution = CANISTER.execute_on(engine, update("kernel", kernel), &argument);
            let result = execution.result.map(|(response, _)| response);
            if let Err(error) = &result {
                prop_assert!([504, 522].contains(&error.code), "{error}");
            }
            outcomes.push((result, execution.instructions, execution.time));
        }
        for outcome in &outcomes[1..] {
            prop_assert_eq!(outcome, &outcomes[0]);
        }
    }
}
