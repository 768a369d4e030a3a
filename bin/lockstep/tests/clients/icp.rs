//! The command line `icp`.
use crate::support::{Reaper, Up, clients, counter, run, succeed};
use lockstep_clients::{Clients, copy_folder, sources};
use std::{fs, path::PathBuf, process::Command};
use tempfile::TempDir;

/// A project with a canister in Rust and one in Motoko, and a user of her own.
struct Project {
    folder: TempDir,
    icp: PathBuf,
    motoko: PathBuf,
    counter: PathBuf,
    environment: &'static str,
    _reaper: Reaper,
}

impl Project {
    fn new(clients: &Clients, counter: PathBuf, environment: &'static str, url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        copy_folder(&sources().join("project"), folder.path());
        let manifest = folder.path().join("icp.yaml");
        let text = fs::read_to_string(&manifest).expect("it was just copied");
        fs::write(&manifest, text.replace("NETWORK_URL", url)).expect("it can be written");
        let reaper = Reaper(folder.path().to_owned());
        let project = Self {
            folder,
            icp: clients.icp(),
            motoko: clients.folder().to_owned(),
            counter,
            environment,
            _reaper: reaper,
        };
        project.icp(&["identity", "new", "alice", "--storage", "plaintext"]);
        project.icp(&["identity", "default", "alice"]);
        project
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.icp);
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path().join("home"))
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env("DO_NOT_TRACK", "1")
            .env("NO_COLOR", "1")
            .env("ICP_ENVIRONMENT", self.environment)
            .env(
                "ICP_CLI_NETWORK_LAUNCHER_PATH",
                env!("CARGO_BIN_EXE_lockstep"),
            )
            .env("COUNTER_WASM", &self.counter)
            .env("MOTOKO", &self.motoko);
        command
    }

    /// What `icp` prints, which must succeed.
    fn icp(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    fn call(&self, arguments: &[&str]) -> String {
        let arguments = [&["canister", "call"], arguments].concat();
        self.icp(&arguments)
    }
}

/// What a developer does with a network, from the first deployment to an upgrade.
fn develop(project: &Project) {
    project.icp(&["deploy"]);
    assert!(
        project
            .call(&["counter", "increase", "(2 : nat)"])
            .contains("(42 : nat)")
    );
    let value = project.call(&["counter", "get", "()", "--query"]);
    assert!(value.contains("(42 : nat)"), "{value}");
    let alice = project.icp(&["identity", "principal"]);
    let caller = project.call(&["counter", "whoami_certified", "()"]);
    assert!(caller.contains(alice.trim()), "{alice} {caller}");
    assert!(
        project
            .call(&["notes", "add", "(\"first\")"])
            .contains("(1 : nat)")
    );

    let status = project.icp(&["canister", "status", "counter"]);
    assert!(status.contains("Running"), "{status}");
    assert!(status.contains(alice.trim()), "{status}");
    let public = project.icp(&["canister", "status", "counter", "--public"]);
    assert!(public.contains(alice.trim()), "{public}");
    let interface = project.icp(&["canister", "metadata", "counter", "candid:service"]);
    assert!(interface.contains("whoami_certified"), "{interface}");

    // The second deployment upgrades: what canisters have stays.
    project.icp(&["deploy"]);
    assert!(
        project
            .call(&["counter", "get", "()", "--query"])
            .contains("(42 : nat)")
    );
    let notes = project.call(&["notes", "list", "()", "--query"]);
    assert!(notes.contains("first"), "{notes}");

    project.icp(&["canister", "top-up", "counter", "--amount", "1t"]);
    project.icp(&["canister", "stop", "notes"]);
    let (succeeded, printed) =
        run(&mut project.command(&["canister", "call", "notes", "list", "()"]));
    assert!(!succeeded && printed.contains("IC0508"), "{printed}");
    project.icp(&["canister", "start", "notes"]);
    assert!(project.call(&["notes", "list", "()"]).contains("first"));
}

#[test]
fn icp_starts_a_network_of_this_binary_and_deploys_to_it() {
    let (Some(clients), Some(counter)) = (clients(), counter()) else {
        return;
    };
    let project = Project::new(clients, counter, "local", "http://127.0.0.1:1");
    project.icp(&["network", "start", "-d"]);
    assert!(project.icp(&["network", "ping"]).contains("healthy"));
    let balance = project.icp(&["cycles", "balance"]);
    assert!(balance.contains("1_000"), "{balance}");
    let balance = project.icp(&["token", "balance"]);
    assert!(balance.contains("1000000.00000000 ICP"), "{balance}");
    develop(&project);
    project.icp(&["network", "stop"]);
    assert!(
        project._reaper.running().is_empty(),
        "the network is still there"
    );
}

#[test]
fn icp_deploys_to_a_network_that_runs() {
    let (Some(clients), Some(counter)) = (clients(), counter()) else {
        return;
    };
    let network = Up::start(&[]);
    let project = Project::new(clients, counter, "running", &network.url);
    let alice = project.icp(&["identity", "principal"]);
    // Everybody can speak for the anonymous principal, who has cycles.
    project.icp(&[
        "cycles",
        "transfer",
        "100t",
        alice.trim(),
        "--identity",
        "anonymous",
    ]);
    develop(&project);
}
