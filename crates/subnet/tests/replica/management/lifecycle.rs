//! Creating, starting, stopping, deleting, and cycles.
use super::{Subnet, other, record, user};
use candid::Nat;
use ic_management_canister_types::{
    CanisterIdRecord, CanisterMetricsResult, CanisterSettings, CanisterStatusType, ChangeDetails,
    ChangeOrigin, CreateCanisterArgs, FromUserRecord, ListCanistersResult,
    ProvisionalCreateCanisterWithCyclesArgs, ProvisionalTopUpCanisterArgs,
};
use ic_principal::Principal;
use lockstep_subnet::{
    execution::management::{DEFAULT_CYCLES, inspect, query_target},
    state::canister_id,
};

const FIRST_INDEX: u64 = 1 << 32;

#[test]
fn ids_are_given_once() {
    let subnet = Subnet::new();
    let created: CanisterIdRecord = subnet.get("create_canister", &CreateCanisterArgs::default());
    assert_eq!(created.canister_id, canister_id(FIRST_INDEX));
    let id = subnet.create(7, None);
    let again = |specified_id| ProvisionalCreateCanisterWithCyclesArgs {
        specified_id: Some(specified_id),
        ..Default::default()
    };
    let create = "provisional_create_canister_with_cycles";
    let exists = "already exists";
    subnet.refuse(create, &again(id), 205, exists);
    subnet.refuse(create, &again(created.canister_id), 205, exists);
    subnet.refuse(create, &again(user()), 408, "canister ranges");
    subnet.refuse(
        "delete_canister",
        &record(id),
        510,
        "must be stopped before it is deleted",
    );
    subnet.run("stop_canister", &record(id));
    subnet.run("delete_canister", &record(id));
    subnet.refuse("canister_status", &record(id), 301, "not found");
    subnet.refuse(create, &again(id), 205, exists);
    subnet.run("stop_canister", &record(created.canister_id));
    subnet.run("delete_canister", &record(created.canister_id));
    subnet.refuse(create, &again(created.canister_id), 205, exists);
    let subnet = subnet.restarted();
    subnet.refuse(create, &again(id), 205, exists);
    let next: CanisterIdRecord = subnet.get("create_canister", &CreateCanisterArgs::default());
    assert_eq!(next.canister_id, canister_id(FIRST_INDEX + 1));
}

#[test]
fn a_refused_creation_takes_no_id() {
    let subnet = Subnet::new();
    let settings = Some(CanisterSettings {
        compute_allocation: Some(Nat::from(101_u8)),
        ..Default::default()
    });
    let arguments = CreateCanisterArgs {
        settings,
        sender_canister_version: None,
    };
    subnet.refuse("create_canister", &arguments, 504, "ComputeAllocation");
    let created: CanisterIdRecord = subnet.get("create_canister", &CreateCanisterArgs::default());
    assert_eq!(created.canister_id, canister_id(FIRST_INDEX));
}

#[test]
fn canisters_are_stopped_and_started_and_count_it() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let version = || subnet.canister(id).state.version;
    assert_eq!(version(), 0);
    subnet.run("start_canister", &record(id));
    assert_eq!(version(), 1, "a running canister may be started");
    subnet.run("stop_canister", &record(id));
    assert_eq!(version(), 3, "it is stopping, then stopped");
    assert_eq!(subnet.status(id).status, CanisterStatusType::Stopped);
    subnet.run("stop_canister", &record(id));
    assert_eq!(version(), 4);
    subnet.run("start_canister", &record(id));
    assert_eq!(subnet.status(id).status, CanisterStatusType::Running);
    assert_eq!(subnet.status(id).version, 5);
}

#[test]
fn controllers_manage_and_others_do_not() {
    let subnet = Subnet::new();
    let settings = CanisterSettings {
        controllers: Some(vec![other()]),
        ..Default::default()
    };
    let id = subnet.create(7, Some(settings));
    for method in [
        "start_canister",
        "stop_canister",
        "delete_canister",
        "uninstall_code",
        "canister_status",
        "canister_metrics",
        "clear_chunk_store",
        "stored_chunks",
        "list_canister_snapshots",
    ] {
        subnet.refuse(
            method,
            &record(id),
            512,
            "Only the controllers of the canister",
        );
    }
    let state = &subnet.replica.executed().state;
    let argument = candid::encode_one(record(id)).expect("Candid");
    let refused = inspect(state, &user(), "stop_canister", &argument).expect_err("no controller");
    assert_eq!(refused.error_code, 512);
    inspect(state, &other(), "stop_canister", &argument).expect("it is taken in");
    for method in ["canister_status", "list_canister_snapshots"] {
        let refused = inspect(state, &user(), method, &argument).expect_err("it is hidden");
        assert_eq!(refused.error_code, 512);
        inspect(state, &other(), method, &argument).expect("it is shown");
    }
    inspect(state, &user(), "provisional_top_up_canister", &argument).expect("everybody may");
    let absent = candid::encode_one(record(canister_id(8))).expect("Candid");
    let refused = inspect(state, &other(), "stop_canister", &absent).expect_err("no canister");
    assert_eq!(refused.error_code, 301);
}

#[test]
fn users_cannot_call_what_is_for_canisters_or_queries() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    for method in [
        "raw_rand",
        "deposit_cycles",
        "canister_info",
        "canister_metadata",
        "fetch_canister_logs",
        "list_canisters",
        "subnet_info",
        "subnet_metrics",
        "node_metrics_history",
        "sign_with_ecdsa",
        "http_request",
        "bitcoin_get_balance",
    ] {
        let text = format!("Only canisters can call ic00 method {method}");
        subnet.refuse(method, &record(id), 406, &text);
    }
    let text = "Management canister has no method 'fly'";
    subnet.refuse("fly", &record(id), 536, text);
    subnet.refuse("start_canister", &7_u8, 408, "Error decoding candid");
    let refused = query_target("start_canister", &[]).expect_err("it is no query");
    assert_eq!(refused.error_code, 536);
}

#[test]
fn cycles_come_and_go() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    assert_eq!(subnet.canister(id).state.cycles, DEFAULT_CYCLES);
    let top_up = |amount| ProvisionalTopUpCanisterArgs {
        canister_id: id,
        amount,
    };
    let before = subnet.canister(id).state.cycles;
    subnet.run(
        "provisional_top_up_canister",
        &top_up(Nat::from(1_000_000_000_u64)),
    );
    let after = subnet.canister(id).state.cycles;
    assert!(
        after > before && after < before + 1_000_000_000,
        "the call is paid for"
    );
    let too_much = Nat::from(u128::MAX) + Nat::from(1_u8);
    subnet.refuse(
        "provisional_top_up_canister",
        &top_up(too_much),
        408,
        "too large",
    );
    subnet.refuse(
        "provisional_top_up_canister",
        &top_up(Nat::from(u128::MAX)),
        408,
        "too large",
    );
    let metrics: CanisterMetricsResult = subnet.get("canister_metrics", &record(id));
    let consumed = metrics.cycles_consumed;
    let sum = subnet.canister(id).ledger.consumed;
    assert_eq!(consumed.ingress_induction, Nat::from(sum.ingress));
    assert!(sum.ingress > 0 && sum.instructions == 0);
    assert_eq!(
        subnet.canister(id).state.cycles + sum.total(),
        DEFAULT_CYCLES + 1_000_000_000,
        "every cycle is accounted for"
    );
}

#[test]
fn a_canister_that_cannot_pay_loses_what_it_holds() {
    let subnet = Subnet::new();
    let arguments = ProvisionalCreateCanisterWithCyclesArgs {
        specified_id: Some(canister_id(7)),
        amount: Some(Nat::from(50_000_000_u64)),
        settings: Some(CanisterSettings {
            compute_allocation: Some(Nat::from(1_u8)),
            freezing_threshold: Some(Nat::from(0_u8)),
            ..Default::default()
        }),
        ..Default::default()
    };
    let created: CanisterIdRecord =
        subnet.get("provisional_create_canister_with_cycles", &arguments);
    let id = created.canister_id;
    assert_eq!(subnet.info(id).recent_changes.len(), 1);
    for _ in 0..12 {
        crate::support::step(&subnet.replica, vec![]);
    }
    let canister = subnet.canister(id);
    assert_eq!(canister.state.cycles, 0);
    assert_eq!(canister.state.settings.compute_allocation, 0);
    assert_eq!(canister.ledger.consumed.uninstall, 50_000_000);
    let info = subnet.info(id);
    assert_eq!((info.total_num_changes, info.recent_changes.len()), (1, 0));
}

#[test]
fn changes_are_counted_and_the_last_twenty_kept() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let info = subnet.info(id);
    assert_eq!(info.total_num_changes, 1);
    let creation = &info.recent_changes[0];
    assert_eq!(creation.canister_version, 0);
    let by_user = ChangeOrigin::FromUser(FromUserRecord { user_id: user() });
    assert_eq!(creation.origin, by_user);
    let Some(ChangeDetails::Creation(details)) = &creation.details else {
        panic!("it was created: {creation:?}")
    };
    assert_eq!(details.controllers, [user()]);
    assert_eq!(details.environment_variables_hash, None);
    for _ in 0..21 {
        subnet.run("uninstall_code", &record(id));
    }
    let info = subnet.info(id);
    assert_eq!(info.total_num_changes, 22);
    assert_eq!(info.recent_changes.len(), 20);
    assert_eq!(info.recent_changes[19].canister_version, 21);
    assert_eq!(
        info.recent_changes[0].details,
        Some(ChangeDetails::CodeUninstall)
    );
}

#[test]
fn canisters_are_listed_in_ranges() {
    let subnet = Subnet::new();
    for index in [3, 4, 5, 9] {
        subnet.create(index, None);
    }
    let nothing = candid::encode_args(()).expect("Candid");
    let state = &subnet.replica.executed().state;
    let reply =
        lockstep_subnet::execution::management::query(state, &user(), "list_canisters", &nothing);
    let listed = candid::decode_one::<ListCanistersResult>(&reply.expect("it is answered"));
    let ranges: Vec<(Principal, Principal)> = listed
        .expect("Candid")
        .canisters
        .iter()
        .map(|range| (range.start, range.end))
        .collect();
    assert_eq!(
        ranges,
        [
            (canister_id(3), canister_id(5)),
            (canister_id(9), canister_id(9))
        ]
    );
}
