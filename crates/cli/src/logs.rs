//! What the process tells about itself while it runs: `tracing` events, to stderr.
use crate::error::Failure;
use anyhow::Result;
use clap::ValueEnum;
use std::{
    env,
    io::{IsTerminal, stderr},
};
use tracing_subscriber::{EnvFilter, fmt};

/// Which events are written, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Events to write: a level (error, warn, info, debug, trace), or levels by part, as in
    /// `warn,lockstep_gateway=info`, which writes a line for every request.
    #[arg(
        long = "log",
        value_name = "FILTER",
        default_value = "error,lockstep=warn"
    )]
    filter: String,
    /// How to write them.
    #[arg(long = "log-format", value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Writes events from now on; once in a process.
pub(crate) fn start(options: &Options) -> Result<()> {
    let filter = EnvFilter::try_new(&options.filter)
        .map_err(|error| Failure::user(format!("not a filter of events: {error}")))?;
    let events = fmt().with_env_filter(filter).with_writer(stderr);
    let started = match options.format {
        Format::Text => {
            let colours = stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            events.with_ansi(colours).try_init()
        }
        Format::Json => events.json().with_ansi(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot write events: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_are_none_are_refused() {
        let options = Options {
            filter: "lockstep=loud".into(),
            format: Format::Json,
        };
        let error = start(&options).expect_err("there is no such level");
        assert!(error.to_string().starts_with("not a filter of events: "));
    }
}
