//! Calls between canisters.
use crate::support::{run, subnet};
use ic_principal::Principal;
use lockstep_driver::Subnet;
use lockstep_hostile::{Call, Step, encode};

fn sum(subnet: &mut Subnet, canister: Principal) -> Vec<u8> {
    let program = encode(&[Step::ReplySum]);
    subnet
        .query(canister, Principal::anonymous(), "read", &program)
        .unwrap()
}

#[test]
fn a_reply_comes_back_to_the_callback() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let call = Call::run(ids[1].as_slice(), &[Step::Reply(b"hello".to_vec())]);
    assert_eq!(
        run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap(),
        b"hello"
    );
}

#[test]
fn rejections_have_the_replicas_codes_and_texts() {
    let Some((mut subnet, ids)) = subnet(3) else {
        return;
    };
    let callee = ids[1];
    subnet.uninstall(ids[2]).unwrap();
    let nobody = Principal::from_text("rwlgt-iiaaa-aaaaa-aaaaa-cai").unwrap();
    let cases: [(Principal, Vec<Step>, u32, String); 7] = [
        (callee, vec![Step::Reject("no".into())], 4, "no".into()),
        (
            callee,
            vec![Step::Trap("ouch".into())],
            5,
            format!(
                "IC0503: Error from Canister {callee}: Canister called `ic0.trap` with message: 'ouch'"
            ),
        ),
        (
            callee,
            vec![Step::Unreachable],
            5,
            format!("IC0502: Error from Canister {callee}: Canister trapped: unreachable"),
        ),
        (
            callee,
            vec![Step::OutOfBounds],
            5,
            format!("IC0502: Error from Canister {callee}: Canister trapped: heap out of bounds"),
        ),
        (
            callee,
            vec![],
            5,
            format!("IC0506: Error from Canister {callee}: Canister did not produce a response"),
        ),
        (
            nobody,
            vec![],
            3,
            format!("IC0301: Canister {nobody} not found"),
        ),
        (
            ids[2],
            vec![],
            5,
            format!(
                "IC0537: Error from Canister {}: Attempted to execute a message",
                ids[2]
            ),
        ),
    ];
    for (callee, program, code, text) in cases {
        let call = Call::run(callee.as_slice(), &program);
        let reply = run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap();
        assert_eq!(reply[..4], code.to_le_bytes(), "{text}");
        let actual = String::from_utf8(reply[4..].to_vec()).unwrap();
        assert!(actual.starts_with(&text), "{actual}\nis not\n{text}");
    }
}

#[test]
fn a_callback_that_traps_is_undone_and_cleaned_up_after() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let mut call = Call::run(ids[1].as_slice(), &[Step::Reply(vec![])]);
    call.on_reply = vec![Step::Observe, Step::Trap("late".into())];
    call.on_cleanup = Some(vec![Step::Spin(3)]);
    let error = run(&mut subnet, ids[0], &[Step::Call(call.clone())]).unwrap_err();
    assert_eq!(error.error_code, 503);
    assert!(
        error.message.contains("'late'\nCanister Backtrace:"),
        "{error}"
    );
    let cleaned = sum(&mut subnet, ids[0]);
    // The same without a cleanup leaves another state: only what ran before the callback.
    call.on_cleanup = None;
    let Some((mut other, ids)) = crate::support::subnet(2) else {
        return;
    };
    run(&mut other, ids[0], &[Step::Call(call)]).unwrap_err();
    assert_ne!(cleaned, sum(&mut other, ids[0]));
}

#[test]
fn a_cleanup_that_traps_is_reported_beside_the_callback() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let mut call = Call::run(ids[1].as_slice(), &[Step::Reply(vec![])]);
    call.on_reply = vec![Step::Trap("first".into())];
    call.on_cleanup = Some(vec![Step::Trap("second".into())]);
    let error = run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap_err();
    assert_eq!(error.error_code, 503);
    assert!(error.message.contains("'first'"), "{error}");
    assert!(
        error.message.contains("call_on_cleanup also failed"),
        "{error}"
    );
    assert!(error.message.contains("'second'"), "{error}");
}

#[test]
fn a_message_that_traps_sends_nothing() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let before = sum(&mut subnet, ids[1]);
    let call = Call::run(ids[1].as_slice(), &[Step::Reply(vec![])]);
    run(&mut subnet, ids[0], &[Step::Call(call), Step::Unreachable]).unwrap_err();
    subnet.settle();
    assert_eq!(before, sum(&mut subnet, ids[1]));
    let canister = subnet.canister(ids[0]).unwrap();
    assert!(canister.ledger.contexts.is_empty() && canister.ledger.callbacks.is_empty());
}

#[test]
fn a_canister_calls_itself_and_others_call_back() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let inner = Call::run(ids[0].as_slice(), &[Step::Reply(b"inner".to_vec())]);
    let outer = Call::run(ids[1].as_slice(), &[Step::Call(inner)]);
    let own = Call::run(ids[0].as_slice(), &[Step::Call(outer)]);
    assert_eq!(
        run(&mut subnet, ids[0], &[Step::Call(own)]).unwrap(),
        b"inner"
    );
}

#[test]
fn cycles_are_sent_accepted_and_refunded() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let before = [subnet.cycles(ids[0]), subnet.cycles(ids[1])];
    let mut call = Call::run(
        ids[1].as_slice(),
        &[Step::Accept(300_000_000_000), Step::Reply(vec![])],
    );
    call.cycles = 1_000_000_000_000;
    run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap();
    let spent = before[0] - subnet.cycles(ids[0]);
    let earned = subnet.cycles(ids[1]) - before[1];
    // What it cost to execute is far below.
    let fees = 1_000_000_000;
    assert!(
        (300_000_000_000..300_000_000_000 + fees).contains(&spent),
        "{spent}"
    );
    assert!(
        (300_000_000_000 - fees..300_000_000_000).contains(&earned),
        "{earned}"
    );
}

#[test]
fn a_call_that_nobody_waits_for_any_more_is_rejected_as_unknown() {
    let Some((mut subnet, ids)) = subnet(3) else {
        return;
    };
    // The callee waits for a third canister that is stopping and answers later.
    let mut slow = Call::run(ids[2].as_slice(), &[Step::Reply(vec![])]);
    slow.timeout_seconds = Some(10);
    let mut call = Call::run(ids[1].as_slice(), &[Step::Call(slow)]);
    call.timeout_seconds = Some(1);
    let id = subnet.submit(
        ids[0],
        Principal::anonymous(),
        "run",
        &encode(&[Step::Call(call)]),
    );
    subnet.set_block_time(std::time::Duration::from_secs(2));
    let reply = subnet.wait(id).unwrap();
    // All of it happens within one block, so nothing expires.
    assert_eq!(reply, b"");
}

#[test]
fn stopping_waits_for_calls_under_way() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    subnet.manage_canister("stop_canister", ids[1]).unwrap();
    let error = run(&mut subnet, ids[1], &[]).unwrap_err();
    assert_eq!(error.error_code, 508, "{error}");
    let call = Call::run(ids[1].as_slice(), &[]);
    let reply = run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap();
    let text = String::from_utf8_lossy(&reply[4..]).into_owned();
    assert_eq!(text, format!("IC0508: Canister {} is stopped", ids[1]));
    subnet.manage_canister("start_canister", ids[1]).unwrap();
    run(&mut subnet, ids[1], &[Step::Reply(vec![])]).unwrap();
}
