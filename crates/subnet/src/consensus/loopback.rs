//! The nodes of a subnet in one process, connected over the loopback interface.
//!
//! # Design
//!
//! Each node has its own runtime on its own thread, its own storage directory and its own port, as
//! if it ran on a machine of its own: it can be stopped in the middle of anything and started
//! again from its directory while the others go on. Connections are authenticated and encrypted
//! with the nodes' identities.
//!
//! Stopping a node aborts its tasks where they stand; only a running
//! [`execute`](crate::application::Application::execute) is waited for. What was not yet synced to
//! disk is lost, as in a crash.
use super::{
    genesis::{Genesis, NodeKeys, Subnet},
    node::{self, CHANNEL_RATES, Network, NodeConfig, NodeHandle},
};
use crate::application::Application;
use commonware_cryptography::{ChaCha20Poly1305, ed25519::PublicKey};
use commonware_p2p::{Address, AddressableManager as _, authenticated::lookup};
use commonware_runtime::{Runner as _, Supervisor as _, tokio};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{NZUsize, channel::oneshot, ordered::Map, sys_rng};
use rand_core::Rng as _;
use std::{
    any::Any,
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    ops::Range,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use thiserror::Error;

/// Below the range from which the system takes the ports of outgoing connections, so that none of
/// those occupies a stopped node's port.
const PORTS: Range<u16> = 20_000..32_000;
const PORT_TRIES_MAX: usize = 1_000;
const WORKER_THREADS: usize = 2;
/// How far apart the clocks of two nodes may be for their handshake.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);

/// Why a node did not start or did not run to its stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The subnet has no such node.
    #[error("no such node: {index}")]
    UnknownNode {
        /// The number asked for.
        index: usize,
    },
    /// The node runs already.
    #[error("node runs already: {index}")]
    Running {
        /// The node.
        index: usize,
    },
    /// There is not one application for each node.
    #[error("expected {expected} applications, got: {actual}")]
    ApplicationCount {
        /// The number of nodes.
        expected: usize,
        /// The number of applications.
        actual: usize,
    },
    /// No free port was found.
    #[error("no free port on the loopback interface")]
    NoPort,
    /// The node's thread cannot be started.
    #[error("cannot start a thread for node: {index}")]
    Thread {
        /// The node.
        index: usize,
        /// What the system says.
        source: io::Error,
    },
    /// A part of the node ended or panicked.
    #[error("node {index} failed: {reason}")]
    Failed {
        /// The node.
        index: usize,
        /// What it said.
        reason: String,
    },
}

/// A subnet whose nodes run in this process.
#[derive(Debug)]
pub struct Cluster {
    subnet: Arc<Subnet>,
    keys: Vec<NodeKeys>,
    directory: PathBuf,
    addresses: Vec<SocketAddr>,
    nodes: Vec<Option<RunningNode>>,
}

#[derive(Debug)]
struct RunningNode {
    handle: NodeHandle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<(), String>>,
}

impl Cluster {
    /// A subnet none of whose nodes runs yet. Node `i` keeps its part of the chain in
    /// `directory/node-<i>`.
    ///
    /// # Errors
    ///
    /// If no free ports are found.
    pub fn new(genesis: Genesis, directory: impl Into<PathBuf>) -> Result<Self, ClusterError> {
        let Genesis {
            subnet,
            nodes: keys,
        } = genesis;
        Ok(Self {
            addresses: free_addresses(keys.len())?,
            nodes: keys.iter().map(|_| None).collect(),
            subnet: Arc::new(subnet),
            keys,
            directory: directory.into(),
        })
    }

    /// A subnet all of whose nodes run, node `i` with `applications[i]`.
    ///
    /// # Errors
    ///
    /// If there is not one application for each node, or a node does not start.
    pub fn start<A: Application>(
        genesis: Genesis,
        directory: impl Into<PathBuf>,
        applications: Vec<Arc<A>>,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self::new(genesis, directory)?;
        let (expected, actual) = (cluster.nodes.len(), applications.len());
        if expected != actual {
            return Err(ClusterError::ApplicationCount { expected, actual });
        }
        for (index, application) in applications.into_iter().enumerate() {
            cluster.start_node(index, application)?;
        }
        Ok(cluster)
    }

    /// The public part of the subnet's keys.
    #[must_use]
    pub fn subnet(&self) -> &Subnet {
        &self.subnet
    }

    /// The keys of node `index`.
    #[must_use]
    pub fn keys(&self, index: usize) -> Option<&NodeKeys> {
        self.keys.get(index)
    }

    /// Where node `index` listens for its peers.
    #[must_use]
    pub fn address(&self, index: usize) -> Option<SocketAddr> {
        self.addresses.get(index).copied()
    }

    /// The handle of node `index`, if it was started and not stopped.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&NodeHandle> {
        Some(&self.nodes.get(index)?.as_ref()?.handle)
    }

    /// Whether node `index` runs: it was started, not stopped, and did not fail.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        matches!(self.nodes.get(index), Some(Some(node)) if !node.thread.is_finished())
    }

    /// Starts node `index`, from its directory if it ran before. Blocks until its storage is open.
    ///
    /// # Errors
    ///
    /// If there is no such node, it runs already, or it fails while it starts.
    pub fn start_node<A: Application>(
        &mut self,
        index: usize,
        application: Arc<A>,
    ) -> Result<NodeHandle, ClusterError> {
        let keys = self
            .keys
            .get(index)
            .ok_or(ClusterError::UnknownNode { index })?
            .clone();
        if self.nodes[index].is_some() {
            return Err(ClusterError::Running { index });
        }
        let peers = self.peers();
        let listen = self.addresses[index];
        let storage = self.directory.join(format!("node-{index}"));
        let config = NodeConfig {
            subnet: self.subnet.clone(),
            keys,
            application,
            partition: "chain".to_owned(),
        };
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let thread = thread::Builder::new()
            .name(format!("node-{index}"))
            .spawn(move || {
                let runtime = tokio::Config::new()
                    .with_worker_threads(WORKER_THREADS)
                    .with_storage_directory(storage);
                tokio::Runner::new(runtime)
                    .start(|runtime| run(runtime, config, listen, peers, started, stopped))
            })
            .map_err(|source| ClusterError::Thread { index, source })?;
        let Ok(handle) = start.recv() else {
            return Err(
                failure(index, thread).unwrap_or_else(|| ClusterError::Failed {
                    index,
                    reason: "it ended while it started".to_owned(),
                }),
            );
        };
        self.nodes[index] = Some(RunningNode {
            handle: handle.clone(),
            stop,
            thread,
        });
        Ok(handle)
    }

    /// Stops node `index` and waits until nothing of it runs and its application is released.
    ///
    /// # Errors
    ///
    /// If there is no such running node, or it had failed before.
    pub fn stop_node(&mut self, index: usize) -> Result<(), ClusterError> {
        let node = self.nodes.get_mut(index).and_then(Option::take);
        let RunningNode { stop, thread, .. } = node.ok_or(ClusterError::UnknownNode { index })?;
        // A failed node no longer listens; joining it tells why.
        let _ = stop.send(());
        failure(index, thread).map_or(Ok(()), Err)
    }

    /// Stops all running nodes, the failed ones too.
    ///
    /// # Errors
    ///
    /// The first failure of a node, after all are stopped.
    pub fn shutdown(mut self) -> Result<(), ClusterError> {
        self.stop_all()
    }

    fn stop_all(&mut self) -> Result<(), ClusterError> {
        let running = self.nodes.iter_mut().enumerate();
        let stopping: Vec<_> = running
            .filter_map(|(index, node)| {
                let RunningNode { stop, thread, .. } = node.take()?;
                let _ = stop.send(());
                Some((index, thread))
            })
            .collect();
        let mut result = Ok(());
        for (index, thread) in stopping {
            let stopped = failure(index, thread).map_or(Ok(()), Err);
            result = result.and(stopped);
        }
        result
    }

    fn peers(&self) -> Map<PublicKey, Address> {
        let identities = self.subnet.participants().iter().cloned();
        let addresses = self.addresses.iter().map(|address| Address::from(*address));
        let peers: Vec<_> = identities.zip(addresses).collect();
        Map::try_from(peers).expect("identities differ")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A failure was visible through `is_running`; a destructor has nobody to tell.
        let _ = self.stop_all();
    }
}

/// A node's life on its own runtime.
async fn run<A: Application>(
    runtime: tokio::Context,
    config: NodeConfig<A>,
    listen: SocketAddr,
    peers: Map<PublicKey, Address>,
    started: mpsc::Sender<NodeHandle>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), String> {
    let node_count = NonZeroUsize::new(config.subnet.node_count()).expect("a subnet has nodes");
    let handshake = Cups::<_, ChaCha20Poly1305>::new(
        Sake {
            signer: config.keys.identity().clone(),
            synchrony_bound: CLOCK_DIFFERENCE_MAX,
            max_handshake_age: 2 * CLOCK_DIFFERENCE_MAX,
            version: sake::Version::V1,
        },
        cups::Version::V1,
    );
    let mut options = lookup::Config::local(
        handshake,
        &node::namespace(&config.subnet, "peers"),
        listen,
        node_count,
        node::message_bytes_max(node_count.get()),
        NZUsize!(1_024),
    );
    options.tracked_peer_sets = NZUsize!(1);
    options.allow_dns = false;
    let (mut network, mut oracle) = lookup::Network::new(runtime.child("network"), options);
    oracle.track(0, peers);
    let mut channel = 0;
    let channels = CHANNEL_RATES.map(|rate| {
        let registered = network.register(channel, node::quota(rate));
        channel += 1;
        registered
    });
    network.start();
    let network = Network {
        channels,
        blocker: oracle.clone(),
        peers: oracle,
    };
    let (handle, ended) = node::start(runtime.child("node"), config, network).await;
    // The starter may have given up; then the stop channel is closed too.
    let _ = started.send(handle);
    ::tokio::select! {
        biased;
        _ = stopped => Ok(()),
        () = ended => Err("a part of it ended".to_owned()),
    }
}

/// Waits for a node's thread and says what made it fail, if anything.
fn failure(index: usize, thread: JoinHandle<Result<(), String>>) -> Option<ClusterError> {
    let reason = match thread.join() {
        Ok(Ok(())) => return None,
        Ok(Err(reason)) => reason,
        Err(panic) => panic_message(&*panic),
    };
    Some(ClusterError::Failed { index, reason })
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Addresses at which nothing listens now, chosen at random so that clusters started at the same
/// time rarely meet.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, ClusterError> {
    let mut random = sys_rng();
    let mut addresses = BTreeSet::new();
    for _ in 0..PORT_TRIES_MAX {
        if addresses.len() == count {
            break;
        }
        let offset = random.next_u32() % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("smaller than the range");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            addresses.insert(address);
        }
    }
    if addresses.len() < count {
        return Err(ClusterError::NoPort);
    }
    Ok(addresses.into_iter().collect())
}
