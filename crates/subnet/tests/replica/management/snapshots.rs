//! Snapshots.
use super::{Subnet, other, record, user};
use crate::support::{CANISTER, install, step};
use candid::{Nat, Reserved};
use ic_management_canister_types::{
    CanisterInstallMode, CanisterSettings, CanisterTimer, ChangeDetails,
    DeleteCanisterSnapshotArgs, LoadCanisterSnapshotArgs, OnLowWasmMemoryHookStatus,
    ReadCanisterSnapshotDataArgs, ReadCanisterSnapshotDataResult, ReadCanisterSnapshotMetadataArgs,
    ReadCanisterSnapshotMetadataResult, Snapshot, SnapshotDataKind, SnapshotDataOffset,
    SnapshotMetadataGlobal, SnapshotSource, SnapshotVisibility, TakeCanisterSnapshotArgs,
    UpdateSettingsArgs, UploadCanisterSnapshotDataArgs, UploadCanisterSnapshotMetadataArgs,
    UploadCanisterSnapshotMetadataResult, UploadChunkArgs,
};
use ic_principal::Principal;
use lockstep_subnet::{application::Application, state::canister_id};

/// A canister with [`CANISTER`], called once.
fn counting(subnet: &Subnet, index: u64, settings: Option<CanisterSettings>) -> Principal {
    let id = subnet.create(index, settings);
    let call = install(id, CanisterInstallMode::Install, CANISTER, 100_000 + index);
    step(&subnet.replica, vec![call]);
    assert_eq!(subnet.update(id, "increment"), [1, 0, 0, 0]);
    id
}

fn taking(canister_id: Principal, replace_snapshot: Option<Vec<u8>>) -> TakeCanisterSnapshotArgs {
    TakeCanisterSnapshotArgs {
        canister_id,
        replace_snapshot,
        uninstall_code: None,
        sender_canister_version: None,
    }
}

fn take(subnet: &Subnet, canister_id: Principal) -> Snapshot {
    subnet.get("take_canister_snapshot", &taking(canister_id, None))
}

fn loading(canister_id: Principal, snapshot_id: &[u8]) -> LoadCanisterSnapshotArgs {
    LoadCanisterSnapshotArgs {
        canister_id,
        snapshot_id: snapshot_id.to_vec(),
        sender_canister_version: None,
    }
}

fn deleting(canister_id: Principal, snapshot_id: &[u8]) -> DeleteCanisterSnapshotArgs {
    DeleteCanisterSnapshotArgs {
        canister_id,
        snapshot_id: snapshot_id.to_vec(),
    }
}

fn list(subnet: &Subnet, canister_id: Principal) -> Vec<Snapshot> {
    subnet.get("list_canister_snapshots", &record(canister_id))
}

#[test]
fn a_canister_goes_back_to_its_snapshot() {
    let subnet = Subnet::new();
    let id = counting(&subnet, 7, None);
    let at_one = subnet.canister(id);
    let snapshot = take(&subnet, id);
    assert_eq!(
        subnet.canister(id).state.version,
        at_one.state.version,
        "taking is no change"
    );
    let taken_ns = subnet.replica.executed().state.time_ns;
    assert_eq!(snapshot.taken_at_timestamp, taken_ns);
    let status = subnet.status(id);
    assert_eq!(
        status.memory_metrics.snapshots_size,
        Nat::from(snapshot.total_size)
    );
    assert_eq!(subnet.update(id, "increment"), [2, 0, 0, 0]);
    let subnet = subnet.restarted();
    assert_eq!(list(&subnet, id), std::slice::from_ref(&snapshot));
    subnet.run("load_canister_snapshot", &loading(id, &snapshot.id));
    let back = subnet.canister(id);
    assert_eq!(back.state.certified_data, [1, 0, 0, 0]);
    assert_eq!(back.state.stable.digest(), at_one.state.stable.digest());
    assert_eq!(back.state.version, at_one.state.version + 2);
    let info = subnet.info(id);
    let change = info.recent_changes.last().expect("it was loaded");
    assert_eq!(change.canister_version, back.state.version);
    let Some(ChangeDetails::LoadSnapshot(load)) = &change.details else {
        panic!("it was loaded: {change:?}")
    };
    assert_eq!(load.from_canister_id, None);
    assert_eq!(load.snapshot_id, snapshot.id);
    assert_eq!(load.taken_at_timestamp, taken_ns);
    assert_eq!(load.canister_version, at_one.state.version);
    assert_eq!(load.source, SnapshotSource::TakenFromCanister(Reserved));
    assert_eq!(
        subnet.update(id, "increment"),
        [2, 0, 0, 0],
        "globals came back"
    );
    subnet.run("delete_canister_snapshot", &deleting(id, &snapshot.id));
    assert!(list(&subnet, id).is_empty());
    let status = subnet.status(id);
    assert_eq!(status.memory_metrics.snapshots_size, Nat::from(0_u8));
    let gone = loading(id, &snapshot.id);
    subnet.refuse(
        "load_canister_snapshot",
        &gone,
        305,
        "Could not find the snapshot ID",
    );
    let gone = deleting(id, &snapshot.id);
    subnet.refuse(
        "delete_canister_snapshot",
        &gone,
        305,
        "Could not find the snapshot ID",
    );
}

#[test]
fn snapshots_go_to_other_canisters_and_have_owners() {
    let subnet = Subnet::new();
    let id = counting(&subnet, 7, None);
    let empty = subnet.create(8, None);
    let refused = taking(empty, None);
    subnet.refuse(
        "take_canister_snapshot",
        &refused,
        406,
        "Failed to create snapshot for empty canister",
    );
    let snapshot = take(&subnet, id);
    let wrong = deleting(empty, &snapshot.id);
    subnet.refuse(
        "delete_canister_snapshot",
        &wrong,
        406,
        "does not belong to canister",
    );
    let wrong = taking(id, Some(vec![1]));
    subnet.refuse(
        "take_canister_snapshot",
        &wrong,
        305,
        "Could not find the snapshot ID 01",
    );
    subnet.run("load_canister_snapshot", &loading(empty, &snapshot.id));
    assert_eq!(subnet.update(empty, "increment"), [2, 0, 0, 0]);
    let info = subnet.info(empty);
    let Some(ChangeDetails::LoadSnapshot(load)) = &info.recent_changes[1].details else {
        panic!("it was loaded")
    };
    assert_eq!(load.from_canister_id, Some(id));
    let controllers = CanisterSettings {
        controllers: Some(vec![other()]),
        ..Default::default()
    };
    let settings = UpdateSettingsArgs {
        canister_id: id,
        settings: controllers,
        sender_canister_version: None,
    };
    subnet.run("update_settings", &settings);
    let foreign = loading(empty, &snapshot.id);
    subnet.refuse(
        "load_canister_snapshot",
        &foreign,
        512,
        "Only the controllers",
    );
    subnet.refuse(
        "take_canister_snapshot",
        &taking(id, None),
        512,
        "Only the controllers",
    );
}

#[test]
fn ten_snapshots_are_kept_and_one_can_be_replaced() {
    let subnet = Subnet::new();
    let id = counting(&subnet, 7, None);
    let first = take(&subnet, id);
    for _ in 1..10 {
        take(&subnet, id);
    }
    let text = "has reached the maximum number of snapshots allowed: 10";
    subnet.refuse("take_canister_snapshot", &taking(id, None), 406, text);
    let replacing = taking(id, Some(first.id.clone()));
    let new: Snapshot = subnet.get("take_canister_snapshot", &replacing);
    assert_ne!(new.id, first.id);
    let ids: Vec<Vec<u8>> = list(&subnet, id)
        .into_iter()
        .map(|snapshot| snapshot.id)
        .collect();
    assert_eq!(ids.len(), 10);
    assert!(ids.contains(&new.id) && !ids.contains(&first.id));
    let uninstalling = TakeCanisterSnapshotArgs {
        uninstall_code: Some(true),
        ..taking(id, Some(new.id))
    };
    let last: Snapshot = subnet.get("take_canister_snapshot", &uninstalling);
    let canister = subnet.canister(id);
    assert!(canister.state.installed.is_none());
    assert!(canister.state.certified_data.is_empty());
    let info = subnet.info(id);
    let change = info.recent_changes.last().expect("it was uninstalled");
    assert_eq!(change.details, Some(ChangeDetails::CodeUninstall));
    subnet.run("load_canister_snapshot", &loading(id, &last.id));
    assert_eq!(subnet.update(id, "increment"), [2, 0, 0, 0]);
}

/// Reads a memory of a snapshot in two pieces.
fn download(
    subnet: &Subnet,
    arguments: &ReadCanisterSnapshotMetadataArgs,
    size: u64,
    kind: impl Fn(u64, u64) -> SnapshotDataKind,
) -> Vec<u8> {
    let middle = size / 3;
    let parts = [(0, middle), (middle, size - middle)];
    let read = |(offset, size)| {
        let arguments = ReadCanisterSnapshotDataArgs {
            canister_id: arguments.canister_id,
            snapshot_id: arguments.snapshot_id.clone(),
            kind: kind(offset, size),
        };
        let data: ReadCanisterSnapshotDataResult =
            subnet.get("read_canister_snapshot_data", &arguments);
        assert_eq!(data.chunk.len() as u64, size);
        data.chunk
    };
    parts.map(read).concat()
}

fn metadata(
    canister_id: Principal,
    read: &ReadCanisterSnapshotMetadataResult,
) -> UploadCanisterSnapshotMetadataArgs {
    UploadCanisterSnapshotMetadataArgs {
        canister_id,
        replace_snapshot: None,
        wasm_module_size: read.wasm_module_size,
        globals: read.globals.iter().flatten().cloned().collect(),
        wasm_memory_size: read.wasm_memory_size,
        stable_memory_size: read.stable_memory_size,
        certified_data: read.certified_data.clone(),
        global_timer: read.global_timer.clone(),
        on_low_wasm_memory_hook_status: read.on_low_wasm_memory_hook_status.clone(),
    }
}

#[test]
fn snapshots_are_read_and_uploaded() {
    let subnet = Subnet::new();
    let id = counting(&subnet, 7, None);
    subnet.get::<ic_management_canister_types::ChunkHash>(
        "upload_chunk",
        &UploadChunkArgs {
            canister_id: id,
            chunk: b"chunk".to_vec(),
        },
    );
    let snapshot = take(&subnet, id);
    let of = ReadCanisterSnapshotMetadataArgs {
        canister_id: id,
        snapshot_id: snapshot.id.clone(),
    };
    let read: ReadCanisterSnapshotMetadataResult =
        subnet.get("read_canister_snapshot_metadata", &of);
    assert_eq!(read.wasm_memory_size, 2 * 65_536);
    assert_eq!(read.stable_memory_size, 65_536);
    assert_eq!(read.certified_data, [1, 0, 0, 0]);
    assert!(matches!(
        read.globals[..],
        [Some(SnapshotMetadataGlobal::I32(1))]
    ));
    assert!(matches!(read.global_timer, Some(CanisterTimer::Inactive)));
    let status = OnLowWasmMemoryHookStatus::ConditionNotSatisfied;
    assert!(
        matches!(&read.on_low_wasm_memory_hook_status, Some(found) if std::mem::discriminant(found) == std::mem::discriminant(&status))
    );
    let module = download(&subnet, &of, read.wasm_module_size, |offset, size| {
        SnapshotDataKind::WasmModule { offset, size }
    });
    assert_eq!(module, wat::parse_str(CANISTER).expect("a module"));
    let heap = download(&subnet, &of, read.wasm_memory_size, |offset, size| {
        SnapshotDataKind::WasmMemory { offset, size }
    });
    assert_eq!(heap[70_000..70_004], [1, 0, 0, 0]);
    let stable = download(&subnet, &of, read.stable_memory_size, |offset, size| {
        SnapshotDataKind::StableMemory { offset, size }
    });
    let data = |kind| ReadCanisterSnapshotDataArgs {
        canister_id: id,
        snapshot_id: snapshot.id.clone(),
        kind,
    };
    let hash = read.wasm_chunk_store[0].hash.clone();
    let chunk: ReadCanisterSnapshotDataResult = subnet.get(
        "read_canister_snapshot_data",
        &data(SnapshotDataKind::WasmChunk { hash }),
    );
    assert_eq!(chunk.chunk, b"chunk");
    let refused = [
        (
            SnapshotDataKind::WasmMemory {
                offset: 131_072,
                size: 1,
            },
            408,
            "Invalid subslice",
        ),
        (
            SnapshotDataKind::StableMemory {
                offset: u64::MAX,
                size: 1,
            },
            408,
            "Invalid subslice",
        ),
        (
            SnapshotDataKind::WasmModule {
                offset: 0,
                size: 2_000_001,
            },
            408,
            "Requested slice too large: 2000001 > 2000000",
        ),
        (
            SnapshotDataKind::WasmChunk { hash: vec![0; 32] },
            504,
            "was not found",
        ),
    ];
    for (kind, code, text) in refused {
        subnet.refuse("read_canister_snapshot_data", &data(kind), code, text);
    }
    let target = subnet.create(8, None);
    let upload: UploadCanisterSnapshotMetadataResult = subnet.get(
        "upload_canister_snapshot_metadata",
        &metadata(target, &read),
    );
    let put = |kind, chunk: &[u8]| UploadCanisterSnapshotDataArgs {
        canister_id: target,
        snapshot_id: upload.snapshot_id.clone(),
        kind,
        chunk: chunk.to_vec(),
    };
    let early = loading(target, &upload.snapshot_id);
    subnet.refuse("load_canister_snapshot", &early, 505, "module is not valid");
    let method = "upload_canister_snapshot_data";
    for (offset, part) in [(0, &module[..100]), (100, &module[100..])] {
        subnet.run(
            method,
            &put(SnapshotDataOffset::WasmModule { offset }, part),
        );
    }
    for (offset, part) in [(65_000, &heap[65_000..]), (0, &heap[..65_000])] {
        subnet.run(
            method,
            &put(SnapshotDataOffset::WasmMemory { offset }, part),
        );
    }
    let subnet = subnet.restarted();
    subnet.run(
        method,
        &put(SnapshotDataOffset::StableMemory { offset: 0 }, &stable),
    );
    subnet.run(method, &put(SnapshotDataOffset::WasmChunk, b"chunk"));
    let beyond = put(SnapshotDataOffset::StableMemory { offset: 1 }, &stable);
    subnet.refuse(method, &beyond, 408, "Invalid subslice");
    let beyond = put(SnapshotDataOffset::WasmModule { offset: 1 }, &module);
    subnet.refuse(method, &beyond, 408, "Invalid subslice");
    let taken = UploadCanisterSnapshotDataArgs {
        canister_id: id,
        snapshot_id: snapshot.id.clone(),
        ..put(SnapshotDataOffset::WasmChunk, b"other")
    };
    subnet.refuse(
        method,
        &taken,
        409,
        "Only canister snapshots created by metadata upload",
    );
    subnet.run("load_canister_snapshot", &early);
    let (from, to) = (subnet.canister(id), subnet.canister(target));
    let (from, to) = (&from.state, &to.state);
    let heap_of = |state: &lockstep_canister::state::CanisterState| {
        state.installed.as_ref().expect("code").heap.digest()
    };
    assert_eq!(heap_of(from), heap_of(to));
    assert_eq!(from.stable.digest(), to.stable.digest());
    assert_eq!(from.certified_data, to.certified_data);
    assert_eq!(subnet.update(target, "increment"), [2, 0, 0, 0]);
    let info = subnet.info(target);
    let Some(ChangeDetails::LoadSnapshot(load)) = &info.recent_changes[1].details else {
        panic!("it was loaded")
    };
    assert_eq!(load.source, SnapshotSource::MetadataUpload(Reserved));
}

#[test]
fn uploads_are_checked() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let none = || UploadCanisterSnapshotMetadataArgs {
        canister_id: id,
        replace_snapshot: None,
        wasm_module_size: 8,
        globals: Vec::new(),
        wasm_memory_size: 0,
        stable_memory_size: 0,
        certified_data: Vec::new(),
        global_timer: None,
        on_low_wasm_memory_hook_status: None,
    };
    let method = "upload_canister_snapshot_metadata";
    let too_wide = Nat::from(u128::MAX) + Nat::from(1_u8);
    let refused = [
        UploadCanisterSnapshotMetadataArgs {
            wasm_module_size: (100 << 20) + 1,
            ..none()
        },
        UploadCanisterSnapshotMetadataArgs {
            wasm_memory_size: 1,
            ..none()
        },
        UploadCanisterSnapshotMetadataArgs {
            wasm_memory_size: (6 << 30) + 65_536,
            ..none()
        },
        UploadCanisterSnapshotMetadataArgs {
            stable_memory_size: 1 << 60,
            ..none()
        },
        UploadCanisterSnapshotMetadataArgs {
            certified_data: vec![0; 33],
            ..none()
        },
        UploadCanisterSnapshotMetadataArgs {
            globals: vec![SnapshotMetadataGlobal::V128(too_wide)],
            ..none()
        },
    ];
    for metadata in refused {
        subnet.refuse(method, &metadata, 504, "Could not validate the settings");
    }
    let upload = |metadata, wasm: &str| {
        let uploaded: UploadCanisterSnapshotMetadataResult = subnet.get(method, &metadata);
        let module = UploadCanisterSnapshotDataArgs {
            canister_id: id,
            snapshot_id: uploaded.snapshot_id.clone(),
            kind: SnapshotDataOffset::WasmModule { offset: 0 },
            chunk: wat::parse_str(wasm).expect("a module"),
        };
        subnet.run("upload_canister_snapshot_data", &module);
        loading(id, &uploaded.snapshot_id)
    };
    let sized = |wasm: &str| UploadCanisterSnapshotMetadataArgs {
        wasm_module_size: wat::parse_str(wasm).expect("a module").len() as u64,
        ..none()
    };
    let global = "(module (global (mut f64) (f64.const 0)))";
    let globals = upload(sized(global), global);
    subnet.refuse("load_canister_snapshot", &globals, 408, "list of globals");
    let memory = "(module (memory 1 1))";
    let heap = upload(sized(memory), memory);
    subnet.refuse("load_canister_snapshot", &heap, 408, "size of Wasm memory");
    let module = "(module)";
    let status = UploadCanisterSnapshotMetadataArgs {
        on_low_wasm_memory_hook_status: Some(OnLowWasmMemoryHookStatus::Ready),
        ..sized(module)
    };
    let hook = upload(status, module);
    subnet.refuse(
        "load_canister_snapshot",
        &hook,
        408,
        "on_low_wasm_memory_hook_status",
    );
    let timer = UploadCanisterSnapshotMetadataArgs {
        globals: vec![SnapshotMetadataGlobal::F64(-0.0)],
        global_timer: Some(CanisterTimer::Active(u64::MAX)),
        ..sized(global)
    };
    let good = upload(timer, global);
    subnet.run("load_canister_snapshot", &good);
    let canister = subnet.canister(id);
    assert_eq!(canister.state.global_timer_ns, u64::MAX);
    let installed = canister.state.installed.as_ref().expect("code");
    let bits = lockstep_canister::state::GlobalValue::F64(1 << 63);
    assert_eq!(installed.globals, [bits]);
}

#[test]
fn snapshots_are_shown_to_whom_they_are_set_to() {
    let subnet = Subnet::new();
    for (index, visibility, visible) in [
        (7, SnapshotVisibility::Controllers, false),
        (8, SnapshotVisibility::Public, true),
        (9, SnapshotVisibility::AllowedViewers(vec![user()]), true),
        (10, SnapshotVisibility::AllowedViewers(Vec::new()), false),
    ] {
        let settings = CanisterSettings {
            controllers: Some(vec![other()]),
            snapshot_visibility: Some(visibility),
            ..Default::default()
        };
        let id = subnet.create(index, Some(settings));
        let metadata = ReadCanisterSnapshotMetadataArgs {
            canister_id: id,
            snapshot_id: vec![2],
        };
        let read = "read_canister_snapshot_metadata";
        if visible {
            assert!(list(&subnet, id).is_empty());
            subnet.refuse(read, &metadata, 305, "Could not find the snapshot ID 02");
        } else {
            subnet.refuse(
                "list_canister_snapshots",
                &record(id),
                512,
                "Only the controllers",
            );
            subnet.refuse(read, &metadata, 512, "Only the controllers");
        }
    }
}

#[test]
fn a_restarted_replica_goes_on_with_snapshots() {
    let (steady, restarted) = (Subnet::new(), Subnet::new());
    let mut snapshots = Vec::new();
    for subnet in [&steady, &restarted] {
        let id = counting(subnet, 7, None);
        snapshots.push(take(subnet, id).id);
        subnet.update(id, "increment");
        take(subnet, id);
    }
    assert_eq!(snapshots[0], snapshots[1]);
    let restarted = restarted.restarted();
    let id = canister_id(7);
    for subnet in [&steady, &restarted] {
        subnet.run("load_canister_snapshot", &loading(id, &snapshots[0]));
        subnet.run("delete_canister_snapshot", &deleting(id, &snapshots[0]));
        subnet.update(id, "increment");
    }
    let height = steady.replica.executed_height();
    assert_eq!(restarted.replica.executed_height(), height);
    assert_eq!(restarted.replica.root(height), steady.replica.root(height));
    let restarted = restarted.restarted();
    assert_eq!(restarted.replica.root(height), steady.replica.root(height));
}
