//! A canister's settings: their limits, and how they are shown.
use super::invalid_payload;
use crate::state::Reject;
use candid::Nat;
use ic_management_canister_types::{
    CanisterSettings, DefiniteCanisterSettings, EnvironmentVariable, LogVisibility,
    SnapshotVisibility, StatusVisibility,
};
use ic_principal::Principal;
use lockstep_canister::{
    engine::Cycles,
    state::{CanisterState, Visibility},
};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Most principals in a list: of controllers or of viewers.
const PRINCIPALS_MAX: usize = 10;
/// Most bytes of a limit or a threshold of the heap.
const WASM_MEMORY_MAX: u64 = 1 << 48;
/// Least and most bytes of a log that is kept at all.
const LOG_BYTES: (u64, u64) = (4096, 2 * 1024 * 1024);
/// Most environment variables.
const VARIABLES_MAX: usize = 20;
/// Most bytes of the name and of the value of a variable.
const VARIABLE_BYTES_MAX: usize = 128;

/// Changes what `given` says about a canister that is not in its place yet.
pub(super) fn apply(given: CanisterSettings, canister: &mut CanisterState) -> Result<(), Reject> {
    if let Some(controllers) = given.controllers {
        canister.controllers = principals(controllers)?;
    }
    let settings = &mut canister.settings;
    if let Some(percent) = given.compute_allocation {
        let percent = bounded("ComputeAllocation", "range", &percent, 100, "100")?;
        settings.compute_allocation = percent as u8;
    }
    let memory_allocation = given.memory_allocation.map(|bytes| {
        let most = u64::MAX.to_string();
        bounded("MemoryAllocation", "range", &bytes, u64::MAX, &most)
    });
    let memory_allocation = memory_allocation.transpose()?;
    settings.memory_allocation = memory_allocation.unwrap_or(settings.memory_allocation);
    if let Some(seconds) = given.freezing_threshold {
        settings.freezing_threshold_s = bounded(
            "Freezing threshold",
            "range of",
            &seconds,
            u64::MAX,
            "2^64-1",
        )?;
    }
    if let Some(cycles) = given.reserved_cycles_limit {
        settings.reserved_cycles_limit = amount("Reserved cycles limit", &cycles)?;
    }
    if let Some(cycles) = given.minimum_incoming_canister_call_cycles {
        settings.minimum_call_cycles = amount("Minimum incoming canister call cycles", &cycles)?;
    }
    let heap = |name, bytes: &Nat| bounded(name, "range of", bytes, WASM_MEMORY_MAX, "2^48");
    if let Some(bytes) = given.wasm_memory_limit {
        settings.wasm_memory_limit = heap("Wasm memory limit", &bytes)?;
    }
    if let Some(bytes) = given.wasm_memory_threshold {
        settings.wasm_memory_threshold = heap("Wasm memory threshold", &bytes)?;
    }
    if let Some(bytes) = given.log_memory_limit {
        settings.log_memory_limit = log_memory_limit(&bytes)?;
    }
    if let Some(visibility) = given.log_visibility {
        settings.log_visibility = match visibility {
            LogVisibility::Controllers => Visibility::Controllers,
            LogVisibility::Public => Visibility::Public,
            LogVisibility::AllowedViewers(viewers) => Visibility::Allowed(principals(viewers)?),
        };
    }
    if let Some(visibility) = given.snapshot_visibility {
        settings.snapshot_visibility = match visibility {
            SnapshotVisibility::Controllers => Visibility::Controllers,
            SnapshotVisibility::Public => Visibility::Public,
            SnapshotVisibility::AllowedViewers(viewers) => {
                Visibility::Allowed(principals(viewers)?)
            }
        };
    }
    if let Some(visibility) = given.status_visibility {
        settings.status_visibility = match visibility {
            StatusVisibility::Controllers => Visibility::Controllers,
            StatusVisibility::Public => Visibility::Public,
            StatusVisibility::AllowedViewers(viewers) => Visibility::Allowed(principals(viewers)?),
        };
    }
    if let Some(list) = given.environment_variables {
        settings.environment_variables = variables(list)?;
    }
    check_memory(canister, memory_allocation)
}

/// What is set must leave room for what is there.
fn check_memory(canister: &CanisterState, allocation: Option<u64>) -> Result<(), Reject> {
    let (used, heap) = (canister.memory_bytes(), canister.heap_bytes());
    if let Some(given) = allocation.filter(|given| (1..used).contains(given)) {
        let text = format!(
            "Canister was given {given} bytes memory allocation but at least {used} bytes of memory is needed."
        );
        return Err(Reject::new(402, text));
    }
    let limit = canister.settings.wasm_memory_limit;
    if (1..heap).contains(&limit) {
        let text = format!(
            "Could not validate the settings: Wasm memory limit of {limit} bytes is below the {heap} bytes of Wasm memory in use"
        );
        return Err(Reject::new(504, text));
    }
    Ok(())
}

fn bounded(name: &str, range: &str, value: &Nat, most: u64, shown: &str) -> Result<u64, Reject> {
    let number = u64::try_from(&value.0).ok();
    number.filter(|number| *number <= most).ok_or_else(|| {
        let text = format!("{name} expected to be in the {range} [0..{shown}], got {value}");
        Reject::new(504, text)
    })
}

fn amount(name: &str, value: &Nat) -> Result<Cycles, Reject> {
    Cycles::try_from(&value.0).map_err(|_| {
        let text = format!("{name} expected to be in the range of [0..2^128-1], got {value}");
        Reject::new(504, text)
    })
}

fn log_memory_limit(value: &Nat) -> Result<u64, Reject> {
    let (least, most) = LOG_BYTES;
    let bytes = u64::try_from(&value.0).ok();
    let is_valid = |bytes: &u64| *bytes == 0 || (least..=most).contains(bytes);
    bytes.filter(is_valid).ok_or_else(|| {
        let text = format!(
            "Log memory limit expected to be 0 or in the range of [{least}..{most}], got {value}"
        );
        Reject::new(504, text)
    })
}

fn principals(list: Vec<Principal>) -> Result<BTreeSet<Principal>, Reject> {
    if list.len() > PRINCIPALS_MAX {
        let text = format!(
            "Deserialize error: The number of elements exceeds maximum allowed {PRINCIPALS_MAX}"
        );
        return Err(invalid_payload(&text));
    }
    Ok(list.into_iter().collect())
}

fn variables(list: Vec<EnvironmentVariable>) -> Result<BTreeMap<String, String>, Reject> {
    let refused = |text: String| Err(Reject::new(408, text));
    let count = list.len();
    if count > VARIABLES_MAX {
        return refused(format!(
            "Too many environment variables: {count} (max: {VARIABLES_MAX})"
        ));
    }
    let mut variables = BTreeMap::new();
    for EnvironmentVariable { name, value } in list {
        for (what, text) in [("name", &name), ("value", &value)] {
            if text.len() > VARIABLE_BYTES_MAX {
                return refused(format!(
                    "Environment variable {what} \"{text}\" exceeds the maximum allowed length of {VARIABLE_BYTES_MAX}."
                ));
            }
        }
        if variables.insert(name, value).is_some() {
            return refused("Duplicate environment variables are not allowed".into());
        }
    }
    Ok(variables)
}

/// Representation-independent hash of a map from names to values.
pub(super) fn hash_of_variables(variables: &BTreeMap<String, String>) -> [u8; 32] {
    let mut pairs: Vec<Vec<u8>> = variables
        .iter()
        .map(|(name, value)| [Sha256::digest(name), Sha256::digest(value)].concat())
        .collect();
    pairs.sort();
    Sha256::digest(pairs.concat()).into()
}

/// All settings of a canister.
pub(super) fn definite(canister: &CanisterState) -> DefiniteCanisterSettings {
    let settings = &canister.settings;
    let viewers = |set: &BTreeSet<Principal>| set.iter().copied().collect();
    let variables = settings.environment_variables.iter();
    DefiniteCanisterSettings {
        controllers: canister.controllers.iter().copied().collect(),
        compute_allocation: settings.compute_allocation.into(),
        memory_allocation: settings.memory_allocation.into(),
        freezing_threshold: settings.freezing_threshold_s.into(),
        reserved_cycles_limit: settings.reserved_cycles_limit.into(),
        minimum_incoming_canister_call_cycles: settings.minimum_call_cycles.into(),
        log_visibility: match &settings.log_visibility {
            Visibility::Controllers => LogVisibility::Controllers,
            Visibility::Public => LogVisibility::Public,
            Visibility::Allowed(set) => LogVisibility::AllowedViewers(viewers(set)),
        },
        log_memory_limit: settings.log_memory_limit.into(),
        snapshot_visibility: match &settings.snapshot_visibility {
            Visibility::Controllers => SnapshotVisibility::Controllers,
            Visibility::Public => SnapshotVisibility::Public,
            Visibility::Allowed(set) => SnapshotVisibility::AllowedViewers(viewers(set)),
        },
        status_visibility: match &settings.status_visibility {
            Visibility::Controllers => StatusVisibility::Controllers,
            Visibility::Public => StatusVisibility::Public,
            Visibility::Allowed(set) => StatusVisibility::AllowedViewers(viewers(set)),
        },
        wasm_memory_limit: settings.wasm_memory_limit.into(),
        wasm_memory_threshold: settings.wasm_memory_threshold.into(),
        environment_variables: variables
            .map(|(name, value)| EnvironmentVariable {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
    }
}
