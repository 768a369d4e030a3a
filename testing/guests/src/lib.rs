//! Builds packages of this workspace, and of that of the canisters, for other targets, from within tests.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Status of the tools when a target cannot be set up on this machine.
const UNAVAILABLE: i32 = 3;

/// The root of the repository that the running test belongs to. That is not where this crate was compiled: clones that
/// share a target directory share it.
///
/// # Panics
/// The test is not run by cargo.
#[must_use]
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs tests");
    let root = Path::new(&package)
        .ancestors()
        .find(|folder| folder.join("tools/target-cargo.sh").exists());
    root.expect("a package lies in its repository").to_owned()
}

/// Builds `package` for `target` below `folder`, `arguments` being those of cargo, its command first, and returns the
/// folder of the products; nothing, after saying why, where there is no such toolchain.
///
/// # Panics
/// The package does not build.
#[must_use]
pub fn build(target: &str, package: &str, arguments: &[&str], folder: &Path) -> Option<PathBuf> {
    build_in("Cargo.toml", target, package, arguments, folder)
}

/// As [`build`], for a package of the workspace whose manifest has this path, from the root of the repository.
///
/// # Panics
/// The package does not build.
#[must_use]
pub fn build_in(
    manifest: &str,
    target: &str,
    package: &str,
    arguments: &[&str],
    folder: &Path,
) -> Option<PathBuf> {
    let output = Command::new("bash")
        .arg(root().join("tools/target-cargo.sh"))
        .arg(target)
        .args(arguments)
        .args(["--release", "--locked", "--package", package])
        .arg("--manifest-path")
        .arg(root().join(manifest))
        .arg("--target-dir")
        .arg(folder)
        .output()
        .expect("bash runs");
    let messages = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(UNAVAILABLE) {
        skip(&format!("no {package} for {target}:\n{messages}"));
        return None;
    }
    assert!(
        output.status.success(),
        "no {package} for {target}:\n{messages}"
    );
    Some(folder.join(target).join("release"))
}

/// Says why a test does nothing, past the capture of a passing test's output, so that it is seen.
///
/// # Panics
/// Standard error is closed.
#[allow(clippy::explicit_write)] // `eprintln` is captured
pub fn skip(reason: &str) {
    writeln!(std::io::stderr(), "SKIPPED: {reason}").expect("standard error is open");
}
