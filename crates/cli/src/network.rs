//! A subnet in this process: replicas, consensus between them, a gateway before each.
//!
//! # Design
//! Keys lie in `keys/` of the network's directory, a replica's state in `replica-<i>/state.redb`, its
//! part of the chain under `chain/`. Replicas share the weights of resident models, read-only, and
//! nothing else: each has its own Wasm engine, kernels and state, and executes every block for itself.

#[cfg(test)]
mod tests;

use crate::{
    error::Failure,
    kernels,
    models::{self, Resident},
};
use anyhow::{Context, Result, anyhow};
use lockstep_canister::engine::Engine;
use lockstep_gateway::{Gateway, Settings};
use lockstep_model::Model;
use lockstep_numeric::{Isa, Kernels};
use lockstep_subnet::{
    consensus::{genesis::Genesis as Keys, loopback::Cluster},
    replica::{Replica, SystemClock},
    state::Genesis,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle};

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
    directory: PathBuf,
    options: Options,
    cluster: Cluster,
    genesis: Genesis,
    members: Vec<Option<Member>>,
    runtime: Runtime,
}

/// A running replica with its gateway.
struct Member {
    replica: Arc<Replica>,
    kernels: Arc<Kernels>,
    url: String,
    stop: oneshot::Sender<()>,
    gateway: JoinHandle<()>,
}

impl Network {
    /// Opens the network in `directory`, making keys when it is new, and starts all replicas.
    pub(crate) fn start(directory: &Path, options: Options) -> Result<Self> {
        let keys_directory = directory.join("keys");
        let keys = if keys_directory.exists() {
            Keys::read(&keys_directory).context("reading the subnet's keys")?
        } else {
            let keys = Keys::deal_random(options.replicas).map_err(Failure::user)?;
            keys.write(&keys_directory)
                .context("writing the subnet's keys")?;
            keys
        };
        let count = keys.nodes.len();
        if count != options.replicas as usize {
            return Err(Failure::user(format!(
                "the network in {} has {count} replicas, not {}",
                directory.display(),
                options.replicas
            ))
            .hint("leave --replicas out, or choose another directory")
            .into());
        }
        let resident: BTreeMap<_, _> = options
            .models
            .iter()
            .map(|(name, model)| (name.clone(), models::digest(model)))
            .collect();
        let node_keys: Vec<[u8; 32]> = keys
            .nodes
            .iter()
            .map(|node| {
                ic_ed25519::PrivateKey::deserialize_raw_32(&node.query_signing_seed())
                    .public_key()
                    .serialize_raw()
            })
            .collect();
        let genesis = Genesis::new(&keys.subnet.public_key(), &node_keys, resident)
            .context("making the genesis state")?;
        let runtime = Runtime::new().context("starting the runtime")?;
        let cluster = Cluster::new(keys, directory.join("chain")).map_err(Failure::environment)?;
        let members = (0..count).map(|_| None).collect();
        let mut network = Self {
            directory: directory.to_owned(),
            options,
            cluster,
            genesis,
            members,
            runtime,
        };
        allow_open_files();
        for index in 0..count {
            network.start_replica(index)?;
        }
        Ok(network)
    }

    /// Starts replica `index`, from its directory if it ran before.
    pub(crate) fn start_replica(&mut self, index: usize) -> Result<()> {
        let kernels = self.kernels(index)?;
        let resident = Resident::new(
            self.options
                .models
                .iter()
                .map(|(_, model)| Arc::clone(model)),
            Arc::clone(&kernels),
        );
        // With the instruction set that was just checked.
        let engine = Engine::new().on_isa(kernels.isa()).map_err(Failure::user)?;
        let directory = self.directory.join(format!("replica-{index}"));
        fs::create_dir_all(&directory).map_err(|error| {
            Failure::environment(format!("cannot create {}: {error}", directory.display()))
        })?;
        let seed = self
            .cluster
            .keys(index)
            .ok_or_else(|| anyhow!("no such replica: {index}"))?
            .query_signing_seed();
        let replica = Replica::open(
            &directory.join("state.redb"),
            self.genesis.clone(),
            seed,
            Arc::new(engine),
            Arc::new(resident),
            Arc::new(SystemClock),
        )
        .with_context(|| format!("opening the state of replica {index}"))?;
        let replica = Arc::new(replica);
        let node = self
            .cluster
            .start_node(index, Arc::clone(&replica))
            .with_context(|| format!("starting replica {index}"))?;
        let gossip = node.gossip().clone();
        replica.set_gossip(move |message| {
            // Best effort: this replica keeps the message until it is ordered.
            let _ = gossip.send(message);
        });

        let port = if self.options.port == 0 {
            0
        } else {
            self.options.port + index as u16
        };
        let listener = self
            .runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .map_err(|error| {
                Failure::environment(format!("cannot listen on port {port}: {error}"))
                    .hint("choose another with --port")
            })?;
        let url = format!("http://{}", listener.local_addr()?);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            // An error means that the network was dropped: stop as well.
            let _ = stopped.await;
        };
        // Who reaches the loopback interface may see metrics as well.
        let settings = Settings {
            public_metrics: true,
            ..Settings::default()
        };
        let gateway = Gateway::new(Arc::clone(&replica), settings);
        gateway.set_finalized(move || node.heights().finalized);
        let gateway = self
            .runtime
            .spawn(async move { gateway.serve(listener, None, shutdown).await });
        self.members[index] = Some(Member {
            replica,
            kernels,
            url,
            stop,
            gateway,
        });
        Ok(())
    }

    /// Stops replica `index` where it stands; what it made durable stays.
    pub(crate) fn stop_replica(&mut self, index: usize) -> Result<()> {
        let member = self.members[index]
            .take()
            .ok_or_else(|| anyhow!("replica {index} does not run"))?;
        // A gateway that has ended already hears nothing.
        let _ = member.stop.send(());
        self.runtime
            .block_on(member.gateway)
            .context("waiting for the gateway")?;
        self.cluster
            .stop_node(index)
            .with_context(|| format!("stopping replica {index}"))
    }

    /// Stops all replicas: gateways finish what they are answering, state is on disk already.
    pub(crate) fn stop(mut self) -> Result<()> {
        for index in 0..self.count() {
            if self.members[index].is_some() {
                self.stop_replica(index)?;
            }
        }
        Ok(())
    }

    /// A running replica.
    pub(crate) fn replica(&self, index: usize) -> Option<&Arc<Replica>> {
        self.members
            .get(index)?
            .as_ref()
            .map(|member| &member.replica)
    }

    /// The kernels a running replica computes with.
    pub(crate) fn replica_kernels(&self, index: usize) -> Option<&Arc<Kernels>> {
        self.members
            .get(index)?
            .as_ref()
            .map(|member| &member.kernels)
    }

    /// Where replica `index` serves clients.
    pub(crate) fn url(&self, index: usize) -> Option<&str> {
        self.members
            .get(index)?
            .as_ref()
            .map(|member| member.url.as_str())
    }

    /// Whether all running replicas are well.
    pub(crate) fn check(&self) -> Result<()> {
        for (index, member) in self.members.iter().enumerate() {
            let Some(member) = member else { continue };
            if let Some(reason) = member.replica.halted() {
                return Err(anyhow!("replica {index} has halted: {reason}"));
            }
            if !self.cluster.is_running(index) {
                return Err(anyhow!("replica {index} has stopped"));
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

/// Lets this process open as many files as it may: every canister with code has one in memory.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A system that refuses shows it when the limit is reached.
    let _ = setrlimit(Resource::Nofile, raised);
}
