//! Motoko canisters as their compilers make them: for 32-bit memories, and for 64-bit memories that
//! upgrades keep.
mod matmul;

use crate::support::{anonymous, wasm};
use candid::{
    CandidType, Nat, Principal, decode_one, encode_args, encode_one, utils::ArgumentEncoder,
};
use ic_management_canister_types::{UpgradeFlags, WasmMemoryPersistence};
use lockstep_driver::Subnet;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const COMPILERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/motoko");
const COUNTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/motoko/counter.mo");

/// Modules by compiler and source.
static COMPILED: Mutex<BTreeMap<(&str, &str), &[u8]>> = Mutex::new(BTreeMap::new());

/// A source compiled by one of the compilers; nothing, after saying why, where there is no npm.
fn compile(version: &'static str, source: &'static str) -> Option<&'static [u8]> {
    // One at a time: they share a folder.
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = compiled.get(&(version, source)) {
        return Some(module);
    }
    let folder = install_compilers()?;
    let output = folder.join("output.wasm");
    let run = Command::new("node")
        .args(["compile.mjs", version, source])
        .arg(&output)
        .current_dir(&folder)
        .output()
        .expect("node comes with npm");
    let messages = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.success(),
        "{source} does not compile:\n{messages}"
    );
    let module: &[u8] = fs::read(output).expect("it was just written").leak();
    compiled.insert((version, source), module);
    Some(module)
}

/// The folder of the compilers.
fn install_compilers() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("motoko");
    fs::create_dir_all(&folder).expect("the folder of temporary files can be written");
    for file in ["package.json", "package-lock.json", "compile.mjs"] {
        fs::copy(Path::new(COMPILERS).join(file), folder.join(file)).expect("files can be copied");
    }
    if folder.join("node_modules/enhanced").exists() {
        return Some(folder);
    }
    let installed = Command::new("npm").arg("ci").current_dir(&folder).output();
    match installed {
        Err(error) => {
            lockstep_guests::skip(&format!("no Motoko: npm does not run: {error}"));
            None
        }
        Ok(output) => {
            let messages = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "npm ci fails:\n{messages}");
            Some(folder)
        }
    }
}

struct Counter {
    subnet: Subnet,
    id: Principal,
}

impl Counter {
    fn call<T: CandidType + for<'a> candid::Deserialize<'a>>(
        &mut self,
        method: &str,
        arguments: impl ArgumentEncoder,
    ) -> T {
        let arguments = encode_args(arguments).unwrap();
        let reply = self.subnet.update(self.id, anonymous(), method, &arguments);
        decode_one(&reply.unwrap()).unwrap()
    }

    fn get(&self) -> Nat {
        let nothing = encode_args(()).unwrap();
        let reply = self.subnet.query(self.id, anonymous(), "get", &nothing);
        decode_one(&reply.unwrap()).unwrap()
    }
}

fn canister_works_and_survives_upgrades(version: &'static str, flags: Option<UpgradeFlags>) {
    let Some(module) = compile(version, COUNTER) else {
        return;
    };
    let start = encode_one(Nat::from(40_u8)).unwrap();
    let mut subnet = Subnet::new();
    let id = subnet.create_canister();
    subnet.install(id, module, &start).unwrap();
    let peer = subnet.create_canister();
    subnet.install(peer, module, &start).unwrap();
    let mut counter = Counter { subnet, id };
    assert_eq!(counter.call::<Nat>("increase", (Nat::from(1_u8),)), 41_u8);
    let printed = counter.subnet.take_printed();
    assert_eq!(printed.last().unwrap().text, "count 41");

    // A call to another canister, and one that fails and is caught.
    let visited: String = counter.call("visit", (peer.to_text(),));
    let expected = format!(
        "42 IC0503: Error from Canister {peer}: Canister called `ic0.trap` with message: 'boom'"
    );
    assert!(visited.starts_with(&expected), "{visited}");

    // A composite query reads the other canister.
    let arguments = encode_args((peer.to_text(),)).unwrap();
    let sum = counter.subnet.query(id, anonymous(), "sum", &arguments);
    assert_eq!(decode_one::<Nat>(&sum.unwrap()).unwrap(), 83_u8);

    // An upgrade keeps what is stable.
    let same = encode_one(Nat::from(0_u8)).unwrap();
    counter.subnet.upgrade(id, module, &same, flags).unwrap();
    let printed = counter.subnet.take_printed();
    assert_eq!(printed.last().unwrap().text, "saved [\"41\"]");
    assert_eq!(counter.get(), 41_u8);

    // A timer.
    let arguments = encode_args((5_u64, Nat::from(100_u8))).unwrap();
    counter
        .subnet
        .update(id, anonymous(), "later", &arguments)
        .unwrap();
    counter.subnet.advance_time(Duration::from_secs(4));
    counter.subnet.tick();
    counter.subnet.settle();
    assert_eq!(counter.get(), 41_u8);
    counter.subnet.advance_time(Duration::from_secs(2));
    counter.subnet.tick();
    counter.subnet.settle();
    assert_eq!(counter.get(), 141_u8);
}

#[test]
fn a_canister_with_a_32_bit_memory_works_and_survives_upgrades() {
    canister_works_and_survives_upgrades("classical", None);
}

#[test]
fn a_canister_with_a_64_bit_memory_works_and_survives_upgrades() {
    let keep = UpgradeFlags {
        skip_pre_upgrade: None,
        wasm_memory_persistence: Some(WasmMemoryPersistence::Keep),
    };
    canister_works_and_survives_upgrades("enhanced", Some(keep));
}

#[test]
fn upgrades_of_kept_heaps_name_what_is_missing() {
    let Some(module) = compile("enhanced", COUNTER) else {
        return;
    };
    let start = encode_one(Nat::from(1_u8)).unwrap();
    let mut subnet = Subnet::new();
    let id = subnet.create_canister();
    subnet.install(id, module, &start).unwrap();
    let error = subnet.upgrade(id, module, &start, None).unwrap_err();
    assert!(error.message.contains("Missing upgrade option"), "{error}");
    let Some(other) = wasm() else { return };
    let keep = UpgradeFlags {
        skip_pre_upgrade: None,
        wasm_memory_persistence: Some(WasmMemoryPersistence::Keep),
    };
    let error = subnet.upgrade(id, other, b"", Some(keep)).unwrap_err();
    assert!(error.message.contains("Invalid upgrade option"), "{error}");
}
