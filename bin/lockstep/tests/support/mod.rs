//! Runs the binary.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    path::Path,
    process::{Command, Output},
};

/// The binary with its data in `data`, machine-readable surroundings, and no inherited choices.
pub(crate) fn lockstep(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command
        .env("LOCKSTEP_DATA", data)
        .env("NO_COLOR", "1")
        .env_remove("LOCKSTEP_ISA");
    command
}

/// A folder with a small model in `tiny.gguf`, also for the data.
pub(crate) fn with_model() -> tempfile::TempDir {
    let data = tempfile::tempdir().expect("there is room for a folder");
    let model = lockstep_model::fixture::tiny_llama(5).build();
    std::fs::write(data.path().join("tiny.gguf"), model).expect("and for a small file");
    data
}

/// The binary with the user's own data directory, so that the model is fetched once.
pub(crate) fn lockstep_with_models() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    command.env("NO_COLOR", "1").env_remove("LOCKSTEP_ISA");
    command
}

/// Exit code, then stdout, then stderr.
pub(crate) fn report(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("the binary runs");
    let code = status
        .code()
        .map_or("none".to_owned(), |code| code.to_string());
    format!(
        "exit code: {code}\n{}{}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    )
}

/// Runs a command that must succeed and reads its stdout as JSON.
pub(crate) fn json(command: &mut Command) -> serde_json::Value {
    let output = command.output().expect("the binary runs");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON object")
}
