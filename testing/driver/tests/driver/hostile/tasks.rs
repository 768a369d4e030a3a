//! What runs without being called, and fails: nobody is told but the log, and nothing is changed.
use super::{Witness, cycles::make_poor, fill, frozen, outcome, subnet, sum};
use ic_management_canister_types::CanisterSettings;
use ic_principal::Principal;
use lockstep_driver::Subnet;
use lockstep_hostile::Step;
use lockstep_subnet::state::LowMemory;
use std::time::Duration;

/// When timers are due.
const DELAY: Duration = Duration::from_millis(1);

/// Sets a timer that changes memories and then comes to this end.
fn set_timer(subnet: &mut Subnet, id: Principal, end: Step) {
    let timer = Step::Timer {
        delay_ns: DELAY.as_nanos() as u64,
        program: vec![Step::StableGrow(1), Step::Touch(3), end],
    };
    outcome(subnet, id, &[timer, Step::Reply(vec![])]).unwrap();
}

fn last_line(subnet: &Subnet, id: Principal) -> Option<String> {
    let log = &subnet.canister(id).unwrap().ledger.log;
    let last = log.records().next_back()?;
    Some(String::from_utf8_lossy(&last.content).into_owned())
}

#[test]
fn timers() {
    let Some((mut subnet, ids)) = subnet(1) else {
        return;
    };
    let [id, other] = [ids[0], ids[1]];
    for (end, reason) in [
        (Step::Unreachable, "Canister trapped: unreachable"),
        (Step::OutOfBounds, "Canister trapped: heap out of bounds"),
        (
            Step::Trap("no".into()),
            "Canister called `ic0.trap` with message: 'no'",
        ),
    ] {
        set_timer(&mut subnet, id, end);
        let witness = Witness::new(&subnet, other);
        let before = sum(&subnet, id);
        let version = subnet.canister(id).unwrap().state.version;
        subnet.advance_time(DELAY);
        subnet.tick();
        let canister = &subnet.canister(id).unwrap().state;
        assert_eq!(canister.stable_bytes(), 0);
        assert_eq!(canister.version, version);
        // It is over: a timer that fails is not tried again.
        assert_eq!(canister.global_timer_ns, 0);
        assert_eq!(sum(&subnet, id), before);
        let line = last_line(&subnet, id).unwrap();
        let expected = format!("[TRAP]: Error from Canister {id}: {reason}");
        assert!(line.starts_with(&expected), "{line}");
        witness.check(&subnet);
    }
    set_timer(&mut subnet, id, Step::Observe);
    subnet.advance_time(DELAY);
    subnet.tick();
    assert_eq!(subnet.canister(id).unwrap().state.stable_bytes(), 1 << 16);
}

#[test]
fn timers_of_the_poor() {
    let Some((mut subnet, ids)) = subnet(1) else {
        return;
    };
    let [id, other] = [ids[0], ids[1]];
    let execution = super::cycles::execution(&subnet);
    for (missing, pages) in [(1, 0), (0, 1)] {
        set_timer(&mut subnet, id, Step::Observe);
        make_poor(&mut subnet, id);
        let balance = frozen(&subnet, id) + execution - missing;
        fill(&mut subnet, id, balance);
        let witness = Witness::new(&subnet, other);
        subnet.advance_time(DELAY);
        subnet.tick();
        let canister = &subnet.canister(id).unwrap().state;
        assert_eq!(canister.stable_bytes() >> 16, pages);
        assert_eq!(canister.global_timer_ns, 0);
        assert_eq!(canister.cycles == balance, missing > 0);
        witness.check(&subnet);
        let enough = frozen(&subnet, id) + 10 * execution;
        fill(&mut subnet, id, enough);
    }
}

/// Its hook grows the heap and traps, as its heartbeat does.
const FAILING: &str = r#"(module
    (memory 1)
    (func $fail (drop (memory.grow (i32.const 1))) (i32.store (i32.const 0) (i32.const 7)) unreachable)
    (func (export "canister_on_low_wasm_memory") (call $fail))
    (func (export "canister_heartbeat") (call $fail)))"#;

#[test]
fn heartbeats_and_hooks() {
    let Some((mut subnet, ids)) = subnet(0) else {
        return;
    };
    let witness = Witness::new(&subnet, ids[0]);
    let id = subnet.create_canister();
    let wasm = wat::parse_str(FAILING).unwrap();
    subnet.install(id, &wasm, b"").unwrap();
    // Less than the threshold is left of the limit at once.
    let settings = CanisterSettings {
        wasm_memory_limit: Some(100_000_u32.into()),
        wasm_memory_threshold: Some(90_000_u32.into()),
        ..CanisterSettings::default()
    };
    subnet.update_settings(id, settings).unwrap();
    let heap = |subnet: &Subnet| {
        let installed = subnet.canister(id).unwrap().state.installed.clone();
        installed.unwrap().heap
    };
    let before = heap(&subnet);
    subnet.tick();
    subnet.tick();
    // The hook once, and the heartbeat in every block: that which installed it, that of the settings, and these.
    let log = &subnet.canister(id).unwrap().ledger.log;
    assert_eq!(log.records().count(), 1 + 4);
    let ledger = &subnet.canister(id).unwrap().ledger;
    assert_eq!(ledger.low_memory, LowMemory::Done);
    let expected = format!("[TRAP]: Error from Canister {id}: Canister trapped: unreachable");
    assert!(last_line(&subnet, id).unwrap().starts_with(&expected));
    let after = heap(&subnet);
    assert_eq!(
        (after.size_pages(), after.digest()),
        (before.size_pages(), before.digest())
    );
    let all = subnet.all_cycles();
    subnet.tick();
    assert_eq!(subnet.all_cycles(), all);
    let found = &subnet.canister(ids[0]).unwrap().state;
    assert_eq!(found.digest(), witness.digest);
}
