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
    for path in ["canisters", "sdk", "tools/wasm-target.sh"] {
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
    let setup = clean(Command::new("bash").arg(root.join("tools/wasm-target.sh")))
        .output()
        .expect("bash runs tools/wasm-target.sh");
    assert!(
        setup.status.success(),
        "the wasm32 target could not be set up:\n{}",
        String::from_utf8_lossy(&setup.stderr)
    );
    let toolchain = String::from_utf8(setup.stdout).expect("the toolchain's name is UTF-8");

    let mut cargo = Command::new("cargo");
    cargo
        .args(toolchain.split_whitespace())
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            "wasm32-unknown-unknown",
            "--package",
            package,
        ])
        .arg("--manifest-path")
        .arg(root.join("canisters/Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    let build = clean(&mut cargo).output().expect("cargo runs");
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

/// Removes what the outer build sets for the host and a build for wasm32 must not see.
fn clean(command: &mut Command) -> &mut Command {
    const NAMES: [&str; 10] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_MAKEFLAGS",
        "CARGO_TARGET_DIR",
        "MAKEFLAGS",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 4] = [
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PROFILE_",
    ];
    for (name, _) in env::vars_os() {
        let outer = name.to_str().is_some_and(|name| {
            NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        });
        if outer {
            command.env_remove(name);
        }
    }
    command
}
