//! `lockstep genesis`: the keys of a subnet whose nodes run on machines of their own.

use crate::{
    error::{Failure, chain},
    network, resident,
};
use anyhow::Result;
use lockstep_subnet::{
    consensus::genesis::{Genesis as Keys, PeerAddress, SUBNET_FILE},
    execution::protocol,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Deals a subnet's keys.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where each node listens for its peers, in order of their numbers.
    #[arg(
        long,
        required = true,
        value_delimiter = ',',
        value_name = "HOST:PORT,..."
    )]
    nodes: Vec<PeerAddress>,
    /// Where the files are written: subnet.json for all, node-<number>.json for one node each.
    #[arg(long, default_value = "genesis")]
    directory: PathBuf,
    /// Models that canisters of this subnet may use, by file, alias or digest.
    #[arg(long = "model")]
    models: Vec<String>,
    /// The version of the protocol by which the subnet begins, for nodes that run an older build.
    #[arg(long, value_name = "VERSION", value_parser = protocol_version, default_value_t = protocol::NEWEST)]
    protocol_version: u64,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let directory = &arguments.directory;
    refuse_to_overwrite(directory)?;
    let count = u32::try_from(arguments.nodes.len()).unwrap_or(u32::MAX);
    let mut keys = Keys::deal_random(count).map_err(Failure::user)?;
    let models = resident::open_named(&arguments.models)?;
    let models = models
        .iter()
        .map(|(name, model)| (name.clone(), resident::digest(model).0));
    keys.subnet = keys
        .subnet
        .with_addresses(arguments.nodes.clone())
        .map_err(Failure::user)?
        .with_models(models.collect())
        .with_protocol_version(arguments.protocol_version);
    keys.write(directory)
        .map_err(|error| Failure::environment(chain(error)))?;
    let genesis = network::genesis(&keys.subnet)?;
    if arguments.json {
        let report = serde_json::json!({
            "directory": directory,
            "subnet": genesis.subnet_id.to_text(),
            "root_key": hex::encode(&genesis.root_key),
            "genesis": hex::encode(genesis.digest()),
            "members": hex::encode(keys.subnet.digest()),
            "nodes": arguments.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        println!("{report}");
        return Ok(());
    }
    println!("subnet   {}", genesis.subnet_id);
    println!("root key {}", hex::encode(&genesis.root_key));
    println!("genesis  {}", hex::encode(genesis.digest()));
    println!("members  {}", hex::encode(keys.subnet.digest()));
    for (index, address) in arguments.nodes.iter().enumerate() {
        println!("node {index}   {address}");
    }
    eprintln!(
        "give every machine {SUBNET_FILE} and its own node-<number>.json, and keep no other copy: \
         whoever has {} of the {count} node files has the subnet's key",
        count - (count - 1) / 3
    );
    Ok(())
}

/// A version of the protocol that this program knows.
pub(crate) fn protocol_version(text: &str) -> Result<u64, String> {
    let version = text.parse().map_err(|_| "not a number".to_owned())?;
    if protocol::is_known(version) {
        return Ok(version);
    }
    Err(format!(
        "this program knows versions {} to {}",
        protocol::OLDEST,
        protocol::NEWEST
    ))
}

/// Keys that were dealt once must not be lost by a second call.
fn refuse_to_overwrite(directory: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == SUBNET_FILE || (name.starts_with("node-") && name.ends_with(".json")) {
            return Err(Failure::user(format!(
                "there are keys already: {}",
                entry.path().display()
            ))
            .hint("choose another directory with --directory")
            .into());
        }
    }
    Ok(())
}
