//! Networks and clients that end with the test.
use lockstep_clients::Clients;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::OnceLock,
};
use tempfile::TempDir;

/// The clients; nothing where they cannot be installed.
pub(crate) fn clients() -> Option<&'static Clients> {
    static CLIENTS: OnceLock<Option<Clients>> = OnceLock::new();
    CLIENTS
        .get_or_init(|| Clients::install(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients")))
        .as_ref()
}

/// The counter's module; nothing where its target cannot be set up.
pub(crate) fn counter() -> Option<PathBuf> {
    // Where the build of the binary has built others.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../canisters");
    let products = lockstep_guests::build_in(
        "canisters/Cargo.toml",
        "wasm32-unknown-unknown",
        "counter",
        &["build"],
        &folder,
    )?;
    Some(products.join("counter.wasm"))
}

/// What a command that must succeed prints.
pub(crate) fn succeed(command: &mut Command) -> String {
    let (succeeded, printed) = run(command);
    assert!(succeeded, "{command:?}:\n{printed}");
    printed
}

/// Whether a command succeeds, and what it prints.
pub(crate) fn run(command: &mut Command) -> (bool, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the command can be run");
    let printed = [stdout, stderr].concat();
    (
        status.success(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

/// A process that does not outlive the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // One that has ended is only waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network of `lockstep up`.
pub(crate) struct Up {
    pub(crate) url: String,
    _process: Guarded,
    _directory: TempDir,
}

impl Up {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a folder can be made");
        let mut child = Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args([
                "up",
                "--builtin-canisters",
                "--json",
                "--port",
                "0",
                "--directory",
            ])
            .arg(directory.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let stdout = child.stdout.take().expect("it is piped");
        let process = Guarded(child);
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("it prints a line when it is ready");
        let ready: serde_json::Value = serde_json::from_str(&line).expect("the line is JSON");
        Self {
            url: ready["replicas"][0]
                .as_str()
                .expect("an address")
                .to_owned(),
            _process: process,
            _directory: directory,
        }
    }
}

/// Ends the processes that were started with arguments below a folder, by their ids.
pub(crate) struct Reaper(pub(crate) PathBuf);

impl Reaper {
    /// The ids of those that run.
    pub(crate) fn running(&self) -> Vec<String> {
        let folder = self.0.to_str().expect("the path is text");
        let processes = fs::read_dir("/proc").expect("processes can be listed");
        processes
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()))
            .filter(|id| {
                // One that ends meanwhile has no arguments.
                let arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&arguments).contains(folder)
            })
            .collect()
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        for id in self.running() {
            let _ = Command::new("kill").args(["-9", &id]).status();
        }
    }
}
