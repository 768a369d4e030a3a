//! Which import may be called where, by the interface specification's list.
use crate::support::{Canister, ENGINE, caller, text};
use lockstep_canister::engine::{
    Call, Closure, Effects, Engine, EntryPoint, Execution, Rejection, Response,
};
use lockstep_canister::heap::{Heap, PAGE_BYTES};
use lockstep_canister::memory::PagedMemory;
use lockstep_canister::query::{Query, evaluate};
use proptest::prelude::*;

/// The interface specification's list: name, parameters and result (`p` is as wide as the memory), and the
/// letters of its contexts. `*` is everything but `s`.
const IMPORTS: &str = "
msg_arg_data_size | | p | I U RQ NRQ CQ Ry CRy F
msg_arg_data_copy | p p p | | I U RQ NRQ CQ Ry CRy F
msg_caller_size | | p | *
msg_caller_copy | p p p | | *
msg_caller_info_data_size | | p | U RQ NRQ CQ Ry Rt CRy CRt C CC F
msg_caller_info_data_copy | p p p | | U RQ NRQ CQ Ry Rt CRy CRt C CC F
msg_caller_info_signer_size | | p | U RQ NRQ CQ Ry Rt CRy CRt C CC F
msg_caller_info_signer_copy | p p p | | U RQ NRQ CQ Ry Rt CRy CRt C CC F
msg_reject_code | | i32 | Ry Rt CRy CRt C
msg_reject_msg_size | | p | Rt CRt
msg_reject_msg_copy | p p p | | Rt CRt
msg_deadline | | i64 | U RQ NRQ CQ Ry Rt CRy CRt
msg_reply_data_append | p p | | U RQ NRQ CQ Ry Rt CRy CRt
msg_reply | | | U RQ NRQ CQ Ry Rt CRy CRt
msg_reject | p p | | U RQ NRQ CQ Ry Rt CRy CRt
msg_cycles_available128 | p | | U RQ Rt Ry
msg_cycles_refunded128 | p | | Rt Ry
msg_cycles_accept128 | i64 i64 p | | U RQ Rt Ry
cycles_burn128 | i64 i64 p | | I G U RQ Ry Rt C T
canister_self_size | | p | *
canister_self_copy | p p p | | *
canister_cycle_balance128 | p | | *
canister_liquid_cycle_balance128 | p | | *
canister_status | | i32 | *
canister_version | | i64 | *
subnet_self_size | | p | *
subnet_self_copy | p p p | | *
subnet_self_node_count | | i32 | *
msg_method_name_size | | p | F
msg_method_name_copy | p p p | | F
accept_message | | | F
call_new | p p p p p p p p | | U CQ Ry Rt CRy CRt T
call_on_cleanup | p p | | U CQ Ry Rt CRy CRt T
call_data_append | p p | | U CQ Ry Rt CRy CRt T
call_with_best_effort_response | i32 | | U CQ Ry Rt CRy CRt T
call_cycles_add128 | i64 i64 | | U Ry Rt T
call_perform | | i32 | U CQ Ry Rt CRy CRt T
stable64_size | | i64 | * s
stable64_grow | i64 | i64 | * s
stable64_write | i64 i64 i64 | | * s
stable64_read | i64 i64 i64 | | * s
root_key_size | | p | I G U RQ Ry Rt C T
root_key_copy | p p p | | I G U RQ Ry Rt C T
certified_data_set | p p | | I G U Ry Rt T
data_certificate_present | | i32 | *
data_certificate_size | | p | NRQ CQ
data_certificate_copy | p p p | | NRQ CQ
time | | i64 | *
global_timer_set | i64 | i64 | I G U Ry Rt C T
performance_counter | i32 | i64 | * s
is_controller | p p | i32 | * s
in_replicated_execution | | i32 | * s
cost_call | i64 i64 p | | * s
cost_create_canister | p | | * s
cost_http_request | i64 i64 p | | * s
cost_http_request_v2 | p p p | | * s
cost_sign_with_ecdsa | p p i32 p | i32 | * s
cost_sign_with_schnorr | p p i32 p | i32 | * s
cost_vetkd_derive_key | p p i32 p | i32 | * s
env_var_count | | p | *
env_var_name_size | p | p | *
env_var_name_copy | p p p p | | *
env_var_name_exists | p p | i32 | *
env_var_value_size | p p | p | *
env_var_value_copy | p p p p p | | *
debug_print | p p | | * s
trap | p p | | * s
";

/// As [`IMPORTS`], for 32-bit memories alone.
const NARROW_IMPORTS: &str = "
msg_cycles_available | | i64 | U RQ Rt Ry
msg_cycles_refunded | | i64 | Rt Ry
msg_cycles_accept | i64 | i64 | U RQ Rt Ry
canister_cycle_balance | | i64 | *
call_cycles_add | i64 | | U Ry Rt T
stable_size | | i32 | * s
stable_grow | i32 | i32 | * s
stable_write | i32 i32 i32 | | * s
stable_read | i32 i32 i32 | | * s
";

/// Those of this system, as described there.
const LOCKSTEP_IMPORTS: &str = "
model_open | i32 i32 | i64 | I U T Ry Rt RQ NRQ CQ CRy CRt
session_start | i64 i32 i32 i64 i32 | i64 | I U T Ry Rt
session_advance | i64 i32 | i32 | I U T Ry Rt
session_close | i64 | i32 | I U T Ry Rt
session_status | i64 | i32 | I U T Ry Rt RQ NRQ CQ CRy CRt
session_tokens | i64 | i32 | I U T Ry Rt RQ NRQ CQ CRy CRt
session_text_size | i64 | i32 | I U T Ry Rt RQ NRQ CQ CRy CRt
session_text_copy | i64 i32 i32 i32 | | I U T Ry Rt RQ NRQ CQ CRy CRt
session_digest_copy | i64 i32 | | I U T Ry Rt RQ NRQ CQ CRy CRt
session_error_size | i64 | i32 | I U T Ry Rt RQ NRQ CQ CRy CRt
session_error_copy | i64 i32 i32 i32 | | I U T Ry Rt RQ NRQ CQ CRy CRt
";

/// An import of the lists above.
struct Import<'a> {
    module: &'a str,
    name: &'a str,
    parameters: String,
    result: String,
    contexts: Vec<&'a str>,
}

fn imports<'a>(module: &'a str, list: &'a str, pointer: &str) -> Vec<Import<'a>> {
    let lines = list.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<_> = line.split('|').map(str::trim).collect();
            let [name, parameters, result, contexts] = fields[..] else {
                panic!("four fields: {line}")
            };
            let types = |types: &str| -> String {
                let types = types.split_whitespace();
                let types = types.map(|ty| if ty == "p" { pointer } else { ty });
                types.collect::<Vec<_>>().join(" ")
            };
            Import {
                module,
                name,
                parameters: types(parameters),
                result: types(result),
                contexts: contexts.split_whitespace().collect(),
            }
        })
        .collect()
}

/// Letter, the replica's name, and the entry point of a context.
pub(crate) fn contexts() -> Vec<(&'static str, &'static str, EntryPoint)> {
    let closure = Closure {
        function: 0,
        environment: 0,
    };
    let rejection = Rejection {
        code: 5,
        message: "no".into(),
    };
    let method = || String::from("m");
    vec![
        ("I", "init", EntryPoint::Init),
        ("I", "init", EntryPoint::PostUpgrade { keep_heap: false }),
        ("I", "init", EntryPoint::PostUpgrade { keep_heap: true }),
        ("G", "pre upgrade", EntryPoint::PreUpgrade),
        ("U", "update", EntryPoint::Update("u".into())),
        (
            "RQ",
            "replicated query",
            EntryPoint::ReplicatedQuery("q".into()),
        ),
        ("NRQ", "non replicated query", EntryPoint::Query("q".into())),
        ("CQ", "composite query", EntryPoint::Query("c".into())),
        ("Ry", "reply callback", EntryPoint::Reply(closure)),
        (
            "Rt",
            "reject callback",
            EntryPoint::Reject(closure, rejection),
        ),
        ("C", "cleanup", EntryPoint::Cleanup(closure, None)),
        ("F", "inspect message", EntryPoint::Inspect(method())),
        ("T", "heartbeat", EntryPoint::Heartbeat),
        ("T", "global timer", EntryPoint::GlobalTimer),
        ("T", "on low Wasm memory", EntryPoint::LowWasmMemory),
    ]
}

/// What a module exports to be entered in all of [`contexts`] but the callbacks.
pub(crate) const EXPORTS: [&str; 10] = [
    "canister_init",
    "canister_post_upgrade",
    "canister_pre_upgrade",
    "canister_update u",
    "canister_query q",
    "canister_composite_query c",
    "canister_inspect_message",
    "canister_global_timer",
    "canister_heartbeat",
    "canister_on_low_wasm_memory",
];

/// A module that calls an import with zeros wherever it can be entered, or in its start function alone.
fn caller_of(import: &Import<'_>, memory: &str, start: bool) -> String {
    let Import {
        module,
        name,
        parameters,
        result,
        ..
    } = import;
    let zeros: String = parameters
        .split(' ')
        .filter(|ty| !ty.is_empty())
        .map(|ty| format!("({ty}.const 0) "))
        .collect();
    let drop = if result.is_empty() { "" } else { "drop" };
    let exports = EXPORTS.map(|export| format!("(export \"{export}\")"));
    let entries = if start {
        "(start $call)".to_owned()
    } else {
        format!(
            "(table 1 funcref) (elem (i32.const 0) $callback) (func {} (call $call))",
            exports.join(" ")
        )
    };
    let pointer = if memory.contains("i64") { "i64" } else { "i32" };
    format!(
        "(module (import \"{module}\" \"{name}\" (func $it (param {parameters}) (result {result})))
            (memory {memory}) {entries} (func $callback (param {pointer}) (call $call))
            (func $call {zeros} call $it {drop}))"
    )
}

fn run(engine: &Engine, wat: &str, entry: &EntryPoint) -> Execution {
    let mut canister = Canister::before_init(wat);
    if !matches!(entry, EntryPoint::Init | EntryPoint::PostUpgrade { .. }) {
        let installed = canister.state.installed.as_mut().expect("installed");
        installed.heap = Heap::from_pages(1, [(0, [0; PAGE_BYTES])]);
    }
    let call = Call::new(entry.clone(), caller(), Vec::new());
    engine.execute(&canister.state, &call, &canister.environment())
}

/// Letter, name and how to get there: whether the called query replies, and whether the callback traps.
const COMPOSITE: [(&str, &str, (bool, bool)); 3] = [
    ("CRy", "composite reply callback", (true, false)),
    ("CRt", "composite reject callback", (false, false)),
    ("CC", "composite cleanup", (true, true)),
];

/// Runs the callback of [`caller_of`]'s module in a composite query, which calls a method of itself.
fn run_composite(wat: &str, (replies, traps): (bool, bool)) -> Execution {
    let pointer = if wat.contains("(memory i64") {
        "i64"
    } else {
        "i32"
    };
    let trap = 1;
    let callback = if traps { trap } else { 0 };
    let method = if replies { "answer" } else { "nothing" };
    let imports = format!(
        r#"(import "ic0" "call_new" (func $new (param {pointer} {pointer} {pointer} {pointer} {pointer} {pointer} {pointer} {pointer})))
           (import "ic0" "call_on_cleanup" (func $on_cleanup (param {pointer} {pointer})))
           (import "ic0" "call_perform" (func $perform (result i32)))
           (import "ic0" "canister_self_copy" (func $self (param {pointer} {pointer} {pointer})))
           (import "ic0" "msg_reply" (func $answer))"#
    );
    let number = |value: usize| format!("({pointer}.const {value})");
    let new: String = [100, 10, 200, method.len(), callback, 0, callback, 0]
        .map(number)
        .concat();
    let [hundred, zero, ten] = [100, 0, 10].map(number);
    let asks = format!(
        r#"(data {at} "{method}") (elem (i32.const 1) $trap) (func $trap (param {pointer}) unreachable)
           (func (export "canister_query answer") (call $answer))
           (func (export "canister_composite_query ask")
               (call $self {hundred} {zero} {ten}) (call $new {new}) {on_cleanup}
               (drop (call $perform)))"#,
        at = number(200),
        on_cleanup = if traps {
            format!("(call $on_cleanup {zero} {zero})")
        } else {
            String::new()
        }
    );
    let wat = wat.replacen("(module ", &format!("(module {imports} "), 1);
    let wat = wat.replacen("(table 1 funcref)", "(table 2 funcref)", 1);
    let wat = wat.strip_suffix(')').expect("it ends the module");
    let wat = format!("{wat} {asks})");
    let mut canister = Canister::before_init(&wat);
    let installed = canister.state.installed.as_mut().expect("installed");
    installed.heap = Heap::from_pages(
        1,
        [(0, {
            let mut page = [0; PAGE_BYTES];
            page[200..200 + method.len()].copy_from_slice(method.as_bytes());
            page
        })],
    );
    let mut environment = canister.environment();
    environment.instruction_limit = 5_000_000_000;
    let query = Query {
        canister: canister.state.id,
        method: "ask".into(),
        argument: Vec::new(),
        caller: caller(),
        caller_info: None,
    };
    let evaluation = evaluate(&ENGINE, &|_| Ok(&canister.state), query, &environment);
    let empty = Effects::none(Heap::default(), Vec::new(), PagedMemory::default());
    Execution {
        result: evaluation
            .result
            .map(|reply| (Response::Reply(reply), empty)),
        instructions: evaluation.instructions,
        time: evaluation.instructions,
        debug: evaluation.debug,
        hidden_backtrace: String::new(),
    }
}

/// Whether the execution ended because the import was called in this context.
fn is_forbidden(execution: Execution, import: &Import<'_>, context: &str) -> bool {
    let Err(error) = execution.result else {
        return false;
    };
    let wording = format!(
        "Canister violated contract: \"{}_{}\" cannot be executed in {context} mode",
        import.module, import.name
    );
    if context == "composite cleanup" {
        // The callback's own error comes first.
        return error.message.ends_with(&wording);
    }
    let said = error.message.contains("cannot be executed in");
    if said {
        assert_eq!((error.code, text(&error)), (504, wording.as_str()));
    }
    said
}

#[test]
fn imports_are_allowed_where_the_specification_says_and_nowhere_else() {
    let all = [
        imports("ic0", IMPORTS, "i32"),
        imports("ic0", NARROW_IMPORTS, "i32"),
        imports("lockstep", LOCKSTEP_IMPORTS, "i32"),
    ];
    for import in all.iter().flatten() {
        check_contexts(import, "1");
    }
}

#[test]
fn imports_of_64_bit_memories_are_as_wide_as_the_memory() {
    if crate::support::compile("(module (memory i64 1))").is_err() {
        println!("skipped: this engine does not take 64-bit memories");
        return;
    }
    for import in imports("ic0", IMPORTS, "i64") {
        check_contexts(&import, "i64 1");
    }
    for import in imports("ic0", NARROW_IMPORTS, "i32") {
        let refusal = crate::support::refusal(&caller_of(&import, "i64 1", true));
        assert!(
            refusal.contains("that is not exported by the runtime"),
            "{refusal}"
        );
    }
}

fn check_contexts(import: &Import<'_>, memory: &str) {
    let allowed = |letter: &str| {
        let letters = &import.contexts;
        letters.contains(&letter) || (letter != "s" && letters.contains(&"*"))
    };
    let wat = caller_of(import, memory, false);
    for (letter, name, entry) in contexts() {
        let forbidden = is_forbidden(run(&ENGINE, &wat, &entry), import, name);
        assert_eq!(forbidden, !allowed(letter), "{} in {name}", import.name);
    }
    for (letter, name, asker) in COMPOSITE {
        let forbidden = is_forbidden(run_composite(&wat, asker), import, name);
        assert_eq!(forbidden, !allowed(letter), "{} in {name}", import.name);
    }
    let start = caller_of(import, memory, true);
    let forbidden = is_forbidden(run(&ENGINE, &start, &EntryPoint::Init), import, "start");
    assert_eq!(forbidden, !allowed("s"), "{} in start", import.name);
}

/// Numbers around what imports check.
fn numbers() -> impl Strategy<Value = i64> {
    prop_oneof![
        Just(0),
        Just(-1),
        Just(i64::MIN),
        Just(i64::MAX),
        Just(i64::from(u32::MAX)),
        0_i64..40,
        65_500_i64..65_600,
        any::<i64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever they are called with, imports end in a result or an error, and in the same one twice.
    #[test]
    fn imports_take_any_numbers(index in any::<prop::sample::Index>(), values in prop::collection::vec(numbers(), 16), entry in any::<prop::sample::Index>()) {
        let all = [imports("ic0", IMPORTS, "i32"), imports("ic0", NARROW_IMPORTS, "i32"), imports("lockstep", LOCKSTEP_IMPORTS, "i32")];
        let all: Vec<_> = all.iter().flatten().collect();
        let import = index.get(&all);
        let mut values = values.iter();
        let mut arguments = || -> String {
            let types = import.parameters.split(' ').filter(|ty| !ty.is_empty());
            types
                .zip(values.by_ref())
                .map(|(ty, value)| if ty == "i32" { format!("(i32.const {}) ", *value as i32) } else { format!("(i64.const {value}) ") })
                .collect()
        };
        let (first, second) = (arguments(), arguments());
        let drop = if import.result.is_empty() { "" } else { "drop" };
        let wat = caller_of(import, "1", false);
        // A call under construction, then the import twice.
        let body = wat.rfind("(func $call ").expect("it ends with it");
        let wat = format!(
            "(module (import \"ic0\" \"call_new\" (func $begin (param i32 i32 i32 i32 i32 i32 i32 i32))) {} (func $call (if (global.get $calls) (then {zeros} call $begin)) {first} call $it {drop} {second} call $it {drop}))",
            wat[..body].strip_prefix("(module").expect("a module"),
            zeros = "i32.const 0 ".repeat(8),
        );
        let contexts = contexts();
        let (_, name, entry) = entry.get(&contexts);
        let calls = ["update", "reply callback", "reject callback", "heartbeat"].contains(name);
        let wat = wat.replacen("(table", &format!("(global $calls i32 (i32.const {})) (table", i32::from(calls)), 1);
        let outcome = |execution: Execution| {
            let result = execution.result.map(|(response, effects)| (response, effects.calls, effects.cycles_spent));
            (result, execution.instructions, execution.debug)
        };
        prop_assert_eq!(outcome(run(&ENGINE, &wat, entry)), outcome(run(&ENGINE, &wat, entry)));
    }
}
