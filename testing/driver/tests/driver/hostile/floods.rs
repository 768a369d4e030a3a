//! Calls without end.
use super::{Witness, outcome, silent, slow_subnet, subnet};
use crate::support::anonymous;
use ic_principal::Principal;
use lockstep_driver::{Status, Subnet};
use lockstep_hostile::{Call, Step, encode};

/// Most calls under way from one canister to another.
const CALLS_MAX: usize = 500;

fn callbacks(subnet: &Subnet, id: Principal) -> usize {
    subnet.canister(id).unwrap().ledger.callbacks.len()
}

fn stable_pages(subnet: &Subnet, id: Principal) -> u64 {
    subnet.canister(id).unwrap().state.stable_bytes() >> 16
}

#[test]
fn five_hundred_calls_are_under_way_to_a_canister_and_no_more() {
    let Some((mut subnet, ids)) = slow_subnet(3) else {
        return;
    };
    let [caller, callee, third, other] = [ids[0], ids[1], ids[2], ids[3]];
    let witness = Witness::new(&subnet, other);
    let mut call = Call::run(
        callee.as_slice(),
        &[Step::StableGrow(1), Step::Reply(vec![])],
    );
    call.on_reply = vec![Step::StableGrow(1)];
    let mut program = vec![Step::Call(call); CALLS_MAX + 1];
    program.push(Step::Reply(b"sent".to_vec()));
    assert_eq!(outcome(&mut subnet, caller, &program), Ok(b"sent".to_vec()));
    assert_eq!(callbacks(&subnet, caller), CALLS_MAX);

    let one = Call::run(callee.as_slice(), &[Step::Reply(b"one".to_vec())]);
    let refused = outcome(&mut subnet, caller, &[Step::Call(one.clone())]);
    assert_eq!(refused, Err(silent(caller)));
    assert_eq!(callbacks(&subnet, caller), CALLS_MAX);
    // Others can be called all the time.
    let elsewhere = Call::run(third.as_slice(), &[Step::Reply(b"there".to_vec())]);
    assert_eq!(
        outcome(&mut subnet, caller, &[Step::Call(elsewhere)]),
        Ok(b"there".to_vec())
    );

    while callbacks(&subnet, caller) > 0 {
        subnet.settle();
    }
    // All but the last were made and answered.
    for id in [caller, callee] {
        assert_eq!(stable_pages(&subnet, id), CALLS_MAX as u64);
    }
    assert_eq!(
        outcome(&mut subnet, caller, &[Step::Call(one)]),
        Ok(b"one".to_vec())
    );
    witness.check(&subnet);
}

/// Calls itself for ever: once it is answered, twice again.
const ENDLESS: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "canister_self_copy" (func $self (param i32 i32 i32)))
    (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
    (import "ic0" "call_perform" (func $perform (result i32)))
    (memory 1) (table 1 funcref) (elem (i32.const 0) $twice)
    (data (i32.const 0) "ping")
    (global $refused (mut i32) (i32.const 0))
    (func $call
        (call $self (i32.const 16) (i32.const 0) (i32.const 10))
        (call $new (i32.const 16) (i32.const 10) (i32.const 0) (i32.const 4)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
        (global.set $refused (i32.add (global.get $refused) (i32.ne (call $perform) (i32.const 0)))))
    (func $twice (param i32) (call $call) (call $call))
    (func (export "canister_update go") (call $call) (call $reply))
    (func (export "canister_update ping") (call $reply))
    (func (export "canister_query refused") (if (i32.eqz (global.get $refused)) (then unreachable)) (call $reply)))"#;

#[test]
fn a_canister_that_calls_itself_for_ever_keeps_nobody_waiting() {
    let Some((mut subnet, ids)) = subnet(1) else {
        return;
    };
    let [user, other] = [ids[0], ids[1]];
    let wasm = wat::parse_str(ENDLESS).unwrap();
    let endless = [(); 3].map(|()| {
        let id = subnet.create_canister();
        subnet.install(id, &wasm, b"").unwrap();
        id
    });
    let budget = subnet.state().genesis.round_instructions;
    let witness = Witness::new(&subnet, other);
    for id in endless {
        subnet.submit(id, anonymous(), "go", b"");
    }
    for round in 0..6 {
        let program = [Step::Reply(vec![round])];
        let asked = subnet.submit(user, anonymous(), "run", &encode(&program));
        let time = subnet.tick();
        // Every block answers, and ends: after the last message that begins in it.
        assert_eq!(subnet.status(asked), Some(&Status::Replied(vec![round])));
        assert!(time < budget + budget / 10, "{time}");
        for id in endless {
            assert!((1..=CALLS_MAX).contains(&callbacks(&subnet, id)));
        }
        assert!(subnet.state().queue.len() <= 3 * CALLS_MAX);
        witness.check(&subnet);
    }
    // They came to the most that they may have under way.
    for id in endless {
        subnet.query(id, anonymous(), "refused", b"").unwrap();
    }
    // They can be put an end to.
    for id in endless {
        subnet.uninstall(id).unwrap();
    }
    subnet.settle();
    for id in endless {
        assert_eq!(callbacks(&subnet, id), 0);
    }
    witness.check(&subnet);
}
