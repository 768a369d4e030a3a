//! Answers that come when those who asked are not what they were.
use super::{Witness, slow_subnet, sum, tame};
use crate::support::anonymous;
use ic_management_canister_types::CanisterInstallMode;
use ic_principal::Principal;
use lockstep_canister::engine::Cycles;
use lockstep_driver::{MessageId, Status, Subnet};
use lockstep_hostile::{Call, Step, encode};
use std::time::Duration;

/// Cycles of the call, and of those what is accepted.
const SENT: u64 = 5_000_000_000_000;
const ACCEPTED: u64 = 2_000_000_000_000;

/// A call that its callee answers some blocks later, having accepted a part of the cycles: it calls itself first.
fn slowly_answered(callee: Principal) -> Call {
    let mut own = Call::run(callee.as_slice(), &[Step::Reply(vec![])]);
    own.on_reply = vec![Step::Accept(ACCEPTED), Step::Reply(b"late".to_vec())];
    let mut call = Call::run(callee.as_slice(), &[Step::Call(own)]);
    call.cycles = SENT;
    call
}

/// A subnet whose first canister has just called the second.
fn asking() -> Option<(Subnet, [Principal; 3], MessageId)> {
    let (mut subnet, ids) = slow_subnet(2)?;
    let mut call = slowly_answered(ids[1]);
    call.on_reply = vec![Step::StableGrow(1), Step::ReplyArgument];
    call.on_reject = vec![Step::StableGrow(2), Step::ReplyRejection];
    let asked = subnet.submit(ids[0], anonymous(), "run", &encode(&[Step::Call(call)]));
    subnet.tick();
    assert_eq!(subnet.status(asked), Some(&Status::Processing));
    assert_eq!(callbacks(&subnet, ids[0]), 1);
    Some((subnet, [ids[0], ids[1], ids[2]], asked))
}

fn callbacks(subnet: &Subnet, id: Principal) -> usize {
    subnet.canister(id).unwrap().ledger.callbacks.len()
}

/// What a canister has less than before, but for fees far below.
#[track_caller]
fn assert_spent(subnet: &Subnet, id: Principal, before: Cycles, spent: i128) {
    let difference = before as i128 - subnet.cycles(id) as i128;
    assert!(
        (spent..spent + 100_000_000_000).contains(&difference),
        "{difference}"
    );
}

#[test]
fn of_a_canister_that_was_uninstalled() {
    let Some((mut subnet, [caller, callee, other], asked)) = asking() else {
        return;
    };
    let witness = Witness::new(&subnet, other);
    let before = [caller, callee].map(|id| subnet.cycles(id));
    subnet.submit_management("uninstall_code", caller);
    subnet.tick();
    let reject = subnet.wait(asked).unwrap_err();
    assert_eq!(
        (reject.error_code, reject.message.as_str()),
        (406, "Canister has been uninstalled.")
    );
    subnet.settle();
    // Nothing ran; what was not accepted came back, with what the callback had prepaid.
    assert!(subnet.canister(caller).unwrap().state.installed.is_none());
    let ledger = &subnet.canister(caller).unwrap().ledger;
    assert!(ledger.callbacks.is_empty() && ledger.contexts.is_empty());
    assert!(subnet.cycles(caller) > before[0] + Cycles::from(SENT - ACCEPTED));
    assert_spent(&subnet, callee, before[1], -i128::from(ACCEPTED));
    witness.check(&subnet);
    // Code that comes later has nothing to do with it.
    subnet.install(caller, &tame().unwrap(), b"").unwrap();
    assert_eq!(subnet.canister(caller).unwrap().state.stable_bytes(), 0);
}

#[test]
fn of_a_canister_that_was_uninstalled_and_installed_again() {
    let Some((mut subnet, [caller, callee, other], asked)) = asking() else {
        return;
    };
    let witness = Witness::new(&subnet, other);
    let before = subnet.cycles(callee);
    subnet.submit_management("uninstall_code", caller);
    let mode = CanisterInstallMode::Install;
    let installed = subnet.submit_install(caller, mode, &tame().unwrap(), b"");
    subnet.wait(installed).unwrap();
    assert_eq!(callbacks(&subnet, caller), 1);
    let fresh = sum(&subnet, caller);
    let reject = subnet.wait(asked).unwrap_err();
    assert_eq!(reject.message, "Canister has been uninstalled.");
    subnet.settle();
    assert_eq!(callbacks(&subnet, caller), 0);
    // The callback did not run in the new code.
    assert_eq!(sum(&subnet, caller), fresh);
    assert_eq!(subnet.canister(caller).unwrap().state.stable_bytes(), 0);
    assert_spent(&subnet, callee, before, -i128::from(ACCEPTED));
    witness.check(&subnet);
}

/// Code that has no functions to be called back.
const OTHER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (table 1 funcref)
    (func (export "canister_update go") (call $reply)))"#;

#[test]
fn of_a_canister_that_was_reinstalled() {
    let Some((mut subnet, [caller, callee, other], asked)) = asking() else {
        return;
    };
    let witness = Witness::new(&subnet, other);
    let before = [caller, callee].map(|id| subnet.cycles(id));
    let module = wat::parse_str(OTHER).unwrap();
    let mode = CanisterInstallMode::Reinstall;
    let installed = subnet.submit_install(caller, mode, &module, b"");
    subnet.wait(installed).unwrap();
    assert_eq!(callbacks(&subnet, caller), 1);
    // The call goes on, but its callback is a function that there is not.
    let reject = subnet.wait(asked).unwrap_err();
    assert_eq!(reject.error_code, 513, "{reject}");
    let text = format!(
        "Error from Canister {caller}: Canister requested to invoke a non-existent Wasm function "
    );
    assert!(reject.message.starts_with(&text), "{reject}");
    subnet.settle();
    assert_eq!(callbacks(&subnet, caller), 0);
    assert!(subnet.cycles(caller) > before[0] + Cycles::from(SENT - ACCEPTED));
    assert_spent(&subnet, callee, before[1], -i128::from(ACCEPTED));
    subnet.update(caller, anonymous(), "go", b"").unwrap();
    witness.check(&subnet);
}

#[test]
fn of_a_canister_that_stops_and_is_deleted() {
    let Some((mut subnet, [caller, callee, other], asked)) = asking() else {
        return;
    };
    let witness = Witness::new(&subnet, other);
    subnet.submit_management("uninstall_code", caller);
    let stop = subnet.submit_management("stop_canister", caller);
    let delete = subnet.submit_management("delete_canister", caller);
    subnet.tick();
    // While an answer is due it cannot be stopped, and not deleted.
    let reject = subnet.wait(delete).unwrap_err();
    assert_eq!(
        (reject.error_code, reject.message),
        (
            510,
            format!("Canister {caller} must be stopped before it is deleted.")
        )
    );
    assert!(subnet.wait(asked).is_err());
    subnet.wait(stop).unwrap();
    assert_eq!(callbacks(&subnet, caller), 0);
    subnet.manage_canister("delete_canister", caller).unwrap();
    assert!(subnet.canister(caller).is_none());
    // Its balance is consumed, and accounted for.
    witness.check(&subnet);
    let call = Call::run(caller.as_slice(), &[]);
    let reply = crate::support::run(&mut subnet, callee, &[Step::Call(call)]).unwrap();
    assert_eq!(reply[..4], 3_u32.to_le_bytes());
    assert_eq!(
        reply[4..],
        *format!("IC0301: Canister {caller} not found").as_bytes()
    );
    witness.check(&subnet);
}

#[test]
fn after_their_deadline() {
    let Some((mut subnet, ids)) = slow_subnet(2) else {
        return;
    };
    let [caller, callee, other] = [ids[0], ids[1], ids[2]];
    // Less than ten seconds in all, after which everybody pays for storage.
    subnet.set_block_time(Duration::from_millis(500));
    let mut call = slowly_answered(callee);
    call.timeout_seconds = Some(1);
    let before = [caller, callee].map(|id| subnet.cycles(id));
    let witness = Witness::new(&subnet, other);
    let asked = subnet.submit(caller, anonymous(), "run", &encode(&[Step::Call(call)]));
    let reply = subnet.wait(asked).unwrap();
    assert_eq!(reply[..4], 6_u32.to_le_bytes());
    assert_eq!(reply[4..], *b"IC0601: Call deadline has expired.");
    subnet.settle();
    // The answer that came too late brought back what was not accepted.
    while !subnet.state().queue.is_empty() {
        subnet.tick();
    }
    assert_spent(&subnet, caller, before[0], i128::from(ACCEPTED));
    assert_spent(&subnet, callee, before[1], -i128::from(ACCEPTED));
    witness.check(&subnet);
}
