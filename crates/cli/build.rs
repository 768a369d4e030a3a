//! Builds the Wasm modules that the binary carries: canisters, and the self-check.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The canisters, by package.
const CANISTERS: [&str; 4] = ["llm", "icp_ledger", "cycles_ledger", "cycles_minting"];

fn main() {
    let manifest =
        PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest
        .join("../..")
        .canonicalize()
        .expect("the crate lies in its workspace");
    for path in [
        "Cargo.lock",
        "canisters",
        "crates/guest",
        "crates/model/src",
        "crates/numeric/src",
        "sdk",
        "tools/target.sh",
        "tools/target-cargo.sh",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    // <target>/<profile>/build/<crate>/out: share a folder among profiles, it takes minutes to fill.
    let target = out
        .ancestors()
        .nth(4)
        .expect("OUT_DIR lies four levels below the target directory");
    let packages = CANISTERS.map(|name| format!("--package={name}"));
    let mut canister = vec!["build", "--manifest-path=canisters/Cargo.toml"];
    canister.extend(packages.iter().map(String::as_str));
    let canisters = build(&root, &target.join("canisters"), &canister);
    for name in CANISTERS {
        let file = format!("{name}.wasm");
        copy(&canisters.join(&file), &out.join(&file));
    }
    // Vector instructions as the kernels use them; entropy as the module defines it: none.
    let guest = [
        "rustc",
        "--package=lockstep-guest",
        "--lib",
        "--crate-type=cdylib",
        "--config=profile.release.panic='abort'",
        "--config=profile.release.strip=true",
        "--config=target.wasm32-unknown-unknown.rustflags=[\
            '-Ctarget-feature=+simd128', '--cfg=getrandom_backend=\"custom\"']",
    ];
    let guests = build(&root, &target.join("guest"), &guest);
    copy(&guests.join("lockstep_guest.wasm"), &out.join("guest.wasm"));
}

/// Runs cargo for wasm32 with a command and its arguments; returns the folder of the products.
fn build(root: &Path, target: &Path, arguments: &[&str]) -> PathBuf {
    let build = Command::new("bash")
        .current_dir(root)
        .args(["tools/target-cargo.sh", "wasm32-unknown-unknown"])
        .args(arguments)
        .args(["--release", "--locked", "--target-dir"])
        .arg(target)
        .output()
        .expect("bash runs tools/target-cargo.sh");
    assert!(
        build.status.success(),
        "Wasm module does not build: {}\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&build.stderr)
    );
    target.join("wasm32-unknown-unknown/release")
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
}
