//! A subnet in this process: replicas, consensus between them, a gateway before each.
//!
//! # Design
//! Keys lie in `keys/` of the network's directory, all of replica `i` in `replica-<i>/`. Replicas share the
//! weights of resident models, read-only, and nothing else: each has its own Wasm engine, kernels and
//! state, and executes every block for itself.

mod directory;
mod keyring;
mod member;
#[cfg(test)]
mod tests;

pub(crate) use directory::Directory;
pub(crate) use keyring::{EPOCHS_DIRECTORY, Epochs, Keyring, Own};
pub(crate) use member::{Member, MemberConfig, READINESS_PERIOD};

use crate::{
    error::{Failure, chain},
    kernels, resident,
    stop::{Stop, Watched},
};
use anyhow::{Context, Result, anyhow};
use lockstep_canister::session::ModelDigest;
use lockstep_gateway::Peers;
use lockstep_model::Model;
use lockstep_numeric::{Isa, Kernels};
use lockstep_subnet::{
    consensus::{
        genesis::{Genesis as Keys, NodeKeys, SUBNET_FILE, Subnet},
        loopback::on_free_ports,
    },
    replica::Replica,
    state::Genesis,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    ops::ControlFlow,
    panic::resume_unwind,
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};
use tokio::runtime::Runtime;

/// How long clients that are being answered have when it stops: `icp` waits for 10 s.
const DRAIN: Duration = Duration::from_secs(5);

/// What a network is made of.
#[derive(Debug)]
pub(crate) struct Options {
    /// Number of replicas.
    pub(crate) replicas: u32,
    /// Port of the first replica's gateway, the others follow; 0 takes free ones.
    pub(crate) port: u16,
    /// Resident models by name.
    pub(crate) models: Vec<(String, Arc<Model>)>,
    /// Give replicas different instruction sets and thread counts, to show that it does not matter.
    pub(crate) diverse: bool,
}

/// A subnet in this process. Dropping it stops everything.
pub(crate) struct Network {
    directory: Directory,
    options: Options,
    subnet: Arc<Subnet>,
    keys: Vec<NodeKeys>,
    genesis: Genesis,
    members: Vec<Option<Member>>,
    /// Where all gateways are, for the console.
    peers: Peers,
    runtime: Runtime,
}

/// The state before the first block of a subnet: what its public file says, and what is the same everywhere.
pub(crate) fn genesis(subnet: &Subnet) -> Result<Genesis> {
    let models = subnet.models().iter();
    let models = models.map(|(name, digest)| (name.clone(), ModelDigest(*digest)));
    let genesis = Genesis::new(&subnet.public_key(), subnet.query_keys(), models.collect());
    let mut genesis = genesis.context("making the genesis state")?;
    genesis.protocol_version = subnet.protocol_version();
    Ok(genesis)
}

impl Network {
    /// Opens the network in `directory`, making keys when it is new, and starts all replicas.
    pub(crate) fn start(directory: Directory, options: Options) -> Result<Self> {
        let keys_directory = directory.path().join("keys");
        let Keys { subnet, nodes } = if keys_directory.join(SUBNET_FILE).exists() {
            Keys::read(&keys_directory).map_err(|error| Failure::user(chain(error)))?
        } else {
            let keys = Keys::deal_random(options.replicas).map_err(Failure::user)?;
            keys.write(&keys_directory)
                .map_err(|error| Failure::environment(chain(error)))?;
            keys
        };
        if nodes.len() != options.replicas as usize {
            return Err(Failure::user(format!(
                "the network in {} has {} replicas, not {}",
                directory.path().display(),
                nodes.len(),
                options.replicas
            ))
            .hint(format!(
                "say --replicas {}, or choose another directory",
                nodes.len()
            ))
            .into());
        }
        let resident = options.models.iter();
        let resident = resident.map(|(name, model)| (name.clone(), resident::digest(model).0));
        let subnet =
            on_free_ports(subnet.with_models(resident.collect())).map_err(Failure::environment)?;
        let mut network = Self {
            directory,
            options,
            genesis: genesis(&subnet)?,
            subnet: Arc::new(subnet),
            peers: Peers::default(),
            members: nodes.iter().map(|_| None).collect(),
            keys: nodes,
            runtime: Runtime::new().context("starting the runtime")?,
        };
        // Side by side: whoever is there waits for the turns of those that are not.
        let started: Vec<Result<Member>> = thread::scope(|scope| {
            let network = &network;
            let start = |index| scope.spawn(move || network.start_member(index));
            let starting: Vec<_> = (0..network.count()).map(start).collect();
            let wait = |thread: ScopedJoinHandle<'_, Result<Member>>| {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            starting.into_iter().map(wait).collect()
        });
        for (place, member) in network.members.iter_mut().zip(started) {
            *place = Some(member?);
        }
        Ok(network)
    }

    /// Starts replica `index`, from its directory if it ran before.
    #[cfg(test)]
    pub(crate) fn start_replica(&mut self, index: usize) -> Result<()> {
        self.members[index] = Some(self.start_member(index)?);
        Ok(())
    }

    fn start_member(&self, index: usize) -> Result<Member> {
        let keys = self.keys.get(index);
        let listen = self.subnet.addresses().get(index);
        let (Some(keys), Some(listen)) = (keys, listen.and_then(|address| address.socket())) else {
            return Err(anyhow!("no such replica: {index}"));
        };
        let port = match self.options.port {
            0 => 0,
            first => first + index as u16,
        };
        let models = self.options.models.iter();
        let config = MemberConfig {
            keyring: Keyring::new(Arc::clone(&self.subnet), keys.clone()),
            upgrade_to: None,
            genesis: self.genesis.clone(),
            models: models.map(|(_, model)| Arc::clone(model)).collect(),
            kernels: self.kernels(index)?,
            directory: self.directory.path().join(format!("replica-{index}")),
            listen,
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            // Its clients are on this machine.
            tls: None,
            peers: self.peers.clone(),
            drain: DRAIN,
        };
        Member::start(&self.runtime, config).with_context(|| format!("starting replica {index}"))
    }

    /// Waits until every replica serves clients.
    pub(crate) fn wait_until_ready(&self, stop: &mut Stop) -> Result<Watched> {
        stop.watch(&self.runtime, READINESS_PERIOD, || {
            self.check()?;
            let all = self.members.iter().flatten().all(Member::is_ready);
            Ok(if all {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
    }

    /// Stops replica `index` where it stands; what it made durable stays.
    pub(crate) fn stop_replica(&mut self, index: usize) -> Result<()> {
        let member = self.members[index]
            .take()
            .ok_or_else(|| anyhow!("replica {index} does not run"))?;
        member
            .stop(&self.runtime)
            .with_context(|| format!("stopping replica {index}"))
    }

    /// Stops all replicas: gateways finish what they are answering, for which all replicas are needed; state is
    /// on disk already.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.members
            .iter_mut()
            .flatten()
            .for_each(Member::begin_to_stop);
        for member in self.members.iter_mut().flatten() {
            member.finish_serving(&self.runtime)?;
        }
        for index in 0..self.count() {
            if self.members[index].is_some() {
                self.stop_replica(index)?;
            }
        }
        Ok(())
    }

    /// A running replica.
    pub(crate) fn replica(&self, index: usize) -> Option<&Arc<Replica>> {
        Some(self.members.get(index)?.as_ref()?.replica())
    }

    /// The kernels a running replica computes with.
    pub(crate) fn replica_kernels(&self, index: usize) -> Option<&Arc<Kernels>> {
        Some(self.members.get(index)?.as_ref()?.kernels())
    }

    /// Where replica `index` serves clients.
    pub(crate) fn url(&self, index: usize) -> Option<&str> {
        Some(self.members.get(index)?.as_ref()?.url())
    }

    /// The subnet's public key as clients take it, DER.
    pub(crate) fn root_key(&self) -> &[u8] {
        &self.genesis.root_key
    }

    /// Whether all running replicas are well.
    pub(crate) fn check(&self) -> Result<()> {
        for (index, member) in self.members.iter().enumerate() {
            if let Some(member) = member {
                member.check().with_context(|| format!("replica {index}"))?;
            }
        }
        Ok(())
    }

    /// Number of replicas, running or not.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// The runtime the gateways run on.
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn kernels(&self, index: usize) -> Result<Arc<Kernels>> {
        let best = Isa::detect().map_err(Failure::user)?;
        if !self.options.diverse {
            return kernels::with(best, NonZeroUsize::MIN);
        }
        // Portable kernels are correct and slow: they are left to the tests.
        let vectorised: Vec<Isa> = Isa::available()
            .into_iter()
            .filter(|isa| *isa != Isa::Portable)
            .collect();
        let isa = if vectorised.is_empty() {
            best
        } else {
            vectorised[vectorised.len() - 1 - index % vectorised.len()]
        };
        let threads = NonZeroUsize::MIN.saturating_add(index / vectorised.len().max(1) % 2);
        kernels::with(isa, threads)
    }
}
