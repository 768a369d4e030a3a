//! The form in which the command line `icp` starts a network: `lockstep --interface-version 1.1.0 --state-dir DIR …`.
//!
//! # Design
//! `ICP_CLI_NETWORK_LAUNCHER_PATH` names this binary; `icp network start` runs it without subcommand, waits for
//! `status.json` in the status directory, and ends it by an interrupt. The network has one replica, whose state does not
//! outlive it: each start begins anew.
//!
//! # Errors
//! Flags that are unknown are left aside, as the protocol grows by flags. Another major version of the protocol, a flag
//! without its value and an address that is not this machine's own are errors.
use crate::{
    error::Failure,
    network::{Directory, Network, Options},
    up,
};
use anyhow::{Context, Result};
use std::{
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

const VERSION_FLAG: &str = "--interface-version";
/// The major version of the protocol that this is.
const VERSION_MAJOR: &str = "1";
/// Where the network lies in the state directory; nothing else there is touched.
const FOLDER: &str = "lockstep";
/// A canister that any call about no canister can name.
const EFFECTIVE_CANISTER: &str = "rwlgt-iiaaa-aaaaa-aaaaa-cai";

/// What `icp` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    state: PathBuf,
    status: PathBuf,
    /// 0 takes a free one.
    port: u16,
}

impl Arguments {
    /// What the process's arguments ask for; nothing, if they are not of this form.
    ///
    /// # Errors
    /// Values that make no sense.
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Option<Self>> {
        let arguments: Vec<String> = arguments
            .skip(1)
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let is_ours = arguments
            .first()
            .is_some_and(|first| first.split('=').next() == Some(VERSION_FLAG));
        if !is_ours {
            return Ok(None);
        }
        let mut parsed = Self::default();
        let mut rest = arguments.into_iter();
        while let Some(argument) = rest.next() {
            let (flag, value) = match argument.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || {
                let value = value.clone().or_else(|| rest.next());
                value.ok_or_else(|| Failure::user(format!("{flag} takes a value")))
            };
            match flag {
                VERSION_FLAG => check_version(&value()?)?,
                "--state-dir" => parsed.state = value()?.into(),
                "--status-dir" => parsed.status = value()?.into(),
                "--gateway-port" => {
                    let port = value()?;
                    parsed.port = port
                        .parse()
                        .map_err(|_| Failure::user(format!("not a port: {port}")))?;
                }
                "--bind" => check_address(&value()?)?,
                _ => {}
            }
        }
        for (flag, path) in [
            ("--state-dir", &parsed.state),
            ("--status-dir", &parsed.status),
        ] {
            if path.as_os_str().is_empty() {
                return Err(Failure::user(format!("{flag} is missing")).into());
            }
        }
        Ok(Some(parsed))
    }
}

fn check_version(version: &str) -> Result<()> {
    if version.split('.').next() == Some(VERSION_MAJOR) {
        return Ok(());
    }
    Err(Failure::user(format!(
        "unknown version of the launcher's interface: {version}"
    ))
    .into())
}

fn check_address(address: &str) -> Result<()> {
    let is_own = match address.parse::<IpAddr>() {
        Ok(address) => address == Ipv4Addr::LOCALHOST,
        Err(_) => address == "localhost",
    };
    if is_own {
        return Ok(());
    }
    Err(Failure::user(format!("cannot listen on {address}"))
        .hint("a network in one process serves this machine alone: bind to 127.0.0.1")
        .into())
}

/// Starts the network, says so, and serves until interrupted.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let directory = Directory::take(&arguments.state.join(FOLDER))?;
    directory.clear()?;
    let options = Options {
        replicas: 1,
        port: arguments.port,
        models: Vec::new(),
        diverse: false,
    };
    let network = Network::start(directory, options)?;
    up::serve(network, true, |network| {
        announce(network, &arguments.status)
    })
}

/// Writes the file that `icp` waits for.
fn announce(network: &Network, status_directory: &Path) -> Result<()> {
    let url = network.url(0).context("the replica runs")?;
    let port: u16 = url
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .context("the address ends in a port")?;
    let status = serde_json::json!({
        "v": "1",
        "gateway_port": port,
        "root_key": hex::encode(network.root_key()),
        "instance_id": null,
        "config_port": null,
        "default_effective_canister_id": EFFECTIVE_CANISTER,
        "supported_features": [],
    });
    let path = status_directory.join("status.json");
    fs::write(&path, format!("{status}\n")).map_err(|error| {
        Failure::environment(format!("cannot write {}: {error}", path.display()))
    })?;
    eprintln!("network at {url}; stop with ctrl-c");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Arguments>> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn the_form_that_icp_uses_is_understood() {
        let arguments = [
            "lockstep",
            "--interface-version",
            "1.1.0",
            "--state-dir",
            "/state",
            "--bind",
            "127.0.0.1",
            "--gateway-port",
            "8000",
            "--status-dir=/status",
            "--verbose",
            "--ii",
            "--subnet=system",
            "--domain=localhost",
            "--unheard-of",
        ];
        let expected = Arguments {
            state: "/state".into(),
            status: "/status".into(),
            port: 8000,
        };
        assert_eq!(parse(&arguments).unwrap(), Some(expected));
    }

    #[test]
    fn other_forms_are_left_to_subcommands() {
        assert_eq!(parse(&["lockstep"]).unwrap(), None);
        assert_eq!(parse(&["lockstep", "up", "--port", "1"]).unwrap(), None);
        let later = ["lockstep", "run", "m", "--interface-version"];
        assert_eq!(parse(&later).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let refusal = |rest: &[&str]| {
            let arguments = [&["lockstep", "--interface-version"], rest].concat();
            parse(&arguments).unwrap_err().to_string()
        };
        assert_eq!(refusal(&[]), "--interface-version takes a value");
        assert_eq!(
            refusal(&["2.0.0"]),
            "unknown version of the launcher's interface: 2.0.0"
        );
        assert_eq!(refusal(&["1.0.0"]), "--state-dir is missing");
        assert_eq!(
            refusal(&["1.0.0", "--state-dir", "/state"]),
            "--status-dir is missing"
        );
        assert_eq!(
            refusal(&["1.0.0", "--gateway-port", "70000"]),
            "not a port: 70000"
        );
        assert_eq!(
            refusal(&["1.0.0", "--bind", "0.0.0.0"]),
            "cannot listen on 0.0.0.0"
        );
    }
}
