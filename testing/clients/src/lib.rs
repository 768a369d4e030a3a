//! The clients of the Internet Computer that tests run against a network: the JavaScript agent, the command line `icp`,
//! and a Motoko compiler for what they deploy. Their versions are those of `package-lock.json`.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

/// The command line, below the folder that [`install`] returns.
const ICP: &str = "node_modules/@icp-sdk/icp-cli-linux-x64/bin/icp";
/// Installations in one process wait for each other.
static INSTALLING: Mutex<()> = Mutex::new(());

/// This package: `agent` checks with the JavaScript agent, `project` is deployed by `icp`.
#[must_use]
pub fn sources() -> PathBuf {
    lockstep_guests::root().join("testing/clients")
}

/// Clients that are installed.
#[derive(Debug)]
pub struct Clients {
    folder: PathBuf,
}

impl Clients {
    /// Installs them below `folder`, which keeps them for later; nothing, after saying why, where there is no npm, or no
    /// `icp` for this machine.
    ///
    /// # Panics
    /// The folder cannot be written, or the packages cannot be fetched.
    #[must_use]
    pub fn install(folder: &Path) -> Option<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            lockstep_guests::skip("no clients: their package is for Linux on x86-64");
            return None;
        }
        let _one_at_a_time = INSTALLING.lock();
        fs::create_dir_all(folder).expect("the folder of temporary files can be written");
        let lock = "package-lock.json";
        let is_installed = folder.join(ICP).exists()
            && fs::read(folder.join(lock)).ok() == fs::read(sources().join(lock)).ok();
        for file in ["package.json", lock, "compile.mjs"] {
            fs::copy(sources().join(file), folder.join(file)).expect("files are copied");
        }
        copy_folder(&sources().join("agent"), &folder.join("agent"));
        let clients = Self {
            folder: folder.to_owned(),
        };
        if is_installed {
            return Some(clients);
        }
        match Command::new("npm").arg("ci").current_dir(folder).output() {
            Err(error) => {
                lockstep_guests::skip(&format!("no clients: npm does not run: {error}"));
                None
            }
            Ok(output) => {
                let messages = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "npm ci fails:\n{messages}");
                Some(clients)
            }
        }
    }

    /// Where `compile.mjs` compiles Motoko.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The command line `icp`.
    #[must_use]
    pub fn icp(&self) -> PathBuf {
        self.folder.join(ICP)
    }

    /// A script of `agent`, to be run by node.
    #[must_use]
    pub fn agent(&self, script: &str) -> Command {
        let mut command = Command::new("node");
        command.arg(self.folder.join("agent").join(script));
        command
    }
}

/// Copies the files of a folder.
///
/// # Panics
/// They cannot be read or written.
pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("files are copied");
    }
}
