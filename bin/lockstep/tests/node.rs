//! What `lockstep genesis` writes, and what `lockstep node` refuses to start with.
#![cfg(unix)]

mod support;

use insta::assert_snapshot;
use serde_json::Value;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};
use support::{json, lockstep, report};
use tempfile::TempDir;

/// A command that runs in `directory`, so that messages have no paths of their own.
fn inside(directory: &Path) -> Command {
    let mut command = lockstep(&directory.join("data"));
    command.current_dir(directory);
    command
}

/// A subnet of two in `genesis/`, its first node at `address`, and what was said about it.
fn dealt_at(address: &str) -> (TempDir, Value) {
    let directory = tempfile::tempdir().unwrap();
    let nodes = format!("{address},node-1.example:9982");
    let report = json(inside(directory.path()).args(["genesis", "--json", "--nodes", &nodes]));
    (directory, report)
}

fn dealt() -> (TempDir, Value) {
    dealt_at("127.0.0.1:9981")
}

fn node(directory: &Path) -> Command {
    node_at(directory, "127.0.0.1:0")
}

fn node_at(directory: &Path, http: &str) -> Command {
    let mut command = inside(directory);
    command.args(["node", "--genesis", "genesis", "--directory", "state"]);
    command.args(["--http", http, "--threads", "1"]);
    command
}

#[test]
fn genesis_writes_what_all_share_and_a_secret_for_each() {
    let (directory, report) = dealt();
    let files = directory.path().join("genesis");
    let mode = |name: &str| fs::metadata(files.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("node-0.json"), 0o600);
    assert_eq!(mode("node-1.json"), 0o600);
    assert_eq!(mode("subnet.json"), 0o644);
    let public = fs::read_to_string(files.join("subnet.json")).unwrap();
    let public: Value = serde_json::from_str(&public).unwrap();
    assert_eq!(public["version"], 3);
    assert_eq!(public["nodes"][1]["address"], "node-1.example:9982");
    let root_key = report["root_key"].as_str().unwrap();
    assert!(root_key.ends_with(public["public_key"].as_str().unwrap()));
}

#[test]
fn genesis_does_not_overwrite_keys() {
    let (directory, _) = dealt();
    fs::remove_file(directory.path().join("genesis/subnet.json")).unwrap();
    fs::remove_file(directory.path().join("genesis/node-0.json")).unwrap();
    assert_snapshot!(report(inside(directory.path()).args(["genesis", "--nodes", "127.0.0.1:1"])), @r"
    exit code: 1
    error: there are keys already: genesis/node-1.json
    hint: choose another directory with --directory
    ");
}

#[test]
fn genesis_wants_different_addresses_that_peers_can_connect_to() {
    let directory = tempfile::tempdir().unwrap();
    assert_snapshot!(report(inside(directory.path()).args(["genesis", "--nodes", "10.0.0.1:1,10.0.0.1:1"])), @r"
    exit code: 1
    error: 2 nodes need as many different addresses
    ");
    assert_snapshot!(report(inside(directory.path()).args(["genesis", "--nodes", "10.0.0.1:1,0.0.0.0:1"])), @r"
    exit code: 2
    error: invalid value '0.0.0.0:1' for '--nodes <HOST:PORT,...>': not an address HOST:PORT that peers can connect to: 0.0.0.0:1

    For more information, try '--help'.
    ");
    assert!(!directory.path().join("genesis").exists());
}

#[test]
fn node_refuses_a_genesis_or_keys_that_are_none() {
    let (directory, _) = dealt();
    let path = directory.path();
    assert_snapshot!(report(inside(path).args(["node", "--genesis", "nowhere", "--keys", "x", "--directory", "state"])), @r"
    exit code: 1
    error: cannot access key file: nowhere: No such file or directory (os error 2)
    hint: make one with lockstep genesis
    ");
    fs::rename(path.join("genesis"), path.join("other")).unwrap();
    json(inside(path).args(["genesis", "--json", "--nodes", "127.0.0.1:9981"]));
    assert_snapshot!(report(node(path).args(["--keys", "other/node-0.json"])), @r"
    exit code: 1
    error: malformed key file other/node-0.json: the subnet has no such node
    ");
    let own = path.join("genesis/node-0.json");
    fs::set_permissions(&own, fs::Permissions::from_mode(0o644)).unwrap();
    assert_snapshot!(report(node(path).args(["--keys", "genesis/node-0.json"])), @r"
    exit code: 1
    error: everybody on this machine can read the secret key file: genesis/node-0.json
    ");
    assert!(!path.join("state").exists());
}

#[test]
fn node_says_which_port_is_taken() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let address = format!("127.0.0.1:{port}");
    json(inside(path).args(["genesis", "--json", "--nodes", &address]));
    let keys = ["--keys", "genesis/node-0.json"];
    let peers = report(node(path).args(keys));
    let expected =
        format!("error: cannot listen for other nodes on {address}: Address already in use");
    assert!(
        peers.starts_with("exit code: 3\n") && peers.contains(&expected),
        "{peers}"
    );
    let clients = report(node_at(path, &address).args(keys));
    let expected = format!("error: cannot listen for clients on {address}: Address already in use");
    assert!(
        clients.starts_with("exit code: 3\n") && clients.contains(&expected),
        "{clients}"
    );
}

#[test]
fn node_refuses_state_of_another_genesis_and_models_that_are_not_there() {
    // A port that is taken lets no node start that should not.
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (directory, _) = dealt_at(&address);
    let path = directory.path();
    let keys = ["--keys", "genesis/node-0.json"];
    let file = path.join("genesis/subnet.json");
    let text = fs::read_to_string(&file).unwrap();
    let models = format!("\"models\": {{ \"small\": \"{}\" }}", "ab".repeat(32));
    fs::write(&file, text.replace("\"models\": {}", &models)).unwrap();
    let missing = report(node(path).args(keys));
    let expected = format!(
        "error: model small of the genesis is not here: {}\n",
        "ab".repeat(32)
    );
    assert!(
        missing.starts_with("exit code: 1\n") && missing.contains(&expected),
        "{missing}"
    );

    // The state of the genesis as it was is made before the port is looked at.
    fs::write(&file, &text).unwrap();
    let made = report(node(path).args(keys));
    assert!(made.contains("cannot listen for other nodes"), "{made}");
    let (other, _) = dealt_at(&address);
    let again = report(
        inside(other.path())
            .args([
                "node",
                "--genesis",
                "genesis",
                "--http",
                "127.0.0.1:0",
                "--keys",
            ])
            .arg("genesis/node-0.json")
            .arg("--directory")
            .arg(path.join("state")),
    );
    assert!(again.starts_with("exit code: 1\n"), "{again}");
    assert!(
        again.contains("belongs to a subnet with another genesis"),
        "{again}"
    );
}
