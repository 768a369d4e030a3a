//! The console in a headless browser, on four replicas of the real binary.
//!
//! `LOCKSTEP_SCREENSHOT=FILE` makes pictures of it.

mod support;

use lockstep_console_testing::Workspace;
use lockstep_model::fixture;
use serde_json::{Value, json};
use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};
use support::lockstep;

/// A process that ends with the test, however the test ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A subnet of four replicas, and their addresses.
fn up(data: &Path) -> (Ended, Value) {
    let model = data.join("tiny.gguf");
    fs::write(&model, fixture::tiny_llama(1).build()).unwrap();
    let mut command = lockstep(data);
    command
        .args(["up", "--port", "0", "--json", "--model"])
        .arg(model)
        .arg("--directory")
        .arg(data.join("network"))
        .stdout(Stdio::piped());
    let mut subnet = Ended(command.spawn().expect("the binary runs"));
    let mut line = String::new();
    let printed = subnet.0.stdout.take().expect("it is piped");
    BufReader::new(printed).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).expect("it says when it is ready");
    (subnet, ready["replicas"].clone())
}

/// The module of the ledger canister; nothing, after saying why, where it cannot be built.
fn ledger(temporary: &Path) -> Option<String> {
    let (manifest, target) = ("canisters/Cargo.toml", "wasm32-unknown-unknown");
    let folder = temporary.join("canisters");
    let products = lockstep_guests::build_in(manifest, target, "ledger", &["build"], &folder)?;
    let module = products.join("ledger.wasm");
    Some(module.to_str().expect("paths are text").to_owned())
}

#[test]
fn the_console_shows_calls_verifies_and_refuses() {
    let temporary = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let Some(workspace) = Workspace::prepare(temporary) else {
        return;
    };
    let Some(ledger) = ledger(temporary) else {
        return;
    };
    let data = tempfile::tempdir().unwrap();
    let (_subnet, replicas) = up(data.path());
    let setting = json!({
        "replicas": replicas,
        "ledger": ledger,
        "chromium": workspace.chromium,
        "screenshot": env::var("LOCKSTEP_SCREENSHOT").ok(),
    });
    let mut command: Command = workspace.node_command();
    command
        .args(["dist-tests/browser.mjs", &setting.to_string()])
        .stdout(Stdio::piped());
    // Ends the browser, too: it ends when nobody speaks to it any more.
    let mut browser = Ended(command.spawn().expect("node runs"));
    let output = browser.0.stdout.take().expect("it is piped");
    let printed = io::read_to_string(output).unwrap();
    let status = browser.0.wait().unwrap();
    assert!(status.success(), "{printed}");
    assert!(printed.contains("the console works"), "{printed}");
}
