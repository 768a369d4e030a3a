//! What calls do to the state.
use crate::support::{
    answer, block, call, decode_id, install, installation, open, status_call, step,
};
use candid::Decode;
use ic_management_canister_types::{CanisterInstallMode, CanisterStatusResult};
use ic_principal::Principal;
use lockstep_canister::{memory::Paged, session::Ended};
use lockstep_subnet::{
    application::Application,
    state::{Reject, Status, canister_id},
};

#[test]
fn a_canister_is_created_installed_called_and_described() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls.clone());
    assert_eq!(decode_id(answer(&replica, &calls[0])), id);
    assert!(matches!(answer(&replica, &calls[1]), Status::Replied(_)));
    let (first, second) = (
        call(id, "increment", vec![], 1),
        call(id, "increment", vec![], 2),
    );
    let (read, status) = (call(id, "read", vec![], 3), status_call(id, 4));
    step(
        &replica,
        vec![
            first.clone(),
            second.clone(),
            first.clone(),
            read.clone(),
            status.clone(),
        ],
    );
    assert_eq!(answer(&replica, &first), Status::Replied(vec![1, 0, 0, 0]));
    assert_eq!(
        answer(&replica, &second),
        Status::Replied(vec![2, 0, 0, 0]),
        "a call is executed once"
    );
    assert_eq!(answer(&replica, &read), Status::Replied(vec![2, 0, 0, 0]));
    step(&replica, vec![first]);
    let executed = replica.executed();
    let canister = &executed.state.canisters()[&id];
    assert_eq!(
        canister.state.certified_data,
        [2, 0, 0, 0],
        "a later block does not run a call again"
    );
    let Status::Replied(status) = answer(&replica, &status) else {
        panic!("status is answered")
    };
    let status = Decode!(&status, CanisterStatusResult).expect("Candid");
    assert_eq!(status.settings.controllers, [Principal::anonymous()]);
    assert_eq!(status.module_hash.expect("code is installed").len(), 32);
}

#[test]
fn failures_have_the_interfaces_codes_and_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let absent = canister_id(99);
    let calls = [
        (call(absent, "read", vec![], 1), 301),
        (call(id, "fail", vec![], 2), 503),
        (call(id, "nothing", vec![], 3), 536),
        (
            call(Principal::management_canister(), "raw_rand", vec![], 4),
            406,
        ),
        (
            call(
                Principal::management_canister(),
                "canister_status",
                vec![1],
                5,
            ),
            408,
        ),
        (
            install(id, CanisterInstallMode::Install, "(module)", 6),
            514,
        ),
        (
            install(
                id,
                CanisterInstallMode::Upgrade(None),
                "(module (memory 1) (memory 1))",
                7,
            ),
            505,
        ),
    ];
    step(
        &replica,
        calls.iter().map(|(call, _)| call.clone()).collect(),
    );
    for (call, code) in &calls {
        match answer(&replica, call) {
            Status::Rejected(Reject {
                error_code,
                message,
            }) => assert_eq!(error_code, *code, "{message}"),
            other => panic!("IC{code:04} expected: {other:?}"),
        }
    }
    let executed = replica.executed();
    let heap = &executed.state.canisters()[&id]
        .state
        .installed
        .as_ref()
        .expect("code")
        .heap;
    assert!(
        heap.page(1).iter().all(|byte| *byte == 0),
        "a trap changes nothing"
    );
}

#[test]
fn upgrades_keep_stable_memory_and_reinstallation_clears_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    step(&replica, vec![call(id, "increment", vec![], 1)]);
    let upgrade = install(
        id,
        CanisterInstallMode::Upgrade(None),
        crate::support::CANISTER,
        2,
    );
    step(&replica, vec![upgrade.clone(), call(id, "read", vec![], 3)]);
    assert!(matches!(answer(&replica, &upgrade), Status::Replied(_)));
    assert_eq!(
        answer(&replica, &call(id, "read", vec![], 3)),
        Status::Replied(vec![0; 4]),
        "the heap is new"
    );
    let stable = |replica: &lockstep_subnet::replica::Replica| {
        replica.executed().state.canisters()[&id]
            .state
            .stable
            .clone()
    };
    assert_eq!(stable(&replica).block(0).expect("not zeros")[0], 1);
    step(
        &replica,
        vec![install(
            id,
            CanisterInstallMode::Reinstall,
            crate::support::CANISTER,
            4,
        )],
    );
    assert_eq!(stable(&replica).size_pages(), 1);
    assert!(stable(&replica).block(0).is_none());
}

#[test]
fn sessions_share_the_budget_and_pay_overruns_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    step(
        &replica,
        vec![
            call(id, "generate", vec![], 1),
            call(id, "generate", vec![], 2),
            call(id, "refused", vec![], 3),
        ],
    );
    // 600 M of work at 250 M a token: two heights give 5 tokens (one overrun by 50 M twice is paid
    // back), so that 5 heights give 12.
    let tokens = || -> Vec<usize> {
        let executed = replica.executed();
        executed
            .state
            .sessions
            .sessions
            .values()
            .map(|session| session.progress.tokens.len())
            .collect()
    };
    let mut totals = vec![tokens().iter().sum::<usize>()];
    for _ in 0..4 {
        step(&replica, vec![]);
        totals.push(tokens().iter().sum());
    }
    assert_eq!(totals, [3, 5, 8, 10, 12]);
    assert!(
        tokens()[0].abs_diff(tokens()[1]) <= 1,
        "equal shares: {:?}",
        tokens()
    );
    let executed = replica.executed();
    let refused = executed
        .state
        .sessions
        .sessions
        .values()
        .find(|session| session.progress.ended.is_some());
    let failed = Some(Ended::Failed("the prompt is refused".into()));
    assert_eq!(refused.expect("one is refused").progress.ended, failed);
    for _ in 0..4 {
        step(&replica, vec![]);
    }
    assert_eq!(
        tokens().iter().sum::<usize>(),
        18,
        "no more than was permitted"
    );
    assert!(!replica.executed().state.has_work());
}

#[test]
fn a_block_that_was_executed_gives_its_root_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (_, calls) = installation(7);
    let root = step(&replica, calls.clone());
    step(&replica, vec![]);
    assert_eq!(replica.execute(&block(1, calls)), root);
    assert_eq!(replica.root(1), Some(root));
    assert_eq!(replica.root(3), None);
}
