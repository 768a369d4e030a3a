//! `lockstep node`: one replica of a subnet on this machine, with a gateway, served until it is told to stop.

use crate::{
    error::{Failure, chain},
    genesis::protocol_version,
    kernels, logs,
    network::{
        self, Directory, EPOCHS_DIRECTORY, Epochs, Keyring, Member, MemberConfig, Own,
        READINESS_PERIOD,
    },
    resident,
    run::open,
    stop::{Stop, Watched},
    store::Store,
};
use anyhow::{Context, Result};
use lockstep_gateway::{Peers, Tls};
use lockstep_model::{Digest, Model};
use lockstep_subnet::{
    consensus::{
        Standing,
        genesis::{SUBNET_FILE, Subnet},
    },
    execution::protocol,
};
use std::{
    fs,
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
    /// This node's secret file. A node that joined later has its keys in the directory only.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Where this node keeps its state and its part of the chain, and below epochs/ the key files of later epochs,
    /// which it also finds while it runs.
    #[arg(long)]
    directory: PathBuf,
    #[arg(long, value_name = "VERSION", value_parser = protocol_version, help = upgrade_help())]
    upgrade_to: Option<u64>,
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

fn upgrade_help() -> String {
    format!(
        "Vote for executing blocks by a newer version of the protocol; this program knows {} to {}",
        protocol::OLDEST,
        protocol::NEWEST
    )
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    logs::start(&arguments.logs)?;
    let kernels = kernels::checked(arguments.threads)?;
    let subnet = read_subnet(&arguments.genesis)?;
    let files = arguments
        .tls_certificate
        .as_ref()
        .zip(arguments.tls_key.as_ref());
    let tls = files.map(|(certificate, key)| Tls::open(certificate, key));
    let tls = tls
        .transpose()
        .map_err(|error| Failure::user(chain(error)))?;
    let genesis = network::genesis(&subnet)?;
    let models = resident(&subnet, &arguments.models)?;
    let keys = arguments.keys.as_deref();
    let (keyring, epochs) = Keyring::read(subnet, keys, &arguments.directory)?;
    let Own {
        keys,
        address,
        subnet,
    } = keyring.newest()?;
    let (index, count) = (keys.index(), subnet.node_count());
    let (epoch, members) = (subnet.epoch(), subnet.digest());
    let listen = arguments.listen.unwrap_or_else(|| {
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
        address.socket().unwrap_or(everywhere)
    });
    let directory = Directory::take(&arguments.directory)?;
    let folder = directory.path().join(EPOCHS_DIRECTORY);
    fs::create_dir_all(&folder).map_err(|error| {
        Failure::environment(format!("cannot create {}: {error}", folder.display()))
    })?;
    let root_key = genesis.root_key.clone();
    let later = keyring.later.iter();
    let installed: Vec<_> = later
        .map(|epoch| (epoch.subnet.epoch(), epoch.subnet.digest()))
        .collect();
    eprintln!(
        "node {index} of {count} in epoch {epoch}, subnet {}, genesis {}, members {}",
        genesis.subnet_id,
        hex::encode(genesis.digest()),
        hex::encode(members)
    );
    eprintln!(
        "kernels {} on {} threads, checked against the frozen digests",
        kernels.isa(),
        kernels.pool().threads()
    );
    let runtime = Runtime::new().context("starting the runtime")?;
    let config = MemberConfig {
        keyring,
        upgrade_to: arguments.upgrade_to,
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
    let mut epochs = Watch::new(epochs, &member, installed);
    eprintln!(
        "state at height {}; listening for peers on {listen}",
        member.heights().executed
    );
    if let Some(address) = member.metrics() {
        eprintln!("metrics at http://{address}/metrics");
    }
    if wait_until_ready(&member, &runtime, &mut stop, &mut epochs)? == Watched::Done {
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
            epochs.look(&member);
            member.check().map(ControlFlow::Continue)
        })?;
    }
    eprintln!("stopping at height {}", member.heights().executed);
    member.stop(&runtime)
}

/// Waits until a height is certified, and says meanwhile how far the node is.
fn wait_until_ready(
    member: &Member,
    runtime: &Runtime,
    stop: &mut Stop,
    epochs: &mut Watch,
) -> Result<Watched> {
    let (mut said, mut told) = (Instant::now(), None);
    stop.watch(runtime, READINESS_PERIOD, || {
        member.check()?;
        tell_divergence(member, &mut told);
        if member.is_ready() {
            return Ok(ControlFlow::Break(()));
        }
        if said.elapsed() >= PROGRESS_PERIOD {
            said = Instant::now();
            epochs.look(member);
            let heights = member.heights();
            eprintln!(
                "waiting for a certified height: executed {}, final {}",
                heights.executed, heights.finalized
            );
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// Looks for key files of later epochs, and says which part the node has.
struct Watch {
    epochs: Epochs,
    standing: Standing,
    /// What was wrong when it was looked last.
    told: Vec<String>,
}

impl Watch {
    fn new(epochs: Epochs, member: &Member, installed: Vec<(u64, [u8; 32])>) -> Self {
        for (epoch, members) in installed {
            tell_installed(member, epoch, members);
        }
        let standing = member.node().standing();
        tell_standing(standing);
        let told = Vec::new();
        Self {
            epochs,
            standing,
            told,
        }
    }

    fn look(&mut self, member: &Member) {
        let standing = member.node().standing();
        if standing != self.standing {
            self.standing = standing;
            tell_standing(standing);
        }
        let mut wrong = Vec::new();
        for found in self.epochs.look() {
            let installed = match found {
                Ok(installed) => installed,
                // It may be half there: it is looked at again.
                Err(error) => {
                    wrong.push(format!("{error:#}"));
                    continue;
                }
            };
            let (epoch, members) = (installed.subnet.epoch(), installed.subnet.digest());
            match member.node().install(installed.clone()) {
                Ok(()) => {
                    self.epochs.note(&installed);
                    tell_installed(member, epoch, members);
                }
                Err(error) => {
                    wrong.push(format!("epoch {epoch} is not installed: {}", chain(error)))
                }
            }
        }
        for text in wrong.iter().filter(|text| !self.told.contains(text)) {
            eprintln!("{text}");
        }
        self.told = wrong;
    }
}

fn tell_installed(member: &Member, epoch: u64, members: [u8; 32]) {
    let now = member.node().epoch();
    let then = match epoch.checked_sub(now + 1) {
        None => "it has begun".to_owned(),
        Some(0) => "this node votes for it".to_owned(),
        Some(_) => format!("this node votes for it when epoch {} has begun", epoch - 1),
    };
    eprintln!(
        "epoch {epoch} is installed, members {}: {then}",
        hex::encode(members)
    );
}

fn tell_standing(standing: Standing) {
    match standing {
        Standing::NoKeys { epoch } => eprintln!(
            "the subnet is in epoch {epoch}, for which this node has no keys: it orders and certifies nothing"
        ),
        Standing::Outside { epoch } => eprintln!(
            "this node is none of those of epoch {epoch}: it follows until it becomes one; if it has left, stop it"
        ),
        _ => eprintln!("this node orders and certifies"),
    }
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
    if subnet.epoch() != 0 {
        return Err(Failure::user(format!(
            "{} is of epoch {}, not the genesis",
            file.display(),
            subnet.epoch()
        ))
        .hint(format!(
            "give the subnet's first subnet.json; this one belongs below {EPOCHS_DIRECTORY}/ of the node's directory"
        ))
        .into());
    }
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
        let digest = resident::digest(&model).0;
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
        if found
            .iter()
            .any(|model| resident::digest(model).0 == *digest)
        {
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
