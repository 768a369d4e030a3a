//! `lockstep up`: a subnet in this process, served until interrupted.

use crate::{
    error::Failure,
    logs,
    network::{Network, Options},
    pull,
    run::open,
    store::{self, Store},
};
use anyhow::Result;
use std::{path::PathBuf, time::Duration};

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
    /// Resident models, by file, alias or digest.
    #[arg(long = "model", default_values_t = [pull::SMOLLM2.alias.to_owned()])]
    models: Vec<String>,
    /// Print one JSON object with the addresses when ready.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    logs: logs::Options,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    logs::start(&arguments.logs)?;
    let store = Store::open()?;
    let mut models = Vec::new();
    for name in &arguments.models {
        if name == pull::SMOLLM2.alias {
            pull::fetch(&store, &pull::SMOLLM2, None)?;
        }
        let model = open(name)?;
        // A file is known to canisters by its stem.
        let name = PathBuf::from(name)
            .file_stem()
            .map_or_else(|| name.clone(), |stem| stem.to_string_lossy().into_owned());
        models.push((name, model));
    }
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
    let network = Network::start(&directory, options)?;
    let urls: Vec<&str> = (0..network.count())
        .filter_map(|index| network.url(index))
        .collect();
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({ "directory": directory, "replicas": urls })
        );
    } else {
        for (index, url) in urls.iter().enumerate() {
            println!("replica {index}: {url}");
        }
        eprintln!("state in {}; stop with ctrl-c", directory.display());
    }
    network.runtime().block_on(async {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                interrupted = tokio::signal::ctrl_c() => return interrupted.map_err(anyhow::Error::new),
                _ = second.tick() => network.check()?,
            }
        }
    })?;
    eprintln!("stopping");
    network.stop()
}
