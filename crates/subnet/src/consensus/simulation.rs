//! A subnet in virtual time: the production node over simulated links, replayed from a seed.
//!
//! # Determinism
//!
//! Everything runs on one thread in an order that the seed fixes; time passes only when all tasks
//! wait. The same seed, scenario and applications give the same history, provided the applications
//! take time and randomness from nowhere else than [`SimulatedClock`].
//!
//! # Faults
//!
//! A node stops where it stands ([`World::stop_node`]) and loses what it had not synced. Links change
//! and vanish ([`World::set_link`]). Storage fails ([`World::fail_storage`]). What a faulty node may do
//! to others is done by production code as well: two nodes with the same keys, each seen by some of the
//! peers ([`World::start_twins`]), equivocate in everything; and [`World::start_noise`] sends what is no
//! message at all.
use super::{
    epochs::{Epochs, Installed},
    genesis::Genesis,
    node::{self, CHANNEL_RATES, Network, NodeConfig, NodeHandle},
};
use crate::application::Application;
use bytes::Bytes;
use commonware_codec::DecodeExt as _;
use commonware_consensus::simplex::{scheme::ed25519::Scheme, types::Vote};
use commonware_cryptography::{ed25519::PublicKey, sha256::Digest};
use commonware_p2p::{
    Provider, Receiver, Recipients, Sender,
    simulated::{self, Control, Link, Oracle, SplitOrigin, SplitTarget},
    utils::mux,
};
use commonware_runtime::{
    Clock as _, Handle, IoBuf, Runner as _, Spawner as _, Supervisor as _, deterministic,
};
use commonware_utils::{NZUsize, Probability, channel::oneshot};
use rand_core::Rng as _;
use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, UNIX_EPOCH},
};

/// The most bytes of a message that is none.
const NOISE_BYTES_MAX: u32 = 4_096;

/// The channel of votes among those of a node.
const VOTES_CHANNEL: u64 = 0;

/// How messages get from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulatedLink {
    /// How long a message takes at the mean.
    pub latency: Duration,
    /// The standard deviation of that.
    pub jitter: Duration,
    /// How many of 100 messages are lost.
    pub loss_percent: u8,
}

/// What a simulation is made of.
#[derive(Clone, Debug)]
pub struct SimulationConfig {
    /// Chooses the order of events, the jitter and the losses.
    pub seed: u64,
    /// The subnet.
    pub genesis: Genesis,
    /// The epochs that it may have later.
    pub later: Vec<Genesis>,
    /// Every link at first.
    pub link: SimulatedLink,
    /// How much virtual time the scenario may take; more is a panic.
    pub time_max: Duration,
    /// Whether a failing node ends, as its process would, or the simulation with it.
    pub nodes_may_fail: bool,
}

/// Which of two twins a peer is in touch with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twin {
    /// The first.
    First,
    /// The second.
    Second,
    /// Both, as if they were one.
    Both,
}

/// Runs `scenario` in a simulated world and returns what it returns.
///
/// # Panics
///
/// If the scenario exceeds the time limit, or a node fails that may not.
pub fn simulate<T>(config: SimulationConfig, scenario: impl AsyncFnOnce(World) -> T) -> T {
    let runner = deterministic::Runner::new(
        deterministic::Config::new()
            .with_seed(config.seed)
            .with_timeout(Some(config.time_max))
            .with_catch_panics(config.nodes_may_fail),
    );
    runner.start(|runtime| async move {
        let world = World::new(runtime, config).await;
        scenario(world).await
    })
}

/// Messages of twins, by their node and their digest, and which of the two said them.
type Said = Arc<Mutex<BTreeMap<(PublicKey, [u8; 32]), Twin>>>;

/// A task of the world, and whether it has ended.
struct Running {
    task: Handle<()>,
    ended: Arc<AtomicBool>,
}

/// Tells, when it is dropped, that what it belongs to has ended.
struct TellEnd(Arc<AtomicBool>);

impl Drop for TellEnd {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A simulated network and the nodes on it.
pub struct World {
    runtime: deterministic::Context,
    oracle: Oracle<PublicKey, deterministic::Context>,
    genesis: Genesis,
    later: Vec<Genesis>,
    /// So many of the later epochs are installed.
    installed: usize,
    upgrade_to: Option<u64>,
    /// Of all epochs, by their numbers here: those of the genesis first, others as epochs bring them.
    identities: Vec<PublicKey>,
    nodes: Vec<Vec<Running>>,
    handles: Vec<Option<NodeHandle>>,
    /// Twins of other nodes hear their like.
    said: Said,
    /// Whether votes to make a block final are lost; `None`: nobody looks.
    finality_withheld: Option<Arc<AtomicBool>>,
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
        let SimulationConfig { genesis, later, .. } = config;
        let mut identities: Vec<PublicKey> = Vec::new();
        for epoch in std::iter::once(&genesis).chain(&later) {
            for identity in epoch.subnet.participants() {
                if !identities.contains(identity) {
                    identities.push(identity.clone());
                }
            }
        }
        let (network, oracle) = simulated::Network::new_with_peers(
            runtime.child("network"),
            simulated::Config {
                max_size: node::message_bytes_max(),
                max_peers_per_set: NonZeroUsize::new(identities.len()).expect("a subnet has nodes"),
                disconnect_on_block: true,
                tracked_peer_sets: NZUsize!(1),
            },
            identities.clone(),
        )
        .await;
        network.start();
        let world = Self {
            runtime,
            oracle,
            genesis,
            later,
            installed: 0,
            upgrade_to: None,
            nodes: identities.iter().map(|_| Vec::new()).collect(),
            handles: identities.iter().map(|_| None).collect(),
            identities: identities.clone(),
            said: Arc::default(),
            finality_withheld: None,
        };
        for from in 0..identities.len() {
            for to in (0..identities.len()).filter(|to| *to != from) {
                world.set_link(from, to, Some(config.link)).await;
            }
        }
        world
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

    /// Changes the link from one node to another, which is a link in one direction; `None`: nothing
    /// gets through.
    ///
    /// # Panics
    ///
    /// If there is no such pair of nodes.
    pub async fn set_link(&self, from: usize, to: usize, link: Option<SimulatedLink>) {
        let [sender, receiver] = [from, to].map(|index| self.identity(index));
        // There is nothing to remove at first, and after a partition.
        let _ = self
            .oracle
            .remove_link(sender.clone(), receiver.clone())
            .await;
        if let Some(link) = link {
            let link = Link {
                latency: link.latency,
                jitter: link.jitter,
                success_rate: delivery_rate(link.loss_percent),
            };
            let added = self.oracle.add_link(sender, receiver, link).await;
            added.expect("two nodes, not linked yet");
        }
    }

    /// Lets some of 100 operations on the storage of consensus fail, on any node, until it is told
    /// otherwise. A node whose storage fails ends.
    ///
    /// # Panics
    ///
    /// If `percent` is more than 100.
    pub fn fail_storage(&self, percent: u8) {
        let rate = Probability::new(u64::from(percent), 100).expect("at most 100 of 100");
        let faults =
            deterministic::FaultConfig::default()
                .sync(rate)
                .write(deterministic::WriteConfig {
                    failure_rate: rate,
                    retention_rate: Probability::new(1, 2).expect("a half"),
                    mode: deterministic::PartialWriteMode::Prefix,
                });
        *self.runtime.storage_fault_config().write() = faults;
    }

    /// Starts node `index`, from its storage if it ran before.
    ///
    /// # Panics
    ///
    /// If there is no such node, it runs already, or it does not start.
    pub async fn start_node(
        &mut self,
        index: usize,
        application: Arc<dyn Application>,
    ) -> NodeHandle {
        self.try_start_node(index, application, 0)
            .await
            .expect("the node starts")
    }

    /// Starts node `index` with what it has stored under the number `storage`; `None`: it failed.
    ///
    /// # Panics
    ///
    /// If there is no such node or it runs already.
    pub async fn try_start_node(
        &mut self,
        index: usize,
        application: Arc<dyn Application>,
        storage: u32,
    ) -> Option<NodeHandle> {
        assert!(self.nodes[index].is_empty(), "node runs already: {index}");
        let channels = self.channels(index).await;
        self.launch(
            index,
            application,
            channels,
            format!("node-{index}-{storage}"),
        )
        .await
    }

    /// Starts two nodes that are both node `index`. A peer is in touch with the one that `sides` names
    /// for it, and takes it for the node. Of other twins the first is in touch with the first, the second
    /// with the second, where `sides` names both.
    ///
    /// # Panics
    ///
    /// If there is no such node, it runs already, a side is missing, or a twin does not start.
    pub async fn start_twins(
        &mut self,
        index: usize,
        [first, second]: [Arc<dyn Application>; 2],
        sides: &[Twin],
    ) {
        assert!(self.nodes[index].is_empty(), "node runs already: {index}");
        let identities = self.identities.iter().cloned();
        let sides: Arc<Vec<_>> = Arc::new(identities.zip(sides.iter().copied()).collect());
        assert_eq!(sides.len(), self.nodes.len(), "every peer has a side");
        let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
        for (sender, receiver) in self.channels(index).await {
            let by_side = sides.clone();
            let (me, said) = (self.identity(index), self.said.clone());
            let (first_sender, second_sender) =
                sender.split_with(move |origin, recipients, bytes| {
                    let (speaker, hidden) = match origin {
                        SplitOrigin::Primary => (Twin::First, Twin::Second),
                        SplitOrigin::Secondary => (Twin::Second, Twin::First),
                    };
                    let message = (me.clone(), *blake3::hash(bytes.as_ref()).as_bytes());
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    let by = said.entry(message).or_insert(speaker);
                    if *by != speaker {
                        *by = Twin::Both;
                    }
                    let reached = by_side.iter().filter(|(_, side)| *side != hidden);
                    let reached = reached.map(|(peer, _)| peer);
                    let chosen: Vec<_> = match recipients {
                        Recipients::All => reached.cloned().collect(),
                        Recipients::Some(peers) => reached
                            .filter(|peer| peers.contains(peer))
                            .cloned()
                            .collect(),
                        Recipients::One(one) => {
                            reached.filter(|peer| *peer == one).cloned().collect()
                        }
                    };
                    (!chosen.is_empty()).then_some(Recipients::Some(chosen))
                });
            let by_side = sides.clone();
            let (first_receiver, second_receiver) = receiver.split_with(
                self.runtime.child("twins"),
                move |(sender, _)| match by_side.iter().find(|(peer, _)| peer == sender) {
                    Some((_, Twin::First)) => SplitTarget::Primary,
                    Some((_, Twin::Second)) => SplitTarget::Secondary,
                    Some((_, Twin::Both)) => SplitTarget::Both,
                    None => SplitTarget::None,
                },
            );
            firsts.push((first_sender, first_receiver));
            seconds.push((second_sender, second_receiver));
        }
        let name = |twin: &str| format!("node-{index}-{twin}");
        let [first_name, second_name] = ["first", "second"].map(name);
        let first = self.launch(index, first, in_order(firsts), first_name);
        assert!(first.await.is_some(), "the first twin starts");
        let second = self.launch(index, second, in_order(seconds), second_name);
        assert!(second.await.is_some(), "the second twin starts");
    }

    /// Lets node `index` send random bytes to everybody, on every channel.
    ///
    /// # Panics
    ///
    /// If there is no such node or it runs already.
    pub async fn start_noise(&mut self, index: usize, interval: Duration) {
        assert!(self.nodes[index].is_empty(), "node runs already: {index}");
        let mut channels = self.channels(index).await;
        let context = self.runtime.child("noise").with_attribute("index", index);
        let ended = Arc::new(AtomicBool::new(false));
        let task = context.spawn(move |mut context| async move {
            loop {
                for (sender, _) in &mut channels {
                    let mut bytes = vec![0; (context.next_u32() % NOISE_BYTES_MAX) as usize];
                    context.fill_bytes(&mut bytes);
                    sender.send(Recipients::All, Bytes::from(bytes), false);
                }
                context.sleep(interval).await;
            }
        });
        self.nodes[index].push(Running { task, ended });
    }

    async fn launch<S, R>(
        &mut self,
        index: usize,
        application: Arc<dyn Application>,
        channels: [(S, R); CHANNEL_RATES.len()],
        partition: String,
    ) -> Option<NodeHandle>
    where
        S: Sender<PublicKey = PublicKey>,
        R: Receiver<PublicKey = PublicKey>,
    {
        let network = Network {
            channels,
            blocker: self.control(index),
            peers: self.peers(),
            // All are connected from the start.
            connect: Box::new(|_| {}),
        };
        let later = self.later.iter().take(self.installed);
        let later = later.map(|epoch| self.of_node(epoch, index)).collect();
        let epochs = Epochs::new(self.of_node(&self.genesis, index), later, self.upgrade_to);
        let config = NodeConfig {
            epochs: Arc::new(epochs.expect("keys of one node of one subnet")),
            application,
            partition,
        };
        let (started, start) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let tell = TellEnd(ended.clone());
        let context = self.runtime.child("node").with_attribute("index", index);
        let task = context.spawn(move |context| async move {
            let _tell = tell;
            let (handle, ended) = node::start(context, config, network).await;
            let _ = started.send(handle);
            ended.await;
            panic!("node {index} failed");
        });
        self.nodes[index].push(Running { task, ended });
        let handle = start.await.ok();
        self.handles[index].clone_from(&handle);
        handle
    }

    /// Lets every vote that would make a block final be lost on its way, or no longer, to the nodes that are started
    /// after this was called first: blocks are notarized, one upon the other, and none becomes final.
    pub fn withhold_finality(&mut self, withheld: bool) {
        let flag = self.finality_withheld.get_or_insert_default();
        flag.store(withheld, Relaxed);
    }

    /// The handle of node `index`, if it runs.
    #[must_use]
    pub fn node(&self, index: usize) -> Option<&NodeHandle> {
        self.handles.get(index)?.as_ref()
    }

    /// Lets all nodes install the key files of the next epoch; those that are started later have them too.
    ///
    /// # Panics
    ///
    /// If there is no further epoch.
    pub fn install_next(&mut self) {
        let epoch = &self.later[self.installed];
        for (index, handle) in self.handles.iter().enumerate() {
            if let Some(handle) = handle {
                let installed = handle.epochs().install(self.of_node(epoch, index));
                installed.expect("keys of this node");
            }
        }
        self.installed += 1;
    }

    /// Lets nodes that are started from now on want a newer version of the protocol.
    pub fn upgrade_to(&mut self, version: u64) {
        self.upgrade_to = Some(version);
    }

    fn of_node(&self, epoch: &Genesis, index: usize) -> Installed {
        let position = epoch
            .subnet
            .participants()
            .position(&self.identities[index]);
        Installed {
            subnet: Arc::new(epoch.subnet.clone()),
            keys: position.map(|position| epoch.nodes[position].clone()),
        }
    }

    /// Stops node `index` where it stands, as a crash would.
    ///
    /// # Panics
    ///
    /// If there is no such node, or it was not started.
    pub async fn stop_node(&mut self, index: usize) {
        self.handles[index] = None;
        let running = std::mem::take(&mut self.nodes[index]);
        assert!(!running.is_empty(), "the node runs");
        for Running { task, .. } in running {
            task.abort();
            let _ = task.await;
        }
    }

    /// Whether node `index` was started and has ended by itself.
    #[must_use]
    pub fn has_failed(&self, index: usize) -> bool {
        let nodes = self.nodes.get(index);
        nodes.is_some_and(|nodes| nodes.iter().any(|node| node.ended.load(Relaxed)))
    }

    fn identity(&self, index: usize) -> PublicKey {
        self.identities[index].clone()
    }

    fn control(&self, index: usize) -> Control<PublicKey, deterministic::Context> {
        self.oracle.control(self.identity(index))
    }

    fn peers(&self) -> impl Provider<PublicKey = PublicKey> + use<> {
        self.oracle.manager()
    }

    async fn channels(
        &self,
        index: usize,
    ) -> [(
        simulated::Sender<PublicKey, deterministic::Context>,
        simulated::Receiver<PublicKey>,
    ); CHANNEL_RATES.len()] {
        let control = self.control(index);
        let mut channels = Vec::with_capacity(CHANNEL_RATES.len());
        for (channel, rate) in (0..).zip(CHANNEL_RATES) {
            let registered = control.register(channel, node::quota(rate)).await;
            let (sender, mut receiver) = registered.expect("the network runs");
            if channel == VOTES_CHANNEL
                && let Some(withheld) = self.finality_withheld.clone()
            {
                let route = move |(_, message): &(PublicKey, IoBuf)| {
                    if withheld.load(Relaxed) && is_finalize(message) {
                        SplitTarget::None
                    } else {
                        SplitTarget::Primary
                    }
                };
                (receiver, _) = receiver.split_with(self.runtime.child("votes"), route);
            }
            channels.push((sender, receiver));
        }
        in_order(channels)
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

/// Whether it is a vote to make a block final.
fn is_finalize(message: &IoBuf) -> bool {
    let Ok((_, vote)) = mux::parse(message.clone()) else {
        return false;
    };
    matches!(Vote::<Scheme, Digest>::decode(vote), Ok(Vote::Finalize(_)))
}

fn in_order<T, const N: usize>(channels: Vec<T>) -> [T; N] {
    let channels = channels.try_into();
    channels.unwrap_or_else(|_| unreachable!("one for each rate"))
}

fn delivery_rate(loss_percent: u8) -> Probability {
    let delivered = u64::from(100_u8.saturating_sub(loss_percent));
    Probability::new(delivered, 100).expect("at most 100 of 100")
}
