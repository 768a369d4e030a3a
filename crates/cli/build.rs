//! Builds the canisters that the binary carries, for wasm32.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let manifest =
        PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let root = manifest
        .join("../..")
        .canonicalize()
        .expect("the crate lies in its workspace");
    for path in [
        "canisters",
        "sdk",
        "tools/target.sh",
        "tools/target-cargo.sh",
    ] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    // <target>/<profile>/build/<crate>/out: share one folder among profiles, it takes minutes to fill.
    let target = out
        .ancestors()
        .nth(4)
        .expect("OUT_DIR lies four levels below the target directory")
        .join("canisters");
    let wasm = build(&root, &target, "llm");
    fs::copy(&wasm, out.join("llm.wasm"))
        .unwrap_or_else(|error| panic!("copy {}: {error}", wasm.display()));
}

/// Builds one canister and returns its Wasm file.
fn build(root: &Path, target: &Path, package: &str) -> PathBuf {
    let build = Command::new("bash")
        .arg(root.join("tools/target-cargo.sh"))
        .args([
            "wasm32-unknown-unknown",
            "build",
            "--release",
            "--locked",
            "--package",
            package,
        ])
        .arg("--manifest-path")
        .arg(root.join("canisters/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .expect("bash runs tools/target-cargo.sh");
    assert!(
        build.status.success(),
        "canister {package} does not build:\n{}",
        String::from_utf8_lossy(&build.stderr)
    );
    target
        .join("wasm32-unknown-unknown/release")
        .join(package)
        .with_extension("wasm")
}
