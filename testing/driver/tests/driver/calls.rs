//! Calls between canisters.
use crate::support::{anonymous, run, slow_subnet, subnet};
use candid::Nat;
use ic_management_canister_types::{CanisterSettings, LogVisibility};
use ic_principal::Principal;
use lockstep_canister::state::RunState;
use lockstep_driver::{MessageId, Status, Subnet};
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
    // Without a cleanup only what ran before the callback is left, whatever the callback did.
    call.on_cleanup = None;
    let left = |call: Call| {
        let (mut subnet, ids) = crate::support::subnet(2).expect("there was one");
        run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap_err();
        sum(&mut subnet, ids[0])
    };
    let uncleaned = left(call.clone());
    assert_ne!(cleaned, uncleaned);
    call.on_reply = vec![Step::Trap("late".into())];
    assert_eq!(left(call), uncleaned);
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
    let Some((mut subnet, ids)) = slow_subnet(2) else {
        return;
    };
    let untouched = sum(&mut subnet, ids[1]);
    let mut call = Call::run(ids[1].as_slice(), &[Step::Accept(1 << 40)]);
    call.timeout_seconds = Some(1);
    call.cycles = 1 << 40;
    let before = subnet.cycles(ids[0]);
    let reply = run(&mut subnet, ids[0], &[Step::Call(call)]).unwrap();
    assert_eq!(reply[..4], 6_u32.to_le_bytes());
    assert_eq!(reply[4..], *b"IC0601: Call deadline has expired.");
    // The request was not executed, and its cycles came back.
    subnet.settle();
    assert_eq!(sum(&mut subnet, ids[1]), untouched);
    let fees = 1_000_000_000;
    assert!(before - subnet.cycles(ids[0]) < fees);
}

#[test]
fn an_answer_stands_while_callbacks_still_run() {
    let Some((mut subnet, ids)) = slow_subnet(2) else {
        return;
    };
    let mut call = Call::run(ids[1].as_slice(), &[Step::Reply(vec![])]);
    call.on_reply = vec![Step::Observe];
    let program = [
        Step::Call(call.clone()),
        Step::Call(call),
        Step::Reply(b"early".to_vec()),
    ];
    let id = subnet.submit(ids[0], Principal::anonymous(), "run", &encode(&program));
    assert_eq!(subnet.wait(id).unwrap(), b"early");
    assert_eq!(context_count(&subnet, ids[0]), 1);
    while context_count(&subnet, ids[0]) > 0 {
        subnet.tick();
        assert_eq!(subnet.wait(id).unwrap(), b"early");
    }
}

fn context_count(subnet: &Subnet, id: Principal) -> usize {
    subnet.canister(id).unwrap().ledger.contexts.len()
}

#[test]
fn stopping_waits_for_calls_under_way() {
    let Some((mut subnet, ids)) = slow_subnet(2) else {
        return;
    };
    let call = Call::run(ids[1].as_slice(), &[Step::Reply(b"done".to_vec())]);
    let program = encode(&[Step::Call(call)]);
    let anonymous = Principal::anonymous();
    let under_way = subnet.submit(ids[0], anonymous, "run", &program);
    subnet.tick();
    assert_eq!(context_count(&subnet, ids[0]), 1);
    let stop = subnet.submit_management("stop_canister", ids[0]);
    subnet.tick();
    let run_state = |subnet: &Subnet| subnet.canister(ids[0]).unwrap().state.run_state;
    assert_eq!(run_state(&subnet), RunState::Stopping);
    assert_eq!(subnet.status(stop), Some(&Status::Processing));
    assert_eq!(subnet.wait(under_way).unwrap(), b"done");
    subnet.wait(stop).unwrap();
    assert_eq!(run_state(&subnet), RunState::Stopped);
    let error = run(&mut subnet, ids[0], &[]).unwrap_err();
    assert_eq!(error.error_code, 508, "{error}");
    let call = Call::run(ids[0].as_slice(), &[]);
    let reply = run(&mut subnet, ids[1], &[Step::Call(call)]).unwrap();
    let text = String::from_utf8_lossy(&reply[4..]).into_owned();
    assert_eq!(text, format!("IC0508: Canister {} is stopped", ids[0]));
    subnet.manage_canister("start_canister", ids[0]).unwrap();
    run(&mut subnet, ids[0], &[Step::Reply(vec![])]).unwrap();
}

#[test]
fn calls_with_too_few_cycles_are_refused_but_for_those_to_oneself() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let settings = CanisterSettings {
        minimum_incoming_canister_call_cycles: Some(Nat::from(1_000_u32)),
        ..CanisterSettings::default()
    };
    subnet.update_settings(ids[1], settings).unwrap();
    let mut call = Call::run(ids[1].as_slice(), &[Step::Reply(b"taken".to_vec())]);
    call.cycles = 999;
    let reply = run(&mut subnet, ids[0], &[Step::Call(call.clone())]).unwrap();
    assert_eq!(reply[..4], 5_u32.to_le_bytes());
    call.cycles = 1_000;
    let taken = run(&mut subnet, ids[0], &[Step::Call(call.clone())]);
    assert_eq!(taken.unwrap(), b"taken");
    call.cycles = 0;
    assert_eq!(
        run(&mut subnet, ids[1], &[Step::Call(call)]).unwrap(),
        b"taken"
    );
}

#[test]
fn queries_see_what_the_freezing_threshold_leaves() {
    let wasm = wat::parse_str(
        r#"(module
            (import "ic0" "canister_liquid_cycle_balance128" (func $liquid (param i32)))
            (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
            (import "ic0" "msg_reply" (func $reply))
            (memory 16)
            (func (export "canister_query liquid")
                (call $liquid (i32.const 0))
                (call $append (i32.const 0) (i32.const 16))
                (call $reply)))"#,
    );
    let mut subnet = Subnet::new();
    let id = subnet.create_canister();
    subnet.install(id, &wasm.unwrap(), b"").unwrap();
    let reply = subnet
        .query(id, Principal::anonymous(), "liquid", b"")
        .unwrap();
    let liquid = u128::from_le_bytes(reply.try_into().unwrap());
    let prices = subnet.state().genesis.prices();
    let frozen = subnet.canister(id).unwrap().state.frozen_cycles(prices);
    assert!(frozen > 0);
    assert_eq!(liquid, subnet.cycles(id) - frozen);
}

#[test]
fn who_may_read_the_log_is_told_where_code_trapped() {
    let Some((mut subnet, ids)) = subnet(1) else {
        return;
    };
    let stranger = Principal::from_slice(&[7; 29]);
    let program = encode(&[Step::Unreachable]);
    let trap = |subnet: &mut Subnet, sender| {
        let reject = subnet.update(ids[0], sender, "run", &program).unwrap_err();
        assert_eq!(reject.error_code, 502);
        reject.message
    };
    // The anonymous user is the canister's controller.
    let told = trap(&mut subnet, Principal::anonymous());
    let (reason, backtrace) = told.split_once("\nCanister Backtrace:").unwrap();
    assert_eq!(trap(&mut subnet, stranger), reason);
    let line = |subnet: &Subnet| {
        let log = &subnet.canister(ids[0]).unwrap().ledger.log;
        let last = log.records().next_back().unwrap().content.clone();
        String::from_utf8(last).unwrap()
    };
    assert!(line(&subnet).ends_with(backtrace));
    let settings = CanisterSettings {
        log_visibility: Some(LogVisibility::AllowedViewers(vec![stranger])),
        ..CanisterSettings::default()
    };
    subnet.update_settings(ids[0], settings).unwrap();
    assert_eq!(trap(&mut subnet, stranger), told);
}

#[test]
fn a_compute_allocation_is_a_share_of_the_heights() {
    let Some((mut subnet, ids)) = slow_subnet(20) else {
        return;
    };
    let settings = |percent: u8| CanisterSettings {
        compute_allocation: Some(percent.into()),
        ..CanisterSettings::default()
    };
    for (id, percent) in [(ids[3], 100), (ids[9], 50)] {
        subnet.add_cycles(id, 10_000_000_000_000_000).unwrap();
        subnet.update_settings(id, settings(percent)).unwrap();
    }
    let program = encode(&[Step::ReplySum]);
    let sent: Vec<_> = ids
        .iter()
        .map(|id| {
            (0..12)
                .map(|_| subnet.submit(*id, anonymous(), "run", &program))
                .collect()
        })
        .collect::<Vec<Vec<MessageId>>>();
    for _ in 0..12 {
        subnet.tick();
    }
    let done: Vec<usize> = sent
        .iter()
        .map(|sent| {
            let statuses = sent.iter().filter_map(|id| subnet.status(*id));
            statuses
                .filter(|status| matches!(status, Status::Replied(_)))
                .count()
        })
        .collect();
    // Four lanes have 48 turns.
    assert_eq!(done.iter().sum::<usize>(), 48);
    assert_eq!((done[3], done[9]), (12, 6));
    assert!(done.iter().all(|count| *count > 0), "{done:?}");
}

#[test]
fn random_bytes_wait_for_the_signature_of_the_root_after_the_call() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let draw = Call {
        method: "raw_rand".into(),
        argument: candid::encode_args(()).unwrap(),
        ..Call::run(Principal::management_canister().as_slice(), &[])
    };
    let program = encode(&[Step::Call(draw)]);
    subnet.set_beacons(false);
    let mut draw = |id| subnet.submit(id, anonymous(), "run", &program);
    let calls = [draw(ids[0]), draw(ids[1])];
    let mut roots = std::collections::BTreeMap::new();
    for _ in 0..5 {
        subnet.tick();
        roots.insert(subnet.state().height, subnet.root());
    }
    let randomness = &subnet.state().randomness;
    let wanted: Vec<u64> = randomness.wanted().collect();
    assert_eq!((wanted.len(), randomness.waiting().count()), (1, 2));
    assert_eq!(randomness.root(wanted[0]), Some(roots[&wanted[0]]));
    assert!(
        calls
            .iter()
            .all(|call| !matches!(subnet.status(*call), Some(Status::Replied(_))))
    );
    subnet.set_beacons(true);
    let replies = calls.map(|call| subnet.wait(call).unwrap());
    assert_eq!(replies[0].len(), replies[1].len());
    assert_ne!(replies[0], replies[1]);
}
