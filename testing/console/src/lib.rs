//! Runs the console's tests, which are written in its own language.
//!
//! # Design
//! Sources and packages lie in a folder of the build's, as for the bundle: nothing is written into the source tree.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Status of the tools when something cannot be installed on this machine.
const UNAVAILABLE: i32 = 3;
const SOURCES: [&str; 8] = [
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "build.mjs",
    "index.html",
    "style.css",
    "src",
    "test",
];

/// The console with its packages and its bundled tests, ready to be run.
#[derive(Debug)]
pub struct Workspace {
    folder: PathBuf,
    /// The browser.
    pub chromium: String,
    // Held while the folder is in use: two tests at once would write the same files.
    _lock: File,
}

impl Workspace {
    /// Prepares a folder in `temporary`; nothing, after saying why, where Node.js, npm or Chromium are missing.
    ///
    /// # Panics
    /// Packages cannot be fetched, or the tests do not build.
    #[must_use]
    pub fn prepare(temporary: &Path) -> Option<Self> {
        let tools = Command::new("bash")
            .arg(lockstep_guests::root().join("tools/browser.sh"))
            .output()
            .expect("bash runs");
        if tools.status.code() == Some(UNAVAILABLE) {
            let reason = String::from_utf8_lossy(&tools.stderr);
            lockstep_guests::skip(&format!("the console's tests:\n{reason}"));
            return None;
        }
        let chromium = succeeded("tools/browser.sh", tools).trim().to_owned();
        let folder = temporary.join("console");
        fs::create_dir_all(&folder).expect("the folder of temporary files can be written");
        let lock = File::create(folder.join("lock")).expect("the folder was just made");
        lock.lock().expect("files can be locked");
        let workspace = Self {
            folder,
            chromium,
            _lock: lock,
        };
        workspace.copy_sources();
        workspace.install_packages();
        workspace.node(&["build.mjs", "tests"]);
        Some(workspace)
    }

    fn copy_sources(&self) {
        for folder in ["src", "test"] {
            // It may not be there yet.
            let _ = fs::remove_dir_all(self.folder.join(folder));
        }
        for source in SOURCES {
            let from = lockstep_guests::root().join("console").join(source);
            copy(&from, &self.folder.join(source));
        }
    }

    fn install_packages(&self) {
        let wanted = fs::read(self.folder.join("package-lock.json")).expect("it was just copied");
        let stamp = self.folder.join("installed-lock.json");
        if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
            return;
        }
        let installed = Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&self.folder)
            .output()
            .expect("npm runs");
        let _ = succeeded("npm ci", installed);
        fs::write(stamp, wanted).expect("the folder can be written");
    }

    /// A run of Node.js in the folder.
    #[must_use]
    pub fn node_command(&self) -> Command {
        let mut command = Command::new("node");
        command.current_dir(&self.folder).env(
            "LOCKSTEP_CANISTERS",
            lockstep_guests::root().join("canisters"),
        );
        command
    }

    /// Runs Node.js with arguments and returns what it printed.
    ///
    /// # Panics
    /// It fails.
    pub fn node(&self, arguments: &[&str]) -> String {
        let output = self.node_command().args(arguments).output();
        succeeded(&arguments.join(" "), output.expect("node runs"))
    }

    /// The bundled tests for Node.js's own runner.
    ///
    /// # Panics
    /// There are none.
    #[must_use]
    pub fn unit_tests(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join("dist-tests")).expect("tests were bundled");
        let mut tests: Vec<String> = entries
            .map(|entry| entry.expect("the folder can be read").file_name())
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.ends_with(".test.mjs"))
            .map(|name| format!("dist-tests/{name}"))
            .collect();
        tests.sort();
        assert!(!tests.is_empty(), "there are tests");
        tests
    }
}

/// What a program printed.
///
/// # Panics
/// It failed.
fn succeeded(what: &str, output: Output) -> String {
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{what} fails:\n{printed}\n{messages}"
    );
    printed
}

fn copy(from: &Path, to: &Path) {
    let failed = |error| panic!("copy {} to {}: {error}", from.display(), to.display());
    if !from.is_dir() {
        fs::copy(from, to).unwrap_or_else(failed);
        return;
    }
    fs::create_dir_all(to).expect("the folder of temporary files can be written");
    for entry in fs::read_dir(from).expect("sources can be read") {
        let name = entry.expect("sources can be read").file_name();
        copy(&from.join(&name), &to.join(&name));
    }
}
