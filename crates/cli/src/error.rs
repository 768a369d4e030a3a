//! Failures as the command line reports them: what went wrong, a hint, an exit code by kind.

use lockstep_model::file::ReadError;
use std::{fmt, process::ExitCode};

/// Who can mend a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The user's input: a name, a file, a value. Exit code 1.
    User,
    /// The surroundings: network, disk, a port in use. Exit code 3 (2 is a usage error of the parser).
    Environment,
    /// Nobody before it is known why: this replica has computed something else than the others. Exit code 4.
    Halted,
}

/// A failure with a hint.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure that the user's input caused.
    pub(crate) fn user(message: impl fmt::Display) -> Self {
        Self {
            kind: Kind::User,
            message: message.to_string(),
            hint: None,
        }
    }

    /// A failure of the surroundings.
    pub(crate) fn environment(message: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Environment,
            message: message.to_string(),
            hint: None,
        }
    }

    /// A replica that cannot go on with the state that it has.
    pub(crate) fn halted(message: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Halted,
            message: message.to_string(),
            hint: None,
        }
    }

    /// Adds what to try.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::user(chain(error))
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: impl std::error::Error + Send + Sync + 'static) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// Prints the chain of causes and the hint to stderr; returns the exit code. A broken pipe is silent
/// success: the reader had enough.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {error:#}");
    let failure = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Failure>());
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_ref()) {
        eprintln!("hint: {hint}");
    }
    match failure.map(|failure| failure.kind) {
        Some(Kind::User) => ExitCode::from(1),
        Some(Kind::Environment) => ExitCode::from(3),
        Some(Kind::Halted) => ExitCode::from(4),
        None => ExitCode::from(255),
    }
}
