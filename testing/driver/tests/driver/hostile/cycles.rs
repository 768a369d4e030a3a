//! Cycles run out at every step of a call.
use super::{Witness, fill, frozen, out_of_cycles, outcome, prices, silent, subnet, sum};
use candid::Nat;
use ic_management_canister_types::CanisterSettings;
use ic_principal::Principal;
use lockstep_canister::engine::Cycles;
use lockstep_driver::Subnet;
use lockstep_hostile::{Call, Step, encode};
use lockstep_subnet::execution::UPDATE_INSTRUCTIONS;

/// More than any canister has here that is poor.
const PLENTY: Cycles = 10_000_000_000_000;

/// A subnet of a caller and a callee, the first without cycles that it could spend, and somebody else.
fn poor_caller() -> Option<(Subnet, [Principal; 3])> {
    let (mut subnet, ids) = subnet(2)?;
    let ids = [ids[0], ids[1], ids[2]];
    make_poor(&mut subnet, ids[0]);
    Some((subnet, ids))
}

/// Burns what a canister has, and freezes it for longer than the rest lasts.
pub(super) fn make_poor(subnet: &mut Subnet, id: Principal) {
    let settings = |seconds: u64| CanisterSettings {
        memory_allocation: Some(Nat::from(1_u64 << 30)),
        freezing_threshold: Some(Nat::from(seconds)),
        ..CanisterSettings::default()
    };
    subnet.update_settings(id, settings(3_000_000)).unwrap();
    burn(subnet, id);
    subnet.update_settings(id, settings(5_000_000)).unwrap();
    assert!(subnet.cycles(id) < frozen(subnet, id));
}

fn burn(subnet: &mut Subnet, id: Principal) {
    let program = [Step::Burn(u64::MAX), Step::Reply(vec![])];
    outcome(subnet, id, &program).unwrap();
}

fn ingress_fee(subnet: &Subnet, program: &[Step]) -> Cycles {
    prices(subnet).ingress(("run".len() + encode(program).len()) as u64)
}

/// What a message must have before it runs.
pub(super) fn execution(subnet: &Subnet) -> Cycles {
    prices(subnet).execution(UPDATE_INSTRUCTIONS, false)
}

/// What a call costs before it is answered, cycles that go with it included.
fn cost(subnet: &Subnet, call: &Call) -> Cycles {
    let bytes = (call.method.len() + call.argument.len()) as u64;
    let prices = prices(subnet);
    prices.request(bytes) + prices.response_prepayment(false) + Cycles::from(call.cycles)
}

#[test]
fn before_the_call() {
    let Some((mut subnet, [caller, _, other])) = poor_caller() else {
        return;
    };
    let program = [Step::Reply(b"here".to_vec())];
    let fee = ingress_fee(&subnet, &program);
    let execution = execution(&subnet);
    let frozen = frozen(&subnet, caller);

    // Taking the message in costs something.
    fill(&mut subnet, caller, frozen + fee - 1);
    let witness = Witness::new(&subnet, other);
    let state = subnet.canister(caller).unwrap().state.digest();
    assert_eq!(
        outcome(&mut subnet, caller, &program),
        Err(out_of_cycles(caller, 1))
    );
    assert_eq!(subnet.canister(caller).unwrap().state.digest(), state);
    witness.check(&subnet);

    // So does executing it, which is paid for in advance.
    fill(&mut subnet, caller, frozen + fee + execution - 1);
    let witness = Witness::new(&subnet, other);
    let before = sum(&subnet, caller);
    assert_eq!(
        outcome(&mut subnet, caller, &program),
        Err(out_of_cycles(caller, 1))
    );
    assert_eq!(subnet.cycles(caller), frozen + execution - 1);
    assert_eq!(sum(&subnet, caller), before);
    witness.check(&subnet);

    fill(&mut subnet, caller, frozen + fee + execution);
    let witness = Witness::new(&subnet, other);
    assert_eq!(outcome(&mut subnet, caller, &program), Ok(b"here".to_vec()));
    witness.check(&subnet);
}

#[test]
fn while_sending() {
    let Some((mut subnet, [caller, callee, other])) = poor_caller() else {
        return;
    };
    for cycles in [0, 1_000_000_000] {
        let mut call = Call::run(callee.as_slice(), &[Step::Reply(b"there".to_vec())]);
        call.cycles = cycles;
        let program = [Step::Call(call.clone())];
        let enough = frozen(&subnet, caller)
            + ingress_fee(&subnet, &program)
            + execution(&subnet)
            + cost(&subnet, &call);
        for (balance, expected) in [
            // Nobody is asked, so that nobody answers.
            (enough - 1, Err(silent(caller))),
            (enough, Ok(b"there".to_vec())),
        ] {
            if subnet.cycles(caller) > balance {
                make_poor(&mut subnet, caller);
            }
            fill(&mut subnet, caller, balance);
            let witness = Witness::new(&subnet, other);
            let before = sum(&subnet, callee);
            assert_eq!(outcome(&mut subnet, caller, &program), expected, "{cycles}");
            assert_eq!(sum(&subnet, callee) == before, expected.is_err());
            witness.check(&subnet);
        }
    }
}

#[test]
fn while_cycles_are_added_to_a_call() {
    let Some((mut subnet, [caller, callee, other])) = poor_caller() else {
        return;
    };
    let mut call = Call::run(callee.as_slice(), &[Step::Reply(vec![])]);
    call.cycles = 1_000_000_000;
    let program = [Step::Call(call.clone())];
    let balance = frozen(&subnet, caller)
        + ingress_fee(&subnet, &program)
        + execution(&subnet)
        + Cycles::from(call.cycles);
    fill(&mut subnet, caller, balance - 1);
    let witness = Witness::new(&subnet, other);
    let before = sum(&subnet, caller);
    let text = format!("Error from Canister {caller}: Canister {caller} is out of cycles");
    assert_eq!(outcome(&mut subnet, caller, &program), Err((504, text)));
    assert_eq!(sum(&subnet, caller), before);
    witness.check(&subnet);
}

#[test]
fn in_the_callee() {
    let Some((mut subnet, [callee, caller, other])) = poor_caller() else {
        return;
    };
    let mut call = Call::run(
        callee.as_slice(),
        &[Step::Accept(500), Step::Reply(b"there".to_vec())],
    );
    call.cycles = 1_000;
    let program = [Step::Call(call)];
    let enough = frozen(&subnet, callee) + execution(&subnet);
    fill(&mut subnet, callee, enough - 1);
    let witness = Witness::new(&subnet, other);
    let before = subnet.canister(callee).unwrap().state.digest();
    let reply = outcome(&mut subnet, caller, &program).unwrap();
    let (code, text) = out_of_cycles(callee, 1);
    assert_eq!(reply[..4], 2_u32.to_le_bytes());
    assert_eq!(reply[4..], *format!("IC0{code}: {text}").as_bytes());
    assert_eq!(subnet.canister(callee).unwrap().state.digest(), before);
    witness.check(&subnet);

    fill(&mut subnet, callee, enough);
    let witness = Witness::new(&subnet, other);
    assert_eq!(
        outcome(&mut subnet, caller, &program),
        Ok(b"there".to_vec())
    );
    witness.check(&subnet);
}

/// A call whose sender burns all it has behind it.
fn then_burn(call: Call) -> [Step; 2] {
    [Step::Call(call), Step::Burn(u64::MAX)]
}

#[test]
fn in_the_callback() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let [caller, callee, other] = [ids[0], ids[1], ids[2]];
    fill(&mut subnet, caller, 100 * PLENTY);
    // It is paid for: it runs, and answers.
    let call = Call::run(callee.as_slice(), &[Step::Reply(b"there".to_vec())]);
    let witness = Witness::new(&subnet, other);
    assert_eq!(
        outcome(&mut subnet, caller, &then_burn(call.clone())),
        Ok(b"there".to_vec())
    );
    witness.check(&subnet);

    // Another call has nothing to be paid with.
    let frozen = frozen(&subnet, caller);
    fill(&mut subnet, caller, frozen + PLENTY);
    let mut asks_again = call.clone();
    asks_again.on_reply = vec![Step::Call(call.clone())];
    let witness = Witness::new(&subnet, other);
    let silence = Err(silent(caller));
    assert_eq!(
        outcome(&mut subnet, caller, &then_burn(asks_again.clone())),
        silence
    );
    witness.check(&subnet);
    fill(&mut subnet, caller, frozen + PLENTY);
    let asked = outcome(&mut subnet, caller, &[Step::Call(asks_again.clone())]);
    assert_eq!(asked, Ok(b"there".to_vec()));

    // Nor can it bring cycles; that is an error, after which there is a cleanup.
    fill(&mut subnet, caller, frozen + PLENTY + 1);
    let mut generous = call;
    generous.cycles = u64::MAX;
    asks_again.on_reply = vec![Step::Call(generous)];
    asks_again.on_cleanup = Some(vec![Step::Burn(u64::MAX)]);
    let witness = Witness::new(&subnet, other);
    let before = sum(&subnet, caller);
    let (code, text) = outcome(&mut subnet, caller, &then_burn(asks_again)).unwrap_err();
    assert_eq!(code, 504);
    assert_eq!(
        text,
        format!("Error from Canister {caller}: Canister {caller} is out of cycles")
    );
    assert_ne!(sum(&subnet, caller), before);
    witness.check(&subnet);
}

#[test]
fn in_the_cleanup() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let [caller, callee, other] = [ids[0], ids[1], ids[2]];
    let mut after = |cleanup: Option<Vec<Step>>| {
        let mut call = Call::run(callee.as_slice(), &[Step::Reply(vec![])]);
        call.on_reply = vec![Step::Trap("late".into())];
        call.on_cleanup = cleanup;
        let wealth = subnet.cycles(caller) + PLENTY;
        fill(&mut subnet, caller, wealth);
        let witness = Witness::new(&subnet, other);
        let error = outcome(&mut subnet, caller, &then_burn(call)).unwrap_err();
        assert_eq!(error.0, 503);
        witness.check(&subnet);
        let pages = subnet.canister(caller).unwrap().state.stable_bytes() >> 16;
        (error.1.contains("call_on_cleanup also failed"), pages)
    };
    assert_eq!(after(None), (false, 0));
    // Paid for as the callback was, it runs and keeps what it does.
    assert_eq!(after(Some(vec![Step::StableGrow(3)])), (false, 3));
    let traps = vec![Step::StableGrow(3), Step::Unreachable];
    assert_eq!(after(Some(traps)), (true, 3));
}

#[test]
fn refunds_come_back_to_whoever_is_poor() {
    let Some((mut subnet, ids)) = subnet(2) else {
        return;
    };
    let [caller, callee, other] = [ids[0], ids[1], ids[2]];
    let sent: u64 = 5_000_000_000_000;
    let accepted = 2_000_000_000_000;
    for (program, kept) in [
        (vec![Step::Reply(vec![])], 0),
        (vec![Step::Accept(accepted), Step::Reply(vec![])], accepted),
        (
            vec![Step::Accept(accepted), Step::Reject("no".into())],
            accepted,
        ),
        (vec![Step::Accept(u64::MAX), Step::Reply(vec![])], sent),
        // What is accepted by a message that fails is not.
        (vec![Step::Accept(accepted), Step::Unreachable], 0),
        (vec![Step::Accept(accepted), Step::Trap("no".into())], 0),
        (vec![Step::Accept(accepted)], accepted),
    ] {
        let mut call = Call::run(callee.as_slice(), &program);
        call.cycles = sent;
        let wealth = subnet.cycles(caller) + 2 * PLENTY;
        fill(&mut subnet, caller, wealth);
        let witness = Witness::new(&subnet, other);
        let earned = subnet.cycles(callee);
        outcome(&mut subnet, caller, &then_burn(call)).unwrap();
        witness.check(&subnet);
        // Executions cost far less than what is sent.
        let small = Cycles::from(sent) / 100;
        let back = subnet.cycles(caller) - frozen(&subnet, caller);
        let expected = Cycles::from(sent - kept) + execution(&subnet);
        assert!(back.abs_diff(expected) < small, "{program:?}: {back}");
        let earned = subnet.cycles(callee).abs_diff(earned);
        assert!(
            earned.abs_diff(kept.into()) < small,
            "{program:?}: {earned}"
        );
    }
}
