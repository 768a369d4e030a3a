//! One replica of a subnet: its state, its part of the chain, its kernels, the gateway before it.
//!
//! # Design
//! State lies in `state.redb` of the member's directory, its part of the chain under `chain/`. Either can be lost, or
//! both: what the chain has is executed again, what peers have is fetched, the state of a checkpoint included. Beside
//! the state lies what is fetched of one (`state.redb.sync`), and what was found to be wrong
//! (`state.redb.diverged-HEIGHT`).
//!
//! Clients are served as soon as the member is ready: a height after the one that it started with is
//! certified, and few blocks that are known to be final are not executed. Before that it says that it is not, and
//! shows operators how far it is; and so it does when an epoch begins in which it has no part.
//!
//! # Errors
//! Those of its start name what is wrong and, where something can be done, what.

use super::Keyring;
use crate::{
    error::{Failure, chain},
    resident::Resident,
};
use anyhow::{Context, Result, anyhow};
use lockstep_canister::engine::Engine;
use lockstep_gateway::{Gateway, Peers, Settings, Tls};
use lockstep_model::Model;
use lockstep_numeric::Kernels;
use lockstep_subnet::{
    application::{Application, Height},
    consensus::{
        BACKLOG_MAX, Heights, NodeHandle, Standing,
        machine::{Machine, MachineConfig, MachineError},
    },
    replica::{Replica, StoreError, SystemClock},
    state::Genesis,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, future::pending, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, task::JoinHandle, time};

/// How often it is looked whether a member is ready.
pub(crate) const READINESS_PERIOD: Duration = Duration::from_millis(10);

/// How often it is looked whether a member still has a part in its subnet.
const STANDING_PERIOD: Duration = Duration::from_secs(1);

/// How long clients on this machine wait for a member that has just been started.
const READY_WAIT: Duration = Duration::from_secs(120);

/// What a member is made of.
#[derive(Debug)]
pub(crate) struct MemberConfig {
    /// The subnet, with the addresses of its nodes, and the keys of one of them.
    pub(crate) keyring: Keyring,
    /// The version of the protocol that the operator wants, if it is a newer one than the subnet's.
    pub(crate) upgrade_to: Option<u64>,
    /// The state before the first block.
    pub(crate) genesis: Genesis,
    /// Resident models.
    pub(crate) models: Vec<Arc<Model>>,
    /// What computes for it.
    pub(crate) kernels: Arc<Kernels>,
    /// Where its state and its part of the chain lie.
    pub(crate) directory: PathBuf,
    /// Where it listens for its peers.
    pub(crate) listen: SocketAddr,
    /// Where it serves clients; port 0 takes a free one.
    pub(crate) http: SocketAddr,
    /// The certificate with which it serves them, if over TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    /// How long clients that are being answered have when it stops.
    pub(crate) drain: Duration,
    /// Where the gateways of the subnet are, as far as they are known here; this one's is added.
    pub(crate) peers: Peers,
}

/// Who sees what operators ask for.
#[derive(Debug, Default)]
struct Exposure {
    /// How long clients wait before it is ready.
    ready_wait: Duration,
    /// Where metrics are served apart.
    metrics: Option<SocketAddr>,
    /// Whether all clients see them.
    public_metrics: bool,
    /// Whether all clients see the console, not only those on this machine.
    public_console: bool,
}

/// A running replica with its gateway.
pub(crate) struct Member {
    replica: Arc<Replica>,
    kernels: Arc<Kernels>,
    machine: Machine,
    gateway: Gateway,
    url: String,
    metrics: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Member {
    /// Starts a member whose clients are on this machine, and see its metrics; from its directory if it ran before.
    pub(crate) fn start(runtime: &Runtime, config: MemberConfig) -> Result<Self> {
        let exposure = Exposure {
            ready_wait: READY_WAIT,
            public_metrics: true,
            ..Exposure::default()
        };
        Self::start_exposed(runtime, config, exposure)
    }

    /// Starts a member whose clients may be anywhere; from its directory if it ran before. Metrics are served at
    /// `metrics` alone, which only operators reach; port 0 takes a free one. With `public_console` all clients see the
    /// console, not only those on this machine.
    pub(crate) fn start_public(
        runtime: &Runtime,
        config: MemberConfig,
        metrics: Option<SocketAddr>,
        public_console: bool,
    ) -> Result<Self> {
        let exposure = Exposure {
            // Its clients have others to ask, and it may take long.
            ready_wait: Duration::ZERO,
            metrics,
            public_metrics: false,
            public_console,
        };
        Self::start_exposed(runtime, config, exposure)
    }

    fn start_exposed(runtime: &Runtime, config: MemberConfig, exposure: Exposure) -> Result<Self> {
        allow_open_files();
        let listener = listen(runtime, config.http, "clients")?;
        let metrics = exposure.metrics;
        let metrics = metrics.map(|address| listen(runtime, address, "metrics"));
        let metrics = metrics.transpose()?;
        let metrics_address = metrics.as_ref().map(TcpListener::local_addr).transpose()?;
        let scheme = if config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let keys = config.keyring.newest()?.keys;
        if config.tls.is_none() {
            // A certificate is of a name, by which alone the console can ask: it asks where it came from.
            config.peers.set(keys.index(), &url);
        }
        let replica = Arc::new(open(&config, keys.query_signing_seed())?);
        let started_at = replica.executed_height();
        let machine = Machine::start(MachineConfig {
            genesis: config.keyring.genesis,
            later: config.keyring.later,
            upgrade_to: config.upgrade_to,
            listen: config.listen,
            storage: config.directory.join("chain"),
            application: replica.clone(),
        })
        .map_err(unstartable)?;
        let gossip = machine.handle().gossip().clone();
        replica.set_gossip(move |message| {
            // Best effort: this replica keeps the message until it is ordered.
            let _ = gossip.send(message);
        });
        let readiness = Readiness {
            replica: Arc::clone(&replica),
            node: machine.handle().clone(),
            started_at,
        };
        let settings = Settings {
            ready_wait: exposure.ready_wait,
            public_metrics: exposure.public_metrics,
            public_console: exposure.public_console,
            drain_timeout: config.drain,
            ..Settings::default()
        };
        let gateway = Gateway::new(Arc::clone(&replica), settings)
            .with_peers(config.peers)
            .catching_up();
        let (stop, stopped) = oneshot::channel();
        let clients = gateway.clone();
        let tls = config.tls;
        let serving = async move { clients.serve(listener, tls, until(stopped)).await };
        let server = runtime.spawn(serve(gateway.clone(), serving, metrics, readiness));
        Ok(Self {
            replica,
            kernels: config.kernels,
            machine,
            gateway,
            url,
            metrics: metrics_address,
            stop: Some(stop),
            server,
        })
    }

    /// The replica.
    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// What it computes with.
    pub(crate) fn kernels(&self) -> &Arc<Kernels> {
        &self.kernels
    }

    /// Where it serves clients.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where it serves metrics apart, if it does.
    pub(crate) fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// How far it is.
    pub(crate) fn heights(&self) -> Heights {
        self.machine.handle().heights()
    }

    /// Consensus, as operators see it.
    pub(crate) fn node(&self) -> &NodeHandle {
        self.machine.handle()
    }

    /// Whether it has caught up since its start, and so answers clients.
    pub(crate) fn is_ready(&self) -> bool {
        self.gateway.is_ready()
    }

    /// Whether it is well.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(reason) = self.replica.halted() {
            return Err(Failure::halted(format!("the replica has halted: {reason}")).into());
        }
        if let Some(reason) = self.machine.failure() {
            return Err(anyhow!("consensus ended: {reason}"));
        }
        if self.server.is_finished() {
            return Err(anyhow!("the gateway has ended"));
        }
        Ok(())
    }

    /// Stops it: what clients are being answered is finished, state is on disk already.
    pub(crate) fn stop(mut self, runtime: &Runtime) -> Result<()> {
        self.finish_serving(runtime)?;
        Ok(self.machine.stop()?)
    }

    /// Tells the gateway to finish what it is answering, and to begin nothing more.
    pub(crate) fn begin_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // A gateway that has ended already hears nothing.
            let _ = stop.send(());
        }
    }

    /// Waits until the gateway has finished. The replica goes on: others may need it to finish theirs.
    pub(crate) fn finish_serving(&mut self, runtime: &Runtime) -> Result<()> {
        self.begin_to_stop();
        if self.server.is_finished() {
            return Ok(());
        }
        let ended = runtime.block_on(&mut self.server);
        ended.context("waiting for the gateway")
    }
}

/// What tells whether a member has caught up.
struct Readiness {
    replica: Arc<Replica>,
    node: NodeHandle,
    started_at: Height,
}

impl Readiness {
    fn is_given(&self) -> bool {
        let heights = self.node.heights();
        self.replica.certified_height() > self.started_at
            && heights.finalized.saturating_sub(heights.executed) <= BACKLOG_MAX
    }
}

/// Until the member is stopped or dropped.
async fn until(stopped: oneshot::Receiver<()>) {
    // An error means that it was dropped.
    let _ = stopped.await;
}

/// Serves as long as clients are served, who are answered from when the member is ready.
async fn serve(
    gateway: Gateway,
    clients: impl Future<Output = ()>,
    metrics: Option<TcpListener>,
    readiness: Readiness,
) {
    let node = readiness.node.clone();
    gateway.set_finalized(move || node.heights().finalized);
    let becoming_ready = async {
        while !readiness.is_given() {
            time::sleep(READINESS_PERIOD).await;
        }
        loop {
            // A node that the subnet goes on without has only old answers.
            gateway.set_ready(readiness.node.standing() == Standing::Member);
            time::sleep(STANDING_PERIOD).await;
        }
    };
    let metrics = async {
        if let Some(listener) = metrics {
            gateway.serve_metrics(listener, pending()).await;
        }
        pending::<()>().await;
    };
    tokio::select! {
        () = clients => {}
        () = becoming_ready => {}
        () = metrics => {}
    }
}

fn listen(runtime: &Runtime, address: SocketAddr, whom: &str) -> Result<TcpListener> {
    let listener = runtime.block_on(TcpListener::bind(address));
    listener.map_err(|error| {
        Failure::environment(format!("cannot listen for {whom} on {address}: {error}"))
            .hint("choose another port")
            .into()
    })
}

/// Opens the state.
fn open(config: &MemberConfig, query_seed: [u8; 32]) -> Result<Replica> {
    // With the instruction set that was just checked.
    let engine = Engine::new()
        .on_isa(config.kernels.isa())
        .map_err(Failure::user)?;
    let resident = Resident::new(config.models.iter().cloned(), Arc::clone(&config.kernels));
    let directory = &config.directory;
    fs::create_dir_all(directory).map_err(|error| {
        Failure::environment(format!("cannot create {}: {error}", directory.display()))
    })?;
    let replica = Replica::open(
        &directory.join("state.redb"),
        config.genesis.clone(),
        query_seed,
        Arc::new(engine),
        Arc::new(resident),
        Arc::new(SystemClock),
    );
    replica.map_err(|error| unreadable(error).into())
}

/// What to do about a state that does not open.
fn unreadable(error: StoreError) -> Failure {
    let (is_ours, hint) = match &error {
        StoreError::OtherGenesis { .. } | StoreError::Foreign { .. } => (
            false,
            "give the genesis that it was started with, or another directory; if the file is damaged, move it away"
                .to_owned(),
        ),
        StoreError::Database { path, .. } | StoreError::Damaged { path, .. } => (
            true,
            format!(
                "if the file is damaged, move {} away: the replica takes over the state of its peers",
                path.display()
            ),
        ),
    };
    let message = chain(error);
    let failure = if is_ours {
        Failure::environment(message)
    } else {
        Failure::user(message)
    };
    failure.hint(hint)
}

/// What to do about consensus that does not start.
fn unstartable(error: MachineError) -> anyhow::Error {
    match &error {
        MachineError::Listen { .. }
        | MachineError::Directory { .. }
        | MachineError::InUse { .. } => Failure::environment(chain(error)).into(),
        MachineError::Keys(_) | MachineError::NoAddresses => Failure::user(chain(error)).into(),
        _ => error.into(),
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
