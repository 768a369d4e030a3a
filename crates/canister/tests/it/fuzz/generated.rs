//! Valid modules.
use super::{Random, Seed, Tally};
use arbitrary::{Arbitrary, Unstructured};
use wasm_smith::{Config, Module};

/// Modules of the ordinary test.
const MODULES: u64 = 300;
/// Modules of the long one.
const MANY_MODULES: u64 = 50_000;

/// What may be imported whatever the width of the memory, and called nearly everywhere.
const PLAIN_IMPORTS: &str = r#"
    (import "ic0" "stable64_grow" (func (param i64) (result i64)))
    (import "ic0" "stable64_size" (func (result i64)))
    (import "ic0" "stable64_write" (func (param i64 i64 i64)))
    (import "ic0" "stable64_read" (func (param i64 i64 i64)))
    (import "ic0" "performance_counter" (func (param i32) (result i64)))
    (import "ic0" "time" (func (result i64)))
    (import "ic0" "canister_version" (func (result i64)))
    (import "ic0" "in_replicated_execution" (func (result i32)))"#;

/// What takes addresses of 32 bits, or may be called in few contexts.
const OTHER_IMPORTS: &str = r#"
    (import "ic0" "msg_reply" (func))
    (import "ic0" "msg_reject" (func (param i32 i32)))
    (import "ic0" "msg_reply_data_append" (func (param i32 i32)))
    (import "ic0" "msg_arg_data_copy" (func (param i32 i32 i32)))
    (import "ic0" "msg_caller_copy" (func (param i32 i32 i32)))
    (import "ic0" "call_new" (func (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_data_append" (func (param i32 i32)))
    (import "ic0" "call_perform" (func (result i32)))
    (import "ic0" "cycles_burn128" (func (param i64 i64 i32)))
    (import "ic0" "certified_data_set" (func (param i32 i32)))
    (import "ic0" "global_timer_set" (func (param i64) (result i64)))
    (import "ic0" "debug_print" (func (param i32 i32)))
    (import "ic0" "accept_message" (func))
    (import "lockstep" "fork" (func (param i32 i32 i32 i32 i64 i32)))
    (import "lockstep" "session_start" (func (param i64 i32 i32 i64 i32) (result i64)))"#;

/// Where a canister may be entered.
const EXPORTS: &str = r#"(module
    (func (export "canister_init")) (func (export "canister_pre_upgrade")) (func (export "canister_post_upgrade"))
    (func (export "canister_update u")) (func (export "canister_query q")) (func (export "canister_composite_query c"))
    (func (export "canister_heartbeat")) (func (export "canister_global_timer"))
    (func (export "canister_inspect_message")) (func (export "canister_on_low_wasm_memory")))"#;

fn text(wat: &str) -> Option<Vec<u8>> {
    Some(wat::parse_str(wat).expect("the text is a module"))
}

fn imports(random: &mut Random, wide: bool) -> Option<Vec<u8>> {
    text(&match random.below(4) {
        0 => "(module)".to_owned(),
        1 if !wide => format!("(module {PLAIN_IMPORTS} {OTHER_IMPORTS})"),
        _ => format!("(module {PLAIN_IMPORTS})"),
    })
}

/// Modules of any proposals, imports and exports.
fn anything(random: &mut Random, data: &mut Unstructured<'_>) -> Config {
    let mut config = Config::arbitrary(data).expect("there is enough data");
    config.wide_arithmetic_enabled = random.below(8) == 0;
    config.custom_page_sizes_enabled = random.below(8) == 0;
    config.generate_custom_sections = random.below(2) == 0;
    config.max_memories = random.below(3);
    config
}

/// Modules of the proposals that are allowed, whose exports are those of a canister; some with one proposal that is
/// not.
fn canister(random: &mut Random, data: &mut Unstructured<'_>) -> Config {
    let wide = random.below(4) == 0;
    let forbidden = random.below(16);
    let chosen = Config::arbitrary(data).expect("there is enough data");
    Config {
        available_imports: imports(random, wide),
        exports: text(EXPORTS),
        allow_floats: true,
        bulk_memory_enabled: true,
        // With them nearly every module has references to what is outside, which are refused.
        reference_types_enabled: random.below(4) == 0,
        memory64_enabled: wide,
        min_memories: 1,
        max_memories: 1,
        min_tables: 1,
        max_tables: 3,
        min_types: 5,
        min_funcs: 4,
        max_funcs: 15,
        max_types: 30,
        max_imports: 20,
        max_globals: 20,
        // Mostly small, so that growth and bounds are met.
        max_memory32_bytes: [1 << 18, 1 << 20, 1 << 32][random.below(3)],
        max_memory64_bytes: [1 << 18, 1 << 33][random.below(2)],
        max_table_elements: 100,
        max_instructions: 20 + random.below(300),
        generate_custom_sections: random.below(4) == 0,
        disallow_traps: random.below(2) == 0,
        gc_enabled: forbidden == 0,
        exceptions_enabled: forbidden == 1,
        relaxed_simd_enabled: forbidden == 2,
        threads_enabled: forbidden == 3,
        extended_const_enabled: forbidden == 4,
        wide_arithmetic_enabled: forbidden == 5,
        ..chosen
    }
}

/// A kind of configurations.
type Shape = fn(&mut Random, &mut Unstructured<'_>) -> Config;

fn run(seeds: std::ops::Range<u64>, shape: Shape) -> Tally {
    let mut tally = Tally::default();
    for seed in seeds {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let size = 2_000 + random.below(30_000);
        let bytes = random.bytes(size);
        let mut data = Unstructured::new(&bytes);
        let config = shape(&mut random, &mut data);
        match Module::new(config, &mut data) {
            Ok(module) => tally.try_module(&module.to_bytes()),
            Err(_) => tally.add("not made"),
        }
    }
    tally
}

#[test]
fn modules_of_any_proposal_compile_or_are_refused() {
    let tally = run(0..MODULES, anything);
    tally.assert_varied(&[("refused", 150), ("compiled", 50), ("completed", 400)]);
}

#[test]
fn canisters_do_the_same_twice() {
    let tally = run(0..MODULES, canister);
    let ends = [
        ("IC0502", 80),
        ("IC0504", 80),
        ("IC0506", 80),
        ("IC0522", 80),
    ];
    tally.assert_varied(&ends);
    tally.assert_varied(&[("refused", 80), ("compiled", 150), ("completed", 800)]);
}

#[test]
#[ignore = "it takes an hour"]
fn many_modules() {
    for shape in [anything, canister] as [Shape; 2] {
        println!("{:?}", run(MODULES..MANY_MODULES, shape).0);
    }
}
