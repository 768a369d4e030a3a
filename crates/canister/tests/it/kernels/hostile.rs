//! What kernels refuse, and any arguments at all.
use super::{
    ADD, CANISTER, ENGINES, EXP, KERNELS, MATMUL, MEMORY_BYTES, NORM, ROWS, SILU, SOFTMAX,
    argument, call, floats, update,
};
use crate::support::text;
use lockstep_canister::kernels::format_code;
use lockstep_numeric::WeightFormat;
use proptest::prelude::*;

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
