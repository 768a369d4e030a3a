//! Snapshots bring a canister back.
use crate::support::{anonymous, run, subnet};
use ic_principal::Principal;
use lockstep_driver::Subnet;
use lockstep_hostile::{Step, encode};

fn stable_bytes(subnet: &Subnet, id: Principal) -> u64 {
    subnet.canister(id).unwrap().state.stable_bytes()
}

#[test]
fn a_canister_goes_back_to_its_snapshot() {
    let Some((mut subnet, ids)) = subnet(1) else {
        return;
    };
    let id = ids[0];
    let program = [
        Step::StableGrow(1),
        Step::StableWrite {
            offset: 7,
            byte: 9,
            size: 100,
        },
        Step::Touch(20),
        Step::ReplySum,
    ];
    run(&mut subnet, id, &program).unwrap();
    let sum = encode(&[Step::ReplySum]);
    let read = |subnet: &Subnet| subnet.query(id, anonymous(), "read", &sum).unwrap();
    let before = read(&subnet);
    let snapshot = subnet.take_snapshot(id).unwrap();
    run(&mut subnet, id, &program).unwrap();
    assert_ne!(read(&subnet), before);
    assert_eq!(stable_bytes(&subnet, id), 2 * 65_536);
    subnet.load_snapshot(id, &snapshot).unwrap();
    assert_eq!(read(&subnet), before);
    assert_eq!(stable_bytes(&subnet, id), 65_536);
    subnet.delete_snapshot(id, &snapshot).unwrap();
    let gone = subnet.load_snapshot(id, &snapshot).unwrap_err();
    assert_eq!(gone.error_code, 305, "{gone}");
}
