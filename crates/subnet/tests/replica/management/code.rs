//! Installing, chunks, logs.
use super::{Subnet, other, record, user};
use crate::support::{CANISTER, call, step};
use candid::{Encode, Nat};
use ic_management_canister_types::{
    CanisterInstallMode, CanisterLogFilter, CanisterSettings, ChangeDetails, ChunkHash,
    CodeDeploymentMode, FetchCanisterLogsArgs, FetchCanisterLogsResult, InstallChunkedCodeArgs,
    InstallCodeArgs, LogVisibility, UninstallCodeArgs, UpdateSettingsArgs, UpgradeFlags,
    UploadChunkArgs, WasmMemoryPersistence,
};
use ic_principal::Principal;
use lockstep_subnet::state::Status;
use sha2::{Digest, Sha256};

/// Prints when it is installed and upgraded; traps on demand; keeps a secret and a public word.
const NOISY: &str = r#"(module
    (import "ic0" "debug_print" (func $print (param i32 i32)))
    (import "ic0" "trap" (func $trap (param i32 i32)))
    (import "ic0" "msg_reply" (func $reply))
    (memory 1)
    (data (i32.const 0) "hello")
    (func (export "canister_init") (call $print (i32.const 0) (i32.const 5)))
    (func (export "canister_pre_upgrade") (call $print (i32.const 0) (i32.const 4)))
    (func (export "canister_update shout") (call $print (i32.const 0) (i32.const 1)) (call $reply))
    (func (export "canister_update fail") (call $trap (i32.const 0) (i32.const 2))))"#;

/// Prints, then traps when it is installed.
const BROKEN: &str = r#"(module
    (import "ic0" "debug_print" (func $print (param i32 i32)))
    (import "ic0" "trap" (func $trap (param i32 i32)))
    (memory 1)
    (data (i32.const 0) "bad")
    (func $no (call $print (i32.const 0) (i32.const 3)) (call $trap (i32.const 0) (i32.const 3)))
    (func (export "canister_init") (call $no))
    (func (export "canister_post_upgrade") (call $no)))"#;

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the text is a module")
}

fn code(canister_id: Principal, mode: CanisterInstallMode, text: &str) -> InstallCodeArgs {
    InstallCodeArgs {
        mode,
        canister_id,
        wasm_module: wasm(text),
        arg: Vec::new(),
        sender_canister_version: None,
    }
}

fn upload(subnet: &Subnet, canister_id: Principal, chunk: Vec<u8>) -> ChunkHash {
    let expected = Sha256::digest(&chunk).to_vec();
    let hash: ChunkHash = subnet.get("upload_chunk", &UploadChunkArgs { canister_id, chunk });
    assert_eq!(hash.hash, expected);
    hash
}

#[test]
fn installations_are_checked_and_recorded() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let upgrade = CanisterInstallMode::Upgrade(None);
    let install = |mode, text| code(id, mode, text);
    subnet.refuse(
        "install_code",
        &install(upgrade, NOISY),
        537,
        "does not have any code",
    );
    subnet.run(
        "install_code",
        &install(CanisterInstallMode::Install, NOISY),
    );
    assert_eq!(subnet.canister(id).state.version, 1);
    let again = install(CanisterInstallMode::Install, NOISY);
    subnet.refuse(
        "install_code",
        &again,
        514,
        "cannot be installed because the canister is not empty",
    );
    let wrong = install(upgrade, "(module (memory 1) (memory 1))");
    subnet.refuse(
        "install_code",
        &wrong,
        505,
        "Canister's Wasm module is not valid",
    );
    let keep = CanisterInstallMode::Upgrade(Some(UpgradeFlags {
        skip_pre_upgrade: None,
        wasm_memory_persistence: Some(WasmMemoryPersistence::Keep),
    }));
    subnet.refuse(
        "install_code",
        &install(keep, NOISY),
        504,
        "Invalid upgrade option",
    );
    let before = subnet.canister(id).state.cycles;
    subnet.refuse("install_code", &install(upgrade, BROKEN), 503, "bad");
    let canister = subnet.canister(id);
    assert!(
        canister.state.cycles < before,
        "a failed installation is paid for"
    );
    assert_eq!(canister.state.version, 1, "and has no other effect");
    subnet.run("install_code", &install(upgrade, NOISY));
    subnet.run(
        "install_code",
        &install(CanisterInstallMode::Reinstall, CANISTER),
    );
    let modes: Vec<(u64, Option<ChangeDetails>)> = subnet
        .info(id)
        .recent_changes
        .into_iter()
        .map(|change| (change.canister_version, change.details))
        .collect();
    let expected = [
        (1, CodeDeploymentMode::Install, NOISY),
        (2, CodeDeploymentMode::Upgrade, NOISY),
        (3, CodeDeploymentMode::Reinstall, CANISTER),
    ];
    assert_eq!(
        modes.len(),
        4,
        "the creation and three deployments: {modes:?}"
    );
    for ((version, details), (expected_version, mode, text)) in modes[1..].iter().zip(expected) {
        assert_eq!(*version, expected_version);
        let Some(ChangeDetails::CodeDeployment(deployment)) = details else {
            panic!("code was deployed: {details:?}")
        };
        assert_eq!(deployment.mode, mode);
        assert_eq!(deployment.module_hash, Sha256::digest(wasm(text)).to_vec());
    }
    subnet.run(
        "uninstall_code",
        &UninstallCodeArgs {
            canister_id: id,
            sender_canister_version: None,
        },
    );
    let info = subnet.info(id);
    assert_eq!(info.module_hash, None);
    assert_eq!(info.total_num_changes, 5);
    assert!(
        matches!(subnet.send(id, "read", Vec::new()), Status::Rejected(reject) if reject.error_code == 537)
    );
}

#[test]
fn code_is_installed_from_chunks() {
    let subnet = Subnet::new();
    let (store, target) = (subnet.create(7, None), subnet.create(8, None));
    let module = wasm(CANISTER);
    let (first, second) = module.split_at(module.len() / 2);
    let hashes = vec![
        upload(&subnet, store, first.to_vec()),
        upload(&subnet, store, second.to_vec()),
    ];
    let subnet = subnet.restarted();
    let mut stored: Vec<ChunkHash> = subnet.get("stored_chunks", &record(store));
    stored.sort();
    let mut expected = hashes.clone();
    expected.sort();
    assert_eq!(stored, expected);
    assert_eq!(
        subnet.status(store).memory_metrics.wasm_chunk_store_size,
        Nat::from(2_u32 << 20)
    );
    let install = InstallChunkedCodeArgs {
        mode: CanisterInstallMode::Install,
        target_canister: target,
        store_canister: Some(store),
        chunk_hashes_list: hashes.clone(),
        wasm_module_hash: Sha256::digest(&module).to_vec(),
        arg: Vec::new(),
        sender_canister_version: None,
    };
    let refuse = |changed: InstallChunkedCodeArgs, code, text| {
        subnet.refuse("install_chunked_code", &changed, code, text);
    };
    let of_target = InstallChunkedCodeArgs {
        store_canister: None,
        ..install.clone()
    };
    refuse(of_target, 504, "was not found");
    let swapped = vec![hashes[1].clone(), hashes[0].clone()];
    let swapped = InstallChunkedCodeArgs {
        chunk_hashes_list: swapped,
        ..install.clone()
    };
    refuse(swapped, 504, "does not match given hash");
    let short = InstallChunkedCodeArgs {
        wasm_module_hash: vec![1],
        ..install.clone()
    };
    refuse(short, 504, "Invalid wasm hash");
    let odd = vec![ChunkHash { hash: vec![1] }];
    let odd = InstallChunkedCodeArgs {
        chunk_hashes_list: odd,
        ..install.clone()
    };
    refuse(odd, 504, "The length is not 32");
    let nowhere = Some(lockstep_subnet::state::canister_id(99));
    let nowhere = InstallChunkedCodeArgs {
        store_canister: nowhere,
        ..install.clone()
    };
    refuse(nowhere, 504, "InstallChunkedCode Error: Store canister");
    let settings = CanisterSettings {
        controllers: Some(vec![other()]),
        ..Default::default()
    };
    let foreign = subnet.create(9, Some(settings));
    let foreign = InstallChunkedCodeArgs {
        store_canister: Some(foreign),
        ..install.clone()
    };
    refuse(foreign, 512, "Only the controllers");
    subnet.run("install_chunked_code", &install);
    assert_eq!(subnet.update(target, "increment"), [1, 0, 0, 0]);
    subnet.run("clear_chunk_store", &record(store));
    let stored: Vec<ChunkHash> = subnet.get("stored_chunks", &record(store));
    assert!(stored.is_empty());
}

#[test]
fn the_chunk_store_has_its_limits() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let chunk = |chunk| UploadChunkArgs {
        canister_id: id,
        chunk,
    };
    let text = "Error from Wasm chunk store: Wasm chunk size 1048577 exceeds the maximum chunk size of 1048576.";
    subnet.refuse("upload_chunk", &chunk(vec![0; (1 << 20) + 1]), 504, text);
    upload(&subnet, id, vec![0; 1 << 20]);
    let calls = (0..99_u8).map(|index| {
        let argument = Encode!(&chunk(vec![index])).expect("Candid");
        let management = Principal::management_canister();
        call(
            management,
            "upload_chunk",
            argument,
            10_000 + u64::from(index),
        )
    });
    step(&subnet.replica, calls.collect());
    assert_eq!(subnet.canister(id).stored.chunks.entries().len(), 100);
    upload(&subnet, id, vec![98]);
    subnet.refuse(
        "upload_chunk",
        &chunk(vec![99]),
        504,
        "maximum number of entries, 100",
    );
    let frozen = CanisterSettings {
        freezing_threshold: Some(Nat::from(u64::MAX)),
        ..Default::default()
    };
    subnet.run("clear_chunk_store", &record(id));
    let frozen = UpdateSettingsArgs {
        canister_id: id,
        settings: frozen,
        sender_canister_version: None,
    };
    subnet.run("update_settings", &frozen);
    let text = "Canister cannot grow memory by 1048576 bytes due to insufficient cycles";
    subnet.refuse("upload_chunk", &chunk(vec![1]), 532, text);
}

fn logs(subnet: &Subnet, canister_id: Principal, filter: Option<CanisterLogFilter>) -> Vec<String> {
    let arguments = FetchCanisterLogsArgs {
        canister_id,
        filter,
    };
    let logs: FetchCanisterLogsResult = subnet
        .query(user(), "fetch_canister_logs", &arguments)
        .expect("the caller may see them");
    let records = logs.canister_log_records.into_iter();
    records
        .map(|record| {
            let text = String::from_utf8(record.content).expect("text");
            format!("{} {text}", record.idx)
        })
        .collect()
}

#[test]
fn logs_are_kept_filtered_and_cleared() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    subnet.run(
        "install_code",
        &code(id, CanisterInstallMode::Install, NOISY),
    );
    subnet.update(id, "shout");
    let _ = subnet.send(id, "fail", Vec::new());
    let broken = code(id, CanisterInstallMode::Upgrade(None), BROKEN);
    subnet.refuse("install_code", &broken, 503, "bad");
    let subnet = subnet.restarted();
    let lines = logs(&subnet, id, None);
    assert_eq!(lines[0..2], ["0 hello", "1 h"]);
    assert!(lines[2].starts_with("2 [TRAP]: "), "{lines:?}");
    assert_eq!(
        lines[3..5],
        ["3 hell", "4 bad"],
        "a failed upgrade is logged too"
    );
    assert!(lines[5].starts_with("5 [TRAP]: "), "{lines:?}");
    let by_index = CanisterLogFilter::ByIdx { start: 1, end: 2 };
    assert_eq!(logs(&subnet, id, Some(by_index)), ["1 h"]);
    let from = subnet
        .canister(id)
        .ledger
        .log
        .records()
        .nth(1)
        .expect("a line")
        .time_ns;
    let by_time = CanisterLogFilter::ByTimestampNanos {
        start: from,
        end: from + 1,
    };
    assert_eq!(logs(&subnet, id, Some(by_time)), ["1 h"]);
    let none = CanisterLogFilter::ByIdx { start: 2, end: 1 };
    assert!(logs(&subnet, id, Some(none)).is_empty());
    subnet.run(
        "install_code",
        &code(id, CanisterInstallMode::Reinstall, NOISY),
    );
    assert_eq!(
        logs(&subnet, id, None),
        ["6 hello"],
        "a reinstallation clears the log"
    );
    subnet.run("uninstall_code", &record(id));
    assert!(logs(&subnet, id, None).is_empty());
}

#[test]
fn logs_are_for_whom_they_are_set_to() {
    let subnet = Subnet::new();
    let settings = |log_visibility| CanisterSettings {
        controllers: Some(vec![other()]),
        log_visibility,
        ..Default::default()
    };
    let arguments = |canister_id| FetchCanisterLogsArgs {
        canister_id,
        filter: None,
    };
    let hidden = arguments(subnet.create(7, Some(settings(None))));
    let refused = subnet.query::<FetchCanisterLogsResult>(user(), "fetch_canister_logs", &hidden);
    let refused = refused.expect_err("they are hidden");
    assert_eq!(refused.error_code, 406);
    assert!(
        refused
            .message
            .contains("is not allowed to access canister logs")
    );
    subnet
        .query::<FetchCanisterLogsResult>(other(), "fetch_canister_logs", &hidden)
        .expect("a controller may see them");
    let viewers = LogVisibility::AllowedViewers(vec![user()]);
    for (index, visibility) in (8..).zip([LogVisibility::Public, viewers]) {
        let shown = arguments(subnet.create(index, Some(settings(Some(visibility)))));
        subnet
            .query::<FetchCanisterLogsResult>(user(), "fetch_canister_logs", &shown)
            .expect("others may see them");
    }
}

#[test]
fn a_log_is_cut_to_its_limit() {
    let subnet = Subnet::new();
    let settings = CanisterSettings {
        log_memory_limit: Some(Nat::from(8192_u32)),
        ..Default::default()
    };
    let id = subnet.create(7, Some(settings));
    subnet.run(
        "install_code",
        &code(id, CanisterInstallMode::Install, NOISY),
    );
    // A line of one byte takes 17.
    let management = Principal::management_canister();
    for round in 0..5 {
        let calls =
            (0..100).map(|index| call(id, "shout", Vec::new(), 10_000 + 100 * round + index));
        step(&subnet.replica, calls.collect());
    }
    assert_eq!(subnet.canister(id).ledger.log.bytes(), 8177);
    let less = CanisterSettings {
        log_memory_limit: Some(Nat::from(4096_u32)),
        ..Default::default()
    };
    let less = UpdateSettingsArgs {
        canister_id: id,
        settings: less,
        sender_canister_version: None,
    };
    subnet.run("update_settings", &less);
    assert_eq!(subnet.canister(id).ledger.log.bytes(), 4080);
    let argument = Encode!(&record(id)).expect("Candid");
    assert!(matches!(
        subnet.send(management, "canister_status", argument),
        Status::Replied(_)
    ));
}
