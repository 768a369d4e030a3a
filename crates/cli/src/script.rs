//! `lockstep script`: runs a script of calls on a subnet in this process.

use crate::error::Failure;
use anyhow::{Context as _, Result};
use lockstep_driver::{
    Subnet,
    script::{ScriptError, run as run_script},
};
use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

/// Installs, calls and queries canisters as a file says, and prints one line per result.
///
/// Lines are `install|reinstall|upgrade CANISTER FILE ARGUMENT` and `ingress|query CANISTER METHOD
/// ARGUMENT`. CANISTER is a principal, or $n for the n-th canister that the script has created; ARGUMENT is a
/// quoted string with \xx for bytes, or 0x and hexadecimal.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The script; standard input when it is `-`.
    script: PathBuf,
}

/// Runs the command. A call that is rejected is a result like any other; a line that cannot be run is exit
/// code 1.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.script;
    let mut script = String::new();
    let folder = if path == Path::new("-") {
        io::stdin()
            .read_to_string(&mut script)
            .context("the script cannot be read from standard input")?;
        Path::new("")
    } else {
        script = fs::read_to_string(path).map_err(|error| {
            Failure::user(format_args!(
                "script {} cannot be read: {error}",
                path.display()
            ))
        })?;
        path.parent().unwrap_or(Path::new(""))
    };
    let mut output = io::stdout().lock();
    let result = run_script(&mut Subnet::new(), &script, folder, &mut output);
    output.flush()?;
    match result {
        Ok(()) => Ok(()),
        Err(ScriptError::Output(error)) => Err(error.into()),
        Err(error @ ScriptError::Line { .. }) => Err(Failure::user(error)
            .hint("`lockstep script --help` shows what a line may be")
            .into()),
        Err(ScriptError::Module { line, path, source }) => Err(Failure::user(format_args!(
            "line {line}: module {} cannot be read: {source}",
            path.display()
        ))
        .hint("files are looked for from the folder of the script")
        .into()),
    }
}
