//! One node on one machine: its runtime, its storage, its connections to its peers.
//!
//! # Design
//!
//! A node has a runtime of its own on a thread of its own. Connections are encrypted and
//! authenticated with the nodes' identities; from where a peer connects makes no difference, so
//! that a machine may have several addresses or a translated one.
//!
//! Stopping a node aborts its tasks where they stand; only a running
//! [`execute`](crate::application::Application::execute) is waited for. What was not yet synced to
//! disk is lost, as in a crash.
//!
//! # Errors
//!
//! [`MachineError`] names what is wrong with a port, a directory or the keys before the node
//! starts. What goes wrong later (a damaged chain, a halted application) ends the node, and
//! [`Machine::failure`] says why.
use super::{
    epochs::{Epochs, InstallError, Installed},
    genesis::PeerAddress,
    node::{self, CHANNEL_RATES, Network, NodeConfig, NodeHandle, WIRE_VERSION},
};
use crate::application::Application;
use commonware_cryptography::{
    ChaCha20Poly1305,
    ed25519::{PrivateKey, PublicKey},
};
use commonware_p2p::{Address, AddressableManager as _, authenticated::lookup};
use commonware_runtime::{Runner as _, Supervisor as _, tokio};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{NZUsize, channel::oneshot, ordered::Map};
use std::{
    any::Any,
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use thiserror::Error;

const WORKER_THREADS: usize = 2;
/// How far apart the clocks of two nodes may be for their handshake.
const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5);
/// From one attempt to connect to the next, whoever it is with.
const DIAL_INTERVAL: Duration = Duration::from_millis(100);
/// From one attempt to connect to the next with the same peer: two that call each other at once refuse each other, and a
/// subnet that starts has two seconds before a leader whom the others do not hear loses its turn.
const REDIAL_INTERVAL: Duration = Duration::from_millis(200);
/// The file in a node's storage that its process holds locked.
const LOCK_FILE: &str = "lock";

/// Why a node did not start or did not run to its stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The subnet's public part does not say where its nodes are.
    #[error("the subnet's nodes have no addresses")]
    NoAddresses,
    /// The key files are not of one node of one subnet.
    #[error("the node's keys cannot be used")]
    Keys(#[from] InstallError),
    /// The chain's directory cannot be used.
    #[error("cannot use directory: {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another node keeps its chain there.
    #[error("another node runs in directory: {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for other nodes on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The node's thread cannot be started.
    #[error("cannot start a thread")]
    Thread {
        /// What the system says.
        source: io::Error,
    },
    /// A part of the node ended or panicked.
    #[error("consensus ended: {reason}")]
    Failed {
        /// What it said.
        reason: String,
    },
}

/// What a node on a machine is made of.
#[derive(Debug)]
pub struct MachineConfig {
    /// The subnet as it began, with the addresses of its nodes, and the keys of one of them.
    pub genesis: Installed,
    /// Later epochs that have key files here.
    pub later: Vec<Installed>,
    /// The version of the protocol that the operator wants, if it is a newer one than the subnet's.
    pub upgrade_to: Option<u64>,
    /// Where it listens for its peers.
    pub listen: SocketAddr,
    /// Where it keeps its part of the chain; made if missing.
    pub storage: PathBuf,
    /// What executes blocks.
    pub application: Arc<dyn Application>,
}

/// A running node. Dropping it stops it.
#[derive(Debug)]
pub struct Machine {
    handle: NodeHandle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<OnceLock<String>>,
}

impl Machine {
    /// Starts a node, from its directory if it ran before. Blocks until its storage is open.
    ///
    /// # Errors
    ///
    /// If the keys, the directory or the address cannot be used, or it fails while it starts.
    pub fn start(config: MachineConfig) -> Result<Self, MachineError> {
        let MachineConfig {
            genesis,
            later,
            upgrade_to,
            listen,
            storage,
            application,
        } = config;
        if genesis.subnet.addresses().is_empty() {
            return Err(MachineError::NoAddresses);
        }
        let all = std::iter::once(&genesis).chain(&later);
        let keys = all.filter_map(|installed| installed.keys.as_ref()).next();
        let keys = keys.ok_or(InstallError::NoKeys)?.clone();
        let namespace = node::namespace(&genesis.subnet, &format!("peers/{WIRE_VERSION}"));
        let epochs = Arc::new(Epochs::new(genesis, later, upgrade_to)?);
        // What the engine would wait for without end or panic about is tried before.
        let lock = lock(&storage)?;
        let listener = TcpListener::bind(listen).map_err(|source| MachineError::Listen {
            address: listen,
            source,
        })?;
        drop(listener);
        let name = format!("node-{}", keys.index());
        let connection = Connection {
            identity: keys.identity().clone(),
            namespace,
            listen,
        };
        let config = NodeConfig {
            epochs,
            application,
            partition: "chain".to_owned(),
        };
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let failure = Arc::new(OnceLock::new());
        let failed = Arc::clone(&failure);
        let life = move || {
            let _lock = lock;
            let runtime = tokio::Config::new()
                .with_worker_threads(WORKER_THREADS)
                .with_storage_directory(storage);
            let runner = tokio::Runner::new(runtime);
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                runner.start(|runtime| run(runtime, config, connection, started, stopped))
            }));
            if let Some(reason) = reason(outcome) {
                let _ = failed.set(reason);
            }
        };
        let thread = thread::Builder::new()
            .name(name)
            .spawn(life)
            .map_err(|source| MachineError::Thread { source })?;
        let Ok(handle) = start.recv() else {
            // It ended before it had started; a thread that caught its panic is joined without one.
            let _ = thread.join();
            let reason = failure
                .get()
                .map_or("it ended while it started", String::as_str);
            return Err(MachineError::Failed {
                reason: reason.to_owned(),
            });
        };
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
            failure,
        })
    }

    /// Sends to peers, and says how far the node is.
    #[must_use]
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Whether it has not failed.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Why it ended by itself, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Stops the node and waits until nothing of it runs and its application is released.
    ///
    /// # Errors
    ///
    /// If it had failed before.
    pub fn stop(mut self) -> Result<(), MachineError> {
        self.end();
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(MachineError::Failed {
                reason: reason.to_owned(),
            }),
        }
    }

    fn end(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            // It catches its panics; `failure` has what they said.
            let _ = thread.join();
        }
    }

    /// Tells the node to stop; [`Self::stop`] waits until it has.
    pub(super) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A failed node no longer listens.
            let _ = stop.send(());
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// Makes a directory and takes it for this process, which shows that it can be written, too.
fn lock(directory: &Path) -> Result<File, MachineError> {
    let failed = |source| MachineError::Directory {
        path: directory.to_owned(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(directory.join(LOCK_FILE))
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(MachineError::InUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// How a node connects.
struct Connection {
    identity: PrivateKey,
    namespace: Vec<u8>,
    listen: SocketAddr,
}

/// A node's life on its own runtime.
async fn run(
    runtime: tokio::Context,
    config: NodeConfig,
    connection: Connection,
    started: mpsc::Sender<NodeHandle>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), String> {
    let Connection {
        identity,
        namespace,
        listen,
    } = connection;
    let (room, me) = (config.epochs.room(), config.epochs.me().clone());
    let handshake = Cups::<_, ChaCha20Poly1305>::new(
        Sake {
            signer: identity,
            synchrony_bound: CLOCK_DIFFERENCE_MAX,
            max_handshake_age: 2 * CLOCK_DIFFERENCE_MAX,
            version: sake::Version::V1,
        },
        cups::Version::V1,
    );
    let mut options = lookup::Config::local(
        handshake,
        &namespace,
        listen,
        NonZeroUsize::new(room).expect("at least for itself"),
        node::message_bytes_max(),
        NZUsize!(1_024),
    );
    options.tracked_peer_sets = NZUsize!(1);
    // One peer is called at a time: a node that starts reaches all soon.
    options.dial_frequency = DIAL_INTERVAL;
    options.peer_connection_cooldown = REDIAL_INTERVAL;
    options.bypass_ip_check = true;
    let (mut network, oracle) = lookup::Network::new(runtime.child("network"), options);
    let mut channel = 0;
    let channels = CHANNEL_RATES.map(|rate| {
        let registered = network.register(channel, node::quota(rate));
        channel += 1;
        registered
    });
    network.start();
    let (mut tracker, mut set) = (oracle.clone(), 0);
    let connect = move |peers: BTreeMap<PublicKey, Option<PeerAddress>>| {
        // Nodes on machines of their own have addresses. More than there is room for come only with an epoch for
        // which this node has no files.
        let placed = peers.into_iter();
        let placed = placed.filter_map(|(peer, address)| Some((peer, address?.peer())));
        let (mut peers, others): (Vec<(PublicKey, Address)>, Vec<_>) =
            placed.partition(|(peer, _)| *peer == me);
        peers.extend(others.into_iter().take(room - 1));
        tracker.track(set, Map::try_from(peers).expect("they are different"));
        set += 1;
    };
    let network = Network {
        channels,
        blocker: oracle.clone(),
        peers: oracle,
        connect: Box::new(connect),
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

/// What made a node end, unless it was told to.
fn reason(outcome: thread::Result<Result<(), String>>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(panic) => Some(panic_message(&*panic)),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

#[cfg(test)]
mod tests;
