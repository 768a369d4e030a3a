//! A subnet in virtual time: the production node over simulated links, replayed from a seed.
//!
//! # Determinism
//!
//! Everything runs on one thread in an order that the seed fixes; time passes only when all tasks
//! wait. The same seed, scenario and applications give the same history, provided the applications
//! take time and randomness from nowhere else than [`SimulatedClock`].
use super::{
    genesis::Genesis,
    node::{self, CHANNEL_RATES, Network, NodeConfig, NodeHandle},
};
use crate::application::Application;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::simulated::{self, Link, Oracle};
use commonware_runtime::{
    Clock as _, Handle, Runner as _, Spawner as _, Supervisor as _, deterministic,
};
use commonware_utils::{NZUsize, Probability, channel::oneshot};
use std::{
    fmt,
    future::Future,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct SimulationConfig {
    /// Chooses the order of events, the jitter and the losses.
    pub seed: u64,
    /// The subnet.
    pub genesis: Genesis,
    /// How long a message takes at the mean.
    pub latency: Duration,
    /// The standard deviation of that.
    pub jitter: Duration,
    /// How many of 100 messages are lost.
    pub loss_percent: u8,
    /// How much virtual time the scenario may take; more is a panic.
    pub time_max: Duration,
}

/// Runs `scenario` in a simulated world and returns what it returns.
///
/// # Panics
///
/// If the scenario exceeds the time limit or a node fails.
pub fn simulate<T>(config: SimulationConfig, scenario: impl AsyncFnOnce(World) -> T) -> T {
    let runner = deterministic::Runner::new(
        deterministic::Config::new()
            .with_seed(config.seed)
            .with_timeout(Some(config.time_max)),
    );
    runner.start(|runtime| async move {
        let world = World::new(runtime, config).await;
        scenario(world).await
    })
}

/// A simulated network and the nodes on it.
pub struct World {
    runtime: deterministic::Context,
    oracle: Oracle<PublicKey, deterministic::Context>,
    genesis: Genesis,
    nodes: Vec<Option<Handle<()>>>,
}

impl fmt::Debug for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("World")
            .field("genesis", &self.genesis)
            .finish_non_exhaustive()
    }
}

impl World {
    async fn new(runtime: deterministic::Context, config: SimulationConfig) -> Self {
        let genesis = config.genesis;
        let identities: Vec<_> = genesis.subnet.participants().iter().cloned().collect();
        let (network, oracle) = simulated::Network::new_with_peers(
            runtime.child("network"),
            simulated::Config {
                max_size: node::message_bytes_max(identities.len()),
                max_peers_per_set: NonZeroUsize::new(identities.len()).expect("a subnet has nodes"),
                disconnect_on_block: true,
                tracked_peer_sets: NZUsize!(1),
            },
            identities.clone(),
        )
        .await;
        network.start();
        let link = Link {
            latency: config.latency,
            jitter: config.jitter,
            success_rate: delivery_rate(config.loss_percent),
        };
        for from in &identities {
            for to in identities.iter().filter(|to| *to != from) {
                oracle
                    .add_link(from.clone(), to.clone(), link.clone())
                    .await
                    .expect("the link is new");
            }
        }
        let nodes = identities.iter().map(|_| None).collect();
        Self {
            runtime,
            oracle,
            genesis,
            nodes,
        }
    }

    /// The keys of the simulated subnet.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The world's time.
    #[must_use]
    pub fn clock(&self) -> SimulatedClock {
        SimulatedClock(Arc::new(self.runtime.child("clock")))
    }

    /// Starts node `index`, from its storage if it ran before.
    ///
    /// # Panics
    ///
    /// If there is no such node or it runs already.
    pub async fn start_node<A: Application>(
        &mut self,
        index: usize,
        application: Arc<A>,
    ) -> NodeHandle {
        assert!(self.nodes[index].is_none(), "node runs already: {index}");
        let keys = self.genesis.nodes[index].clone();
        let identity = self.genesis.subnet.participants()[index].clone();
        let control = self.oracle.control(identity);
        let mut channels = Vec::with_capacity(CHANNEL_RATES.len());
        for (channel, rate) in (0..).zip(CHANNEL_RATES) {
            let registered = control.register(channel, node::quota(rate)).await;
            channels.push(registered.expect("the network runs"));
        }
        let channels = channels
            .try_into()
            .unwrap_or_else(|_| unreachable!("one for each rate"));
        let network = Network {
            channels,
            blocker: control,
            peers: self.oracle.manager(),
        };
        let config = NodeConfig {
            subnet: Arc::new(self.genesis.subnet.clone()),
            keys,
            application,
            partition: format!("node-{index}"),
        };
        let (started, start) = oneshot::channel();
        let context = self.runtime.child("node").with_attribute("index", index);
        let task = context.spawn(move |context| async move {
            let (handle, ended) = node::start(context, config, network).await;
            let _ = started.send(handle);
            ended.await;
            panic!("node {index} failed");
        });
        self.nodes[index] = Some(task);
        start.await.expect("the node starts")
    }

    /// Stops node `index` where it stands, as a crash would.
    ///
    /// # Panics
    ///
    /// If there is no such running node.
    pub async fn stop_node(&mut self, index: usize) {
        let task = self.nodes[index].take().expect("the node runs");
        task.abort();
        let _ = task.await;
    }

    /// A digest of everything that happened so far; four bytes, so equality proves little.
    #[must_use]
    pub fn history_checksum(&self) -> String {
        self.runtime.auditor().state()
    }
}

/// Virtual time, for applications in a simulation.
#[derive(Clone)]
pub struct SimulatedClock(Arc<deterministic::Context>);

impl fmt::Debug for SimulatedClock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("SimulatedClock")
            .field(&self.now_ns())
            .finish()
    }
}

impl SimulatedClock {
    /// Nanoseconds since the world began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        let since = self
            .0
            .current()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Waits for `duration` of virtual time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.0.sleep(duration)
    }
}

fn delivery_rate(loss_percent: u8) -> Probability {
    let delivered = u64::from(100_u8.saturating_sub(loss_percent));
    Probability::new(delivered, 100).expect("at most 100 of 100")
}
