//! `lockstep node`: one replica of a subnet on this machine, with a gateway, served until it is told to stop.

use crate::{
    error::{Failure, chain},
    kernels, logs, models,
    network::{self, Directory, Member, MemberConfig, READINESS_PERIOD},
    run::open,
    stop::{Stop, Watched},
    store::Store,
};
use anyhow::{Context, Result};
use lockstep_gateway::{Peers, Tls};
use lockstep_model::{Digest, Model};
use lockstep_subnet::consensus::genesis::{NodeKeys, SUBNET_FILE, Subnet};
use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How often it is looked whether a node is well.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// How often a node that is not ready says how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// How long clients that are being answered have when it stops.
const DRAIN: Duration = Duration::from_secs(15);

/// Starts a node.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The subnet's public file, or the directory that has it as subnet.json.
    #[arg(long, value_name = "FILE_OR_DIRECTORY")]
    genesis: PathBuf,
    /// This node's secret file.
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// Where this node keeps its state and its part of the chain.
    #[arg(long)]
    directory: PathBuf,
    /// Where the gateway serves clients. Port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4943")]
    http: SocketAddr,
    /// Serve clients over TLS, with this chain of certificates (PEM), the gateway's own first. It and its key are read
    /// again within a minute after they change.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// The key of that certificate (PEM, not encrypted), which others cannot read.
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Where metrics are served: an address that only operators reach. Clients do not get them.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Show the console, with balances and controllers of all canisters, to all clients, not only to
    /// those on this machine. Behind a proxy on this machine all clients are on it.
    #[arg(long)]
    public_console: bool,
    /// Where this node listens for its peers: its address in the genesis when not given, or that
    /// port on all interfaces if the address is a name.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Models of the genesis that lie elsewhere than in the store, by file.
    #[arg(long = "model")]
    models: Vec<String>,
    /// Worker threads; all cores when not given. No result depends on it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Print one JSON object with addresses and keys when ready.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    logs: logs::Options,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    logs::start(&arguments.logs)?;
    let kernels = kernels::checked(arguments.threads)?;
    let subnet = read_subnet(&arguments.genesis)?;
    let keys = NodeKeys::read_file(&arguments.keys, &subnet)
        .map_err(|error| Failure::user(chain(error)))?;
    let (index, count) = (keys.index(), subnet.node_count());
    let address = &subnet.addresses()[index];
    let listen = arguments.listen.unwrap_or_else(|| {
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        address.socket().unwrap_or(everywhere)
    });
    let files = arguments
        .tls_certificate
        .as_ref()
        .zip(arguments.tls_key.as_ref());
    let tls = files.map(|(certificate, key)| Tls::open(certificate, key));
    let tls = tls
        .transpose()
        .map_err(|error| Failure::user(chain(error)))?;
    let models = resident(&subnet, &arguments.models)?;
    let directory = Directory::take(&arguments.directory)?;
    let genesis = network::genesis(&subnet)?;
    let root_key = genesis.root_key.clone();
    eprintln!(
        "node {index} of {count}, subnet {}, genesis {}, members {}",
        genesis.subnet_id,
        hex::encode(genesis.digest()),
        hex::encode(subnet.digest())
    );
    eprintln!(
        "kernels {} on {} threads, checked against the frozen digests",
        kernels.isa(),
        kernels.pool().threads()
    );
    let runtime = Runtime::new().context("starting the runtime")?;
    let config = MemberConfig {
        subnet: Arc::new(subnet),
        keys,
        genesis,
        models,
        kernels,
        directory: directory.path().to_owned(),
        listen,
        http: arguments.http,
        tls: tls.map(Arc::new),
        peers: Peers::default(),
        drain: DRAIN,
    };
    let (metrics, public_console) = (arguments.metrics, arguments.public_console);
    let member = Member::start_public(&runtime, config, metrics, public_console)?;
    let mut stop = Stop::new(&runtime)?;
    eprintln!(
        "state at height {}; listening for peers on {listen}",
        member.heights().executed
    );
    if let Some(address) = member.metrics() {
        eprintln!("metrics at http://{address}/metrics");
    }
    if wait_until_ready(&member, &runtime, &mut stop)? == Watched::Done {
        let (height, url) = (member.replica().certified_height(), member.url());
        eprintln!("ready: height {height} is certified, clients are served at {url}");
        if arguments.json {
            let ready = serde_json::json!({
                "node": index,
                "url": url,
                "listen": listen,
                "height": height,
                "root_key": hex::encode(root_key),
            });
            println!("{ready}");
        }
        let mut told = None;
        stop.watch(&runtime, HEALTH_PERIOD, || {
            tell_divergence(&member, &mut told);
            member.check().map(ControlFlow::Continue)
        })?;
    }
    eprintln!("stopping at height {}", member.heights().executed);
    member.stop(&runtime)
}

/// Waits until a height is certified, and says meanwhile how far the node is.
fn wait_until_ready(member: &Member, runtime: &Runtime, stop: &mut Stop) -> Result<Watched> {
    let (mut said, mut told) = (Instant::now(), None);
    stop.watch(runtime, READINESS_PERIOD, || {
        member.check()?;
        tell_divergence(member, &mut told);
        if member.is_ready() {
            return Ok(ControlFlow::Break(()));
        }
        if said.elapsed() >= PROGRESS_PERIOD {
            said = Instant::now();
            let heights = member.heights();
            eprintln!(
                "waiting for a certified height: executed {}, final {}",
                heights.executed, heights.finalized
            );
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Says once what is known of a state that was not that of the others.
fn tell_divergence(member: &Member, told: &mut Option<String>) {
    let divergence = member.replica().divergence();
    if divergence != *told {
        if let Some(text) = &divergence {
            eprintln!("{text}");
        }
        *told = divergence;
    }
}

fn read_subnet(path: &Path) -> Result<Subnet> {
    let file = if path.is_dir() {
        path.join(SUBNET_FILE)
    } else {
        path.to_owned()
    };
    let subnet = Subnet::read_file(&file)
        .map_err(|error| Failure::user(chain(error)).hint("make one with lockstep genesis"))?;
    if subnet.addresses().is_empty() {
        return Err(Failure::user(format!(
            "{} does not say where its nodes are",
            file.display()
        ))
        .hint("lockstep up made it; make one with lockstep genesis")
        .into());
    }
    Ok(subnet)
}

/// The models that the genesis names: from the given files, or by digest from the store.
fn resident(subnet: &Subnet, given: &[String]) -> Result<Vec<Arc<Model>>> {
    let mut found = Vec::new();
    for name in given {
        let model = open(name)?;
        let digest = models::digest(&model).0;
        if !subnet.models().values().any(|known| *known == digest) {
            return Err(Failure::user(format!(
                "the genesis has no model with the digest of {name}: {}",
                model.digest()
            ))
            .into());
        }
        found.push(model);
    }
    for (name, digest) in subnet.models() {
        if found.iter().any(|model| models::digest(model).0 == *digest) {
            continue;
        }
        let file = Store::open()?.find(&Digest(*digest).to_string());
        let file = file.ok_or_else(|| {
            Failure::user(format!(
                "model {name} of the genesis is not here: {}",
                Digest(*digest)
            ))
            .hint(format!(
                "fetch it (lockstep pull {name}), or give its file with --model"
            ))
        })?;
        found.push(open(&file.to_string_lossy())?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn events_are_written_as_they_are_asked_for() {
        let line = "node --genesis g --keys k --directory d --log lockstep=loud";
        let line = Line::try_parse_from(line.split(' ')).expect("these are its options");
        let error = run(&line.arguments).expect_err("there is no such level");
        let text = error.to_string();
        assert!(text.starts_with("not a filter of events: "), "{text}");
    }
}
