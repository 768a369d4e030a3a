//! The `lockstep` binary: parse, call, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    lockstep_cli::main()
}
