//! What messages are charged, and how recursion ends.
use crate::{
    charges::PERFORMANCE_COUNTER,
    support::{Canister, LIMIT, module, number, text},
};
use lockstep_canister::engine::{EntryPoint, HEAP_LEAF_CHANGED};

/// Instructions of a heartbeat with this body. A call of a function costs 1 besides its body.
fn cost(body: &str) -> u64 {
    let canister = Canister::new(&format!(
        r#"(module (memory 1 3) (table $table 8 funcref) (global $g (mut i32) (i32.const 0)) (data $passive "abcdefgh")
            (func $leaf (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
            (func (export "canister_heartbeat") (local i32) {body}))"#
    ));
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    execution.result.expect("completes");
    execution.instructions
}

#[test]
fn straight_code_costs_its_weights() {
    assert_eq!(cost(""), 1);
    assert_eq!(cost("nop (block) (drop (i32.const 1))"), 1 + 2);
    assert_eq!(cost("(drop (i32.add (i32.const 1) (i32.const 2)))"), 1 + 4);
    assert_eq!(
        cost("(drop (i32.div_u (i32.const 1) (i32.const 2)))"),
        1 + 13
    );
    assert_eq!(cost("(global.set $g (global.get $g))"), 1 + 4);
    assert_eq!(cost("(drop (f32.mul (f32.const 1) (f32.const 2)))"), 1 + 5);
    assert_eq!(cost("(drop (f64.div (f64.const 1) (f64.const 2)))"), 1 + 8);
    assert_eq!(cost("(drop (f32.min (f32.const 1) (f32.const 2)))"), 1 + 21);
    assert_eq!(cost("(drop (i32.trunc_f32_s (f32.const 1)))"), 1 + 22);
    assert_eq!(cost("(drop (memory.size))"), 1 + 21);
    assert_eq!(cost("(drop (memory.grow (i32.const 1)))"), 1 + 302);
    assert_eq!(
        cost("(drop (i64x2.mul (v128.const i64x2 1 2) (v128.const i64x2 3 4)))"),
        1 + 7
    );
    assert_eq!(
        cost("(drop (i32x4.dot_i16x8_s (v128.const i64x2 1 2) (v128.const i64x2 3 4)))"),
        1 + 4
    );
}

#[test]
fn only_what_runs_is_charged() {
    // if 2, condition 1; the branch taken 2.
    assert_eq!(
        cost(
            "(if (i32.const 1) (then (drop (i32.const 1))) (else (drop (i32.div_u (i32.const 1) (i32.const 1)))))"
        ),
        1 + 5
    );
    assert_eq!(
        cost(
            "(if (i32.const 0) (then (drop (i32.const 1))) (else (drop (i32.div_u (i32.const 1) (i32.const 1)))))"
        ),
        1 + 3 + 13
    );
    // br 2; what follows it in the block is dead, what follows the block is not.
    assert_eq!(
        cost("(block (br 0) (drop (memory.size))) (drop (i32.const 1))"),
        1 + 2 + 2
    );
    assert_eq!(cost("return (drop (memory.size))"), 1 + 1);
    // Ten rounds of: get, const, add, tee, const, lt (6) and br_if (2).
    let round =
        "(br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const 10)))";
    assert_eq!(cost(&format!("(loop {round})")), 1 + 10 * 8);
    // A call: argument 1, call 5, drop 1; the callee 1 + 3.
    assert_eq!(cost("(drop (call $leaf (i32.const 1)))"), 1 + 7 + 4);
}

#[test]
fn bulk_operations_cost_their_size() {
    assert_eq!(
        cost("(memory.fill (i32.const 0) (i32.const 1) (i32.const 5000))"),
        1 + 3 + 100 + 5_000 + 2 * HEAP_LEAF_CHANGED
    );
    assert_eq!(
        cost("(memory.copy (i32.const 0) (i32.const 100) (i32.const 77))"),
        1 + 3 + 100 + 77
    );
    assert_eq!(
        cost("(memory.init $passive (i32.const 0) (i32.const 0) (i32.const 8))"),
        1 + 3 + 100 + 8 + HEAP_LEAF_CHANGED
    );
    assert_eq!(
        cost("(drop (table.grow $table (ref.null func) (i32.const 9)))"),
        1 + 3 + 100 + 9
    );
    assert_eq!(
        cost("(table.fill $table (i32.const 0) (ref.null func) (i32.const 3))"),
        1 + 3 + 100 + 3
    );
}

#[test]
fn performance_counter_counts_this_message() {
    let mut canister = Canister::new(&module(
        r#"(func (export "canister_update twice") (local i64)
              (local.set 0 (call $performance (i32.const 0)))
              (call $answer (i64.sub (call $performance (i32.const 0)) (local.get 0))))
           (func (export "canister_update bad") (drop (call $performance (i32.const 2))))"#,
    ));
    // Straight code is paid for when it starts: between the two readings lies one system call.
    assert_eq!(number(&canister.update("twice", b"")), PERFORMANCE_COUNTER);
    assert_eq!(number(&canister.update("twice", b"")), PERFORMANCE_COUNTER);
    let error = canister.failure("bad");
    assert_eq!(
        text(&error),
        "Canister violated contract: Error getting performance counter type 2"
    );
}

#[test]
fn a_message_that_traps_is_charged_what_it_used() {
    let canister = Canister::new(
        r#"(module (func (export "canister_heartbeat") (drop (i32.const 1)) unreachable))"#,
    );
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert_eq!(execution.result.expect_err("traps").code, 502);
    assert_eq!(execution.instructions, 1 + 3);
}

#[test]
fn the_limit_is_exact_and_never_exceeded() {
    let mut canister =
        Canister::new(r#"(module (func (export "canister_heartbeat") (drop (i32.const 1))))"#);
    canister.limit = 3;
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert!(execution.result.is_ok());
    assert_eq!(execution.instructions, 3);
    canister.limit = 2;
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    let error = execution.result.expect_err("one too few");
    assert_eq!((error.code, execution.instructions), (522, 2));
}

#[test]
fn code_after_the_last_check_is_charged_too() {
    let mut canister = Canister::new(
        r#"(module (func (export "canister_heartbeat") (if (i32.const 1) (then (drop (memory.grow (i32.const 0)))))) (memory 1))"#,
    );
    canister.limit = 100;
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert_eq!(
        (
            execution.result.expect_err("302 instructions").code,
            execution.instructions
        ),
        (522, 100)
    );
}

#[test]
fn recursion_ends_at_a_depth_of_the_code_alone() {
    let depth = |body: &str| {
        let mut canister = Canister::new(&module(&format!(
            r#"(import "ic0" "debug_print" (func $print (param i32 i32)))
               (func $deep (param i32) {body} (call $deep (local.get 0)))
               (func (export "canister_update go") (call $deep (i32.const 0)))"#
        )));
        canister.limit = 1_000_000_000;
        let execution = canister.execute(EntryPoint::Update("go".into()), b"");
        let error = execution.result.expect_err("no end");
        assert!(text(&error).starts_with("Canister trapped: stack overflow\n"));
        execution.instructions
    };
    // 4 MiB of units: the entry has one operand (144 units), each frame one local and one operand
    // (160 units). Every frame costs 1 for the call of it and 6 for its body.
    let frames = |units: u64| (4 * 1024 * 1024 - 144) / units + 1;
    assert_eq!(depth(""), 1 + 6 + frames(160) * 7);
    assert_eq!(depth("(local i64 i64)"), 1 + 6 + frames(192) * 7);
}

#[test]
fn tail_calls_need_no_stack() {
    let mut canister = Canister::new(&module(
        r#"(func $down (param i64) (result i64)
              (if (i64.eqz (local.get 0)) (then (return (i64.const 42))))
              (return_call $down (i64.sub (local.get 0) (i64.const 1))))
           (func (export "canister_update go") (call $answer (call $down (i64.const 500000))))"#,
    ));
    assert_eq!(number(&canister.update("go", b"")), 42);
}

#[test]
fn instructions_do_not_depend_on_what_ran_before() {
    let wat = module(
        r#"(func (export "canister_update go") (drop (memory.grow (i32.const 1))) (call $answer (i64.const 1)))"#,
    );
    let mut canister = Canister::new(&wat);
    let mut go = || canister.replicated(EntryPoint::Update("go".into()), b"");
    let first = go();
    assert!(first.instructions < LIMIT);
    // The answer lies in memory already.
    let second = go();
    assert_eq!(second.instructions, first.instructions - HEAP_LEAF_CHANGED);
    assert_eq!(go().instructions, second.instructions);
}

/// A leaf is charged if it differs at the end, once, by messages whose changes stay.
#[test]
fn changed_leaves_of_the_heap_are_charged() {
    let wat = r#"(module
        (import "ic0" "msg_reply" (func $reply))
        (memory 1 3) (data (i32.const 0) "a")
        (func $store (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
        (func (export "canister_update same") (call $store (i32.const 0) (i32.const 97)))
        (func (export "canister_update back")
            (call $store (i32.const 0) (i32.const 98)) (call $store (i32.const 0) (i32.const 97)))
        (func (export "canister_update edge") (i64.store (i32.const 4092) (i64.const -1)))
        (func (export "canister_update grown")
            (drop (memory.grow (i32.const 2)))
            (call $store (i32.const 65536) (i32.const 0)) (call $store (i32.const 131072) (i32.const 1)))
        (func (export "canister_update traps") (call $store (i32.const 0) (i32.const 98)) unreachable)
        (func (export "canister_query ask") (call $store (i32.const 0) (i32.const 98)) (call $reply)))"#;
    let canister = Canister::new(wat);
    let instructions = |entry: EntryPoint| canister.execute(entry, b"").instructions;
    let update = |name: &str| instructions(EntryPoint::Update(name.into()));
    // A call of a function costs 7, and 1 + 3 its body; 1 is the entry's.
    assert_eq!(update("same"), 1 + 7 + 4);
    assert_eq!(update("back"), 1 + 2 * (7 + 4));
    assert_eq!(update("edge"), 1 + 3 + 2 * HEAP_LEAF_CHANGED);
    assert_eq!(update("grown"), 1 + 302 + 2 * (7 + 4) + HEAP_LEAF_CHANGED);
    assert_eq!(update("traps"), 1 + 7 + 4 + 1);
    let ask = EntryPoint::Query("ask".into());
    assert!(instructions(ask.clone()) < HEAP_LEAF_CHANGED);
    assert!(instructions(EntryPoint::ReplicatedQuery("ask".into())) < HEAP_LEAF_CHANGED);
}

#[test]
fn a_message_that_cannot_pay_for_its_changes_fails() {
    let mut canister = Canister::new(
        r#"(module (memory 1)
            (func (export "canister_heartbeat") (i64.store (i32.const 4092) (i64.const -1))))"#,
    );
    let cost = 1 + 3 + 2 * HEAP_LEAF_CHANGED;
    canister.limit = cost;
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert_eq!(execution.instructions, cost);
    execution.result.expect("paid");
    canister.limit = cost - 1;
    let execution = canister.execute(EntryPoint::Heartbeat, b"");
    assert_eq!(execution.instructions, cost - 1);
    let error = execution.result.expect_err("not paid");
    assert_eq!(error.code, 522);
    assert!(error.message.ends_with(
        "Canister exceeded the limit of 2003 instructions for single message execution."
    ));
}

/// What registers held when code traps in the middle is lost, and is charged by the chunk.
#[test]
fn a_trap_in_the_middle_of_code_is_charged_by_the_chunk() {
    const CHUNK: u64 = 65_536;
    let mut canister = Canister::new(
        r#"(module (memory 1) (global $rounds (mut i32) (i32.const 30000))
            (func $far (result i32) (i32.load (i32.const -8)))
            (func (export "canister_heartbeat") (drop (i32.load (i32.const -8))))
            (func (export "canister_update far") (drop (call $far)))
            (func (export "canister_update long") (local $i i32)
                (local.set $i (global.get $rounds))
                (loop $next
                    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
                    (br_if $next (local.get $i)))
                (drop (i32.div_u (i32.const 1) (local.get $i)))))"#,
    );
    let charged = |canister: &Canister, entry| {
        let execution = canister.execute(entry, b"");
        (
            execution.result.expect_err("traps").code,
            execution.instructions,
        )
    };
    let update = |name: &str| EntryPoint::Update(name.into());
    assert_eq!(charged(&canister, EntryPoint::Heartbeat), (502, CHUNK));
    assert_eq!(charged(&canister, update("far")), (502, CHUNK));
    // 30,000 rounds of 7 instructions.
    assert_eq!(charged(&canister, update("long")), (502, 4 * CHUNK));
    canister.limit = 1_000;
    assert_eq!(charged(&canister, EntryPoint::Heartbeat), (502, 1_000));
    assert_eq!(charged(&canister, update("long")), (522, 1_000));
}
