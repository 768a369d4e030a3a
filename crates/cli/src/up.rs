//! `lockstep up`: a subnet in this process, served until it is told to stop.

use crate::{
    builtin,
    error::Failure,
    logs,
    network::{Directory, Network, Options, READINESS_PERIOD},
    resident,
    stop::{Stop, Watched},
    store,
};
use anyhow::{Context as _, Result};
use std::{ops::ControlFlow, path::PathBuf, time::Duration};

/// Starts a subnet.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Number of replicas.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=13))]
    replicas: u32,
    /// Port of the first replica's gateway; the others take the ports after it. 0 takes free ones.
    #[arg(long, default_value_t = 4943)]
    port: u16,
    /// Where state is kept; a network that was there continues.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Resident models, by file, alias or digest. A network keeps those that it was started with.
    #[arg(long = "model")]
    models: Vec<String>,
    /// Install the ledgers and the minting canister that `icp` expects, for development: everybody has their tokens.
    #[arg(long)]
    builtin_canisters: bool,
    /// Print one JSON object with the addresses and the root key when ready.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    logs: logs::Options,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    logs::start(&arguments.logs)?;
    if arguments
        .port
        .checked_add(arguments.replicas as u16)
        .is_none()
    {
        return Err(Failure::user(format!(
            "no {} ports follow port {}",
            arguments.replicas, arguments.port
        ))
        .into());
    }
    let models = resident::open_named(&arguments.models)?;
    let directory = match &arguments.directory {
        Some(directory) => directory.clone(),
        None => store::data_directory()?.join("network"),
    };
    let options = Options {
        replicas: arguments.replicas,
        port: arguments.port,
        models,
        diverse: false,
    };
    let network = Network::start(Directory::take(&directory)?, options)?;
    serve(network, arguments.builtin_canisters, |network| {
        announce(network, arguments.json, &directory.display().to_string());
        Ok(())
    })
}

/// Lets the network work until it is told to stop. `announce` is called when it is ready, which is after the built-in
/// canisters are there if they are wanted.
pub(crate) fn serve(
    network: Network,
    with_builtins: bool,
    announce: impl FnOnce(&Network) -> Result<()>,
) -> Result<()> {
    let mut stop = Stop::new(network.runtime())?;
    if network.wait_until_ready(&mut stop)? == Watched::Done
        && (!with_builtins || install(&network, &mut stop)? == Watched::Done)
    {
        announce(&network)?;
        stop.watch(network.runtime(), Duration::from_secs(1), || {
            network.check().map(ControlFlow::Continue)
        })?;
    }
    eprintln!("stopping");
    network.stop()
}

/// Installs the built-in canisters, unless the process is to end or a replica fails before.
fn install(network: &Network, stop: &mut Stop) -> Result<Watched> {
    let url = network.url(0).context("the first replica runs")?.to_owned();
    let installation = network
        .runtime()
        .spawn(async move { builtin::install(&url).await });
    let watched = stop.watch(network.runtime(), READINESS_PERIOD, || {
        network.check()?;
        Ok(if installation.is_finished() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    if watched == Watched::Done {
        network.runtime().block_on(installation)??;
    }
    Ok(watched)
}

fn announce(network: &Network, json: bool, directory: &str) {
    let urls: Vec<&str> = (0..network.count())
        .filter_map(|index| network.url(index))
        .collect();
    if json {
        let ready = serde_json::json!({
            "directory": directory,
            "replicas": urls,
            "root_key": hex::encode(network.root_key()),
        });
        println!("{ready}");
        return;
    }
    for (index, url) in urls.iter().enumerate() {
        println!("replica {index}: {url}");
    }
    eprintln!("state in {directory}; stop with ctrl-c");
}
