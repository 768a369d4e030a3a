//! Settings: their limits, what they show, and what they let others see.
use super::{Subnet, other, record, user};
use crate::support::{CANISTER, certify, install};
use candid::Nat;
use ic_management_canister_types::{
    CanisterInstallMode, CanisterSettings, CanisterStatusResult, ChangeDetails,
    EnvironmentVariable, LogVisibility, SnapshotVisibility, StatusVisibility, UpdateSettingsArgs,
};
use ic_principal::Principal;
use sha2::{Digest, Sha256};

fn update(canister_id: Principal, settings: CanisterSettings) -> UpdateSettingsArgs {
    UpdateSettingsArgs {
        canister_id,
        settings,
        sender_canister_version: None,
    }
}

fn nat(value: u128) -> Option<Nat> {
    Some(Nat::from(value))
}

fn principals(count: u8) -> Vec<Principal> {
    (0..count)
        .map(|index| Principal::self_authenticating([index]))
        .collect()
}

fn variable(name: &str, value: &str) -> EnvironmentVariable {
    EnvironmentVariable {
        name: name.into(),
        value: value.into(),
    }
}

#[test]
fn every_setting_is_kept_and_shown() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let defaults = subnet.status(id).settings;
    assert_eq!(defaults.controllers, [user()]);
    assert_eq!(defaults.freezing_threshold, Nat::from(2_592_000_u32));
    assert_eq!(
        defaults.reserved_cycles_limit,
        Nat::from(5_000_000_000_000_u64)
    );
    assert_eq!(defaults.log_memory_limit, Nat::from(4096_u32));
    assert_eq!(defaults.log_visibility, LogVisibility::Controllers);
    let settings = CanisterSettings {
        controllers: Some([vec![user()], principals(9)].concat()),
        compute_allocation: nat(100),
        memory_allocation: nat(1 << 30),
        freezing_threshold: nat(1000),
        reserved_cycles_limit: nat(u128::MAX),
        minimum_incoming_canister_call_cycles: nat(u128::MAX),
        log_visibility: Some(LogVisibility::AllowedViewers(principals(10))),
        log_memory_limit: nat(2_097_152),
        snapshot_visibility: Some(SnapshotVisibility::Public),
        status_visibility: Some(StatusVisibility::AllowedViewers(vec![other()])),
        wasm_memory_limit: nat(1 << 48),
        wasm_memory_threshold: nat(1 << 48),
        environment_variables: Some(vec![variable("b", "2"), variable("a", &"x".repeat(128))]),
    };
    subnet.run("update_settings", &update(id, settings.clone()));
    let subnet = subnet.restarted();
    let status = subnet.status(id);
    let shown = status.settings;
    let mut controllers = settings.controllers.expect("given");
    controllers.sort();
    assert_eq!(shown.controllers, controllers);
    assert_eq!(shown.compute_allocation, Nat::from(100_u8));
    assert_eq!(shown.memory_allocation, Nat::from(1_u32 << 30));
    assert_eq!(shown.freezing_threshold, Nat::from(1000_u32));
    assert_eq!(shown.reserved_cycles_limit, Nat::from(u128::MAX));
    assert_eq!(
        shown.minimum_incoming_canister_call_cycles,
        Nat::from(u128::MAX)
    );
    let LogVisibility::AllowedViewers(viewers) = shown.log_visibility else {
        panic!("viewers were given")
    };
    assert_eq!(viewers.len(), 10);
    assert_eq!(shown.log_memory_limit, Nat::from(2_097_152_u32));
    assert_eq!(shown.snapshot_visibility, SnapshotVisibility::Public);
    assert_eq!(
        shown.status_visibility,
        StatusVisibility::AllowedViewers(vec![other()])
    );
    assert_eq!(shown.wasm_memory_limit, Nat::from(1_u64 << 48));
    assert_eq!(shown.wasm_memory_threshold, Nat::from(1_u64 << 48));
    let variables = [variable("a", &"x".repeat(128)), variable("b", "2")];
    assert_eq!(shown.environment_variables, variables);
    // 1 GiB and a whole core, for a day.
    let day = 86_400 * (127_000 + 100 * 10_000_000_u64);
    assert_eq!(status.idle_cycles_burned_per_day, Nat::from(day));
    assert_eq!(status.version, 1);
    subnet.run("update_settings", &update(id, CanisterSettings::default()));
    let again = subnet.status(id).settings;
    assert_eq!(
        again.wasm_memory_limit,
        Nat::from(1_u64 << 48),
        "what is not given stays"
    );
}

#[test]
fn limits_hold_to_the_one() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let before = subnet.canister(id).state.settings.clone();
    let none = CanisterSettings::default;
    let refused = [
        (
            CanisterSettings {
                compute_allocation: nat(101),
                ..none()
            },
            504,
            "ComputeAllocation expected to be in the range [0..100], got 101",
        ),
        (
            CanisterSettings {
                memory_allocation: nat(1 << 64),
                ..none()
            },
            504,
            "MemoryAllocation expected to be in the range",
        ),
        (
            CanisterSettings {
                memory_allocation: nat(1),
                ..none()
            },
            402,
            "Canister was given 1 bytes memory allocation but at least",
        ),
        (
            CanisterSettings {
                memory_allocation: nat(3 << 40),
                ..none()
            },
            101,
            "of memory but only",
        ),
        (
            CanisterSettings {
                freezing_threshold: nat(1 << 64),
                ..none()
            },
            504,
            "Freezing threshold expected to be in the range of [0..2^64-1]",
        ),
        (
            CanisterSettings {
                wasm_memory_limit: nat((1 << 48) + 1),
                ..none()
            },
            504,
            "Wasm memory limit expected",
        ),
        (
            CanisterSettings {
                wasm_memory_threshold: nat((1 << 48) + 1),
                ..none()
            },
            504,
            "Wasm memory threshold expected",
        ),
        (
            CanisterSettings {
                log_memory_limit: nat(1),
                ..none()
            },
            504,
            "Log memory limit expected",
        ),
        (
            CanisterSettings {
                log_memory_limit: nat(4095),
                ..none()
            },
            504,
            "Log memory limit expected",
        ),
        (
            CanisterSettings {
                log_memory_limit: nat(2_097_153),
                ..none()
            },
            504,
            "Log memory limit expected",
        ),
        (
            CanisterSettings {
                controllers: Some(principals(11)),
                ..none()
            },
            408,
            "exceeds maximum allowed 10",
        ),
        (
            CanisterSettings {
                log_visibility: Some(LogVisibility::AllowedViewers(principals(11))),
                ..none()
            },
            408,
            "exceeds maximum allowed 10",
        ),
        (
            CanisterSettings {
                environment_variables: Some(
                    (0..21)
                        .map(|index| variable(&index.to_string(), ""))
                        .collect(),
                ),
                ..none()
            },
            408,
            "Too many environment variables: 21 (max: 20)",
        ),
        (
            CanisterSettings {
                environment_variables: Some(vec![variable(&"n".repeat(129), "")]),
                ..none()
            },
            408,
            "Environment variable name",
        ),
        (
            CanisterSettings {
                environment_variables: Some(vec![variable("n", &"v".repeat(129))]),
                ..none()
            },
            408,
            "Environment variable value",
        ),
        (
            CanisterSettings {
                environment_variables: Some(vec![variable("n", "1"), variable("n", "2")]),
                ..none()
            },
            408,
            "Duplicate environment variables are not allowed",
        ),
    ];
    for (settings, code, text) in refused {
        subnet.refuse("update_settings", &update(id, settings), code, text);
    }
    let too_much = Some(Nat::from(u128::MAX) + Nat::from(1_u8));
    let cycles = [
        CanisterSettings {
            reserved_cycles_limit: too_much.clone(),
            ..none()
        },
        CanisterSettings {
            minimum_incoming_canister_call_cycles: too_much,
            ..none()
        },
    ];
    for settings in cycles {
        let text = "expected to be in the range of [0..2^128-1]";
        subnet.refuse("update_settings", &update(id, settings), 504, text);
    }
    let canister = subnet.canister(id);
    assert_eq!(canister.state.settings, before, "nothing was changed");
    assert_eq!(canister.state.version, 0);
    let accepted = [
        CanisterSettings {
            log_memory_limit: nat(0),
            ..none()
        },
        CanisterSettings {
            memory_allocation: nat(0),
            ..none()
        },
        CanisterSettings {
            freezing_threshold: nat(0),
            ..none()
        },
        CanisterSettings {
            controllers: Some(Vec::new()),
            ..none()
        },
    ];
    for settings in accepted {
        subnet.run("update_settings", &update(id, settings));
    }
    let last = update(id, none());
    subnet.refuse("update_settings", &last, 512, "Only the controllers");
}

#[test]
fn what_is_allocated_must_be_paid_for_and_there() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    // 100 T cycles last for a whole core for a bit more than a day.
    let core = CanisterSettings {
        compute_allocation: nat(100),
        ..Default::default()
    };
    let text = "Cannot increase compute allocation to 100% due to insufficient cycles";
    subnet.refuse("update_settings", &update(id, core.clone()), 530, text);
    let memory = CanisterSettings {
        memory_allocation: nat(1 << 40),
        ..Default::default()
    };
    let text =
        "Cannot increase memory allocation to 1099511627776 bytes due to insufficient cycles";
    subnet.refuse("update_settings", &update(id, memory), 531, text);
    let soon = CanisterSettings {
        freezing_threshold: nat(0),
        ..core
    };
    subnet.run("update_settings", &update(id, soon.clone()));
    for index in 8..11 {
        subnet.create(index, Some(soon.clone()));
    }
    let fifth = subnet.create(11, None);
    let text = "cannot be satisfied because the Subnet's remaining compute capacity is 0%";
    subnet.refuse("update_settings", &update(fifth, soon), 101, text);
}

#[test]
fn a_heap_does_not_exceed_its_limit() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let limit = |bytes| {
        let settings = CanisterSettings {
            wasm_memory_limit: nat(bytes),
            ..Default::default()
        };
        update(id, settings)
    };
    subnet.run("update_settings", &limit(2 * 65_536 - 1));
    let call = install(id, CanisterInstallMode::Install, CANISTER, 1_000);
    crate::support::step(&subnet.replica, vec![call]);
    assert!(
        subnet.canister(id).state.installed.is_none(),
        "its heap is too large"
    );
    subnet.run("update_settings", &limit(2 * 65_536));
    let call = install(id, CanisterInstallMode::Install, CANISTER, 1_001);
    crate::support::step(&subnet.replica, vec![call]);
    assert!(subnet.canister(id).state.installed.is_some());
    subnet.refuse(
        "update_settings",
        &limit(65_536),
        504,
        "below the 131072 bytes",
    );
}

#[test]
fn the_status_is_for_whom_it_is_set_to() {
    let subnet = Subnet::new();
    let hidden = CanisterSettings {
        controllers: Some(vec![other()]),
        ..Default::default()
    };
    let id = subnet.create(7, Some(hidden.clone()));
    subnet.refuse("canister_status", &record(id), 512, "Only the controllers");
    let refused = subnet.query::<CanisterStatusResult>(user(), "canister_status", &record(id));
    assert_eq!(refused.expect_err("it is hidden").error_code, 512);
    let by_query = subnet.query::<CanisterStatusResult>(other(), "canister_status", &record(id));
    assert_eq!(
        by_query.expect("a controller").settings.controllers,
        [other()]
    );
    let viewers = StatusVisibility::AllowedViewers(vec![user()]);
    for visibility in [StatusVisibility::Public, viewers] {
        let shown = CanisterSettings {
            status_visibility: Some(visibility),
            ..hidden.clone()
        };
        let id = subnet.create(subnet.calls.get() + 100, Some(shown));
        assert_eq!(subnet.status(id).settings.controllers, [other()]);
    }
}

#[test]
fn parts_of_the_memory_add_up() {
    let subnet = Subnet::new();
    let id = subnet.create(7, None);
    let call = install(id, CanisterInstallMode::Install, CANISTER, 1_000);
    crate::support::step(&subnet.replica, vec![call]);
    let _ = subnet.send(id, "fail", Vec::new());
    certify(&subnet.replica);
    let status = subnet.status(id);
    let parts = status.memory_metrics;
    assert_eq!(parts.wasm_memory_size, Nat::from(2 * 65_536_u32));
    assert_eq!(parts.stable_memory_size, Nat::from(65_536_u32));
    assert_eq!(parts.global_memory_size, Nat::from(8_u8));
    assert!(parts.log_memory_store_size > 0_u8);
    let sum = parts.wasm_memory_size
        + parts.stable_memory_size
        + parts.global_memory_size
        + parts.wasm_binary_size
        + parts.custom_sections_size
        + parts.canister_history_size
        + parts.wasm_chunk_store_size
        + parts.snapshots_size
        + parts.log_memory_store_size;
    assert_eq!(status.memory_size, sum);
}

#[test]
fn changes_name_controllers_and_variables() {
    let subnet = Subnet::new();
    let settings = CanisterSettings {
        environment_variables: Some(vec![variable("name", "value")]),
        ..Default::default()
    };
    let id = subnet.create(7, Some(settings));
    let info = subnet.info(id);
    let Some(ChangeDetails::Creation(creation)) = &info.recent_changes[0].details else {
        panic!("it was created")
    };
    let pair = [Sha256::digest("name"), Sha256::digest("value")].concat();
    let hash = Sha256::digest(pair).to_vec();
    assert_eq!(creation.environment_variables_hash, Some(hash));
    let controllers = CanisterSettings {
        controllers: Some(vec![other(), user()]),
        ..Default::default()
    };
    subnet.run("update_settings", &update(id, controllers));
    subnet.run("update_settings", &update(id, CanisterSettings::default()));
    let info = subnet.info(id);
    assert_eq!(info.total_num_changes, 2, "only controllers are recorded");
    assert_eq!(info.recent_changes[1].canister_version, 1);
    let Some(ChangeDetails::ControllersChange(change)) = &info.recent_changes[1].details else {
        panic!("it got controllers")
    };
    assert_eq!(change.controllers, info.controllers);
    assert_eq!(info.controllers.len(), 2);
}
