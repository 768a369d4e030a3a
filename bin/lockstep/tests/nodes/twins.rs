//! Byzantine nodes: every one has a twin with the same keys, and both lie.
//!
//! # Design
//! They run in the process of the test, as the product's consensus over the product's replica, so that nothing in the
//! product can be told to lie. Each honest node hears one twin of each pair: a twin knows the addresses of its own
//! half alone, and the addresses in the honest nodes' files lead to nobody. What a twin does beside voting is in
//! [`Liar`].
use crate::fleet::{Fleet, free_port};
use bytes::Bytes;
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_subnet::{
    application::{Application, FinalizedBlock, Height, Payload, Proposal},
    consensus::{
        Installed,
        genesis::{NodeKeys, PeerAddress, Subnet},
        machine::{Machine, MachineConfig},
    },
    replica::{Replica, SystemClock},
    state::{Epochs, Genesis},
};
use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use tempfile::TempDir;

/// A half of the honest nodes, and the twins that it hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Left,
    Right,
}

/// What a node proposed behind a parent, told by that one's time, on each side.
type Proposed = BTreeMap<(usize, u64), BTreeMap<Side, Payload>>;

/// What liars have done.
#[derive(Default)]
pub(crate) struct Lies {
    /// Blocks of one node behind the same parent that were not the same on both sides.
    pub(crate) conflicts: AtomicU64,
    /// Roots that no state has, given to be signed.
    pub(crate) roots: AtomicU64,
    /// Blocks with a call that nobody signed.
    pub(crate) forgeries: AtomicU64,
    /// Blocks with calls of an earlier block.
    pub(crate) repetitions: AtomicU64,
    /// Proposals that may yet get a conflicting one.
    proposed: Mutex<Proposed>,
}

impl Lies {
    /// Whether there was each kind.
    pub(crate) fn all_told(&self) -> bool {
        let Self {
            conflicts,
            roots,
            forgeries,
            repetitions,
            proposed: _,
        } = self;
        let kinds = [conflicts, roots, forgeries, repetitions];
        kinds.iter().all(|kind| kind.load(SeqCst) > 0)
    }

    fn note_proposal(&self, parent: (usize, u64), side: Side, payload: &Payload) {
        let mut proposed = lock(&self.proposed);
        let sides = proposed.entry(parent).or_default();
        if sides.insert(side, payload.clone()).is_none()
            && sides.values().any(|other| other != payload)
        {
            self.conflicts.fetch_add(1, SeqCst);
        }
    }
}

impl fmt::Display for Lies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} conflicting blocks, {} wrong roots, {} forged and {} repeated calls in blocks",
            self.conflicts.load(SeqCst),
            self.roots.load(SeqCst),
            self.forgeries.load(SeqCst),
            self.repetitions.load(SeqCst)
        )
    }
}

/// A replica that lies to consensus, and so to the other nodes: its roots are wrong, other ones for each twin, and of
/// three blocks that it proposes one has a call that nobody signed and one the calls of the block before.
struct Liar {
    replica: Arc<Replica>,
    node: usize,
    side: Side,
    lies: Arc<Lies>,
    proposals: AtomicU64,
    last_messages: Mutex<Vec<Bytes>>,
}

impl Liar {
    fn told(&self, mut root: [u8; 32]) -> [u8; 32] {
        self.lies.roots.fetch_add(1, SeqCst);
        root[0] ^= 1 + self.side as u8;
        root
    }

    fn falsified(&self, mut payload: Payload) -> Payload {
        let mut last = lock(&self.last_messages);
        match self.proposals.fetch_add(1, SeqCst) % 3 {
            1 if !payload.messages.is_empty() => {
                // The signature stands in the envelope's first half or in its second: both are changed.
                let mut forged = payload.messages[0].to_vec();
                let length = forged.len();
                forged[length / 4] ^= 1;
                forged[length * 3 / 4] ^= 1;
                payload.messages[0] = forged.into();
                self.lies.forgeries.fetch_add(1, SeqCst);
            }
            2 if !last.is_empty() => {
                payload.messages.clone_from(&last);
                self.lies.repetitions.fetch_add(1, SeqCst);
            }
            _ if !payload.messages.is_empty() => last.clone_from(&payload.messages),
            _ => {}
        }
        payload
    }
}

impl Application for Liar {
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_> {
        Box::pin(async move {
            let payload = self.replica.propose(parent_time_ns).await;
            let payload = self.falsified(payload);
            let parent = (self.node, parent_time_ns);
            self.lies.note_proposal(parent, self.side, &payload);
            payload
        })
    }

    fn verify(&self, _parent_time_ns: u64, _payload: &Payload) -> bool {
        true
    }

    fn execute(&self, block: &FinalizedBlock) -> [u8; 32] {
        self.told(self.replica.execute(block))
    }

    fn executed_height(&self) -> Height {
        self.replica.executed_height()
    }

    fn root(&self, height: Height) -> Option<[u8; 32]> {
        self.replica.root(height).map(|root| self.told(root))
    }

    fn epochs(&self) -> Arc<Epochs> {
        self.replica.epochs()
    }

    fn protocol_version(&self) -> u64 {
        self.replica.protocol_version()
    }

    fn wanted_beacons(&self) -> Vec<Height> {
        self.replica.wanted_beacons()
    }

    fn certified(&self, height: Height, root: [u8; 32], signature: [u8; 48]) {
        Application::certified(&*self.replica, height, root, signature);
    }

    fn gossip(&self, message: Bytes) {
        self.replica.gossip(message);
    }
}

/// The twins of all Byzantine nodes of a fleet.
pub(crate) struct Twins {
    directory: TempDir,
    genesis: PathBuf,
    subnet: Subnet,
    honest: usize,
    /// Where each twin listens.
    ports: BTreeMap<(usize, Side), u16>,
    running: Vec<(Machine, Arc<Replica>)>,
    lies: Arc<Lies>,
}

impl Twins {
    /// Those of the nodes that are no processes of the fleet; none runs yet.
    pub(crate) fn of(fleet: &Fleet) -> Self {
        let genesis = fleet.genesis();
        let subnet = Subnet::read(&genesis).expect("it was dealt");
        let honest = fleet.count();
        let nodes = honest..subnet.node_count();
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            ports: nodes
                .flat_map(|node| [Side::Left, Side::Right].map(|side| ((node, side), free_port())))
                .collect(),
            genesis,
            subnet,
            honest,
            running: Vec::new(),
            lies: Arc::default(),
        }
    }

    /// Starts all twins anew, those that ran with what they had: the honest nodes of `left` hear one of each pair, the
    /// others the other.
    pub(crate) fn part(&mut self, left: &[usize]) {
        self.stop();
        for node in self.honest..self.subnet.node_count() {
            for side in [Side::Left, Side::Right] {
                let hears = |honest: usize| left.contains(&honest) == (side == Side::Left);
                let twin = self.start(node, side, hears);
                self.running.push(twin);
            }
        }
    }

    /// Stops all twins.
    pub(crate) fn stop(&mut self) {
        for (machine, _) in self.running.drain(..) {
            machine.stop().expect("it ran");
        }
    }

    /// What all of them have done.
    pub(crate) fn lies(&self) -> &Lies {
        &self.lies
    }

    /// The heights that they have executed; none has ended by itself.
    pub(crate) fn heights(&self) -> Vec<Height> {
        let heights = self.running.iter().map(|(machine, replica)| {
            assert_eq!(machine.failure(), None);
            replica.executed_height()
        });
        heights.collect()
    }

    fn start(
        &self,
        node: usize,
        side: Side,
        hears: impl Fn(usize) -> bool,
    ) -> (Machine, Arc<Replica>) {
        let port = |node| self.ports[&(node, side)];
        let addresses = self.subnet.addresses().iter().enumerate();
        let addresses = addresses.map(|(index, address)| {
            if index >= self.honest {
                at(port(index))
            } else if hears(index) {
                address.clone()
            } else {
                // Where nobody is.
                at(free_port())
            }
        });
        let subnet = self.subnet.clone().with_addresses(addresses.collect());
        let subnet = subnet.expect("the ports differ");
        let keys = NodeKeys::read(&self.genesis, &subnet, node).expect("it was dealt");
        let directory = self.directory.path().join(format!("{node}-{side:?}"));
        let replica = Arc::new(open(&directory, &subnet, &keys));
        let liar = Liar {
            replica: Arc::clone(&replica),
            node,
            side,
            lies: Arc::clone(&self.lies),
            proposals: AtomicU64::new(0),
            last_messages: Mutex::default(),
        };
        let machine = Machine::start(MachineConfig {
            genesis: Installed {
                subnet: Arc::new(subnet),
                keys: Some(keys),
            },
            later: Vec::new(),
            upgrade_to: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port(node))),
            storage: directory.join("chain"),
            application: Arc::new(liar),
        })
        .expect("it starts");
        let gossip = machine.handle().gossip().clone();
        replica.set_gossip(move |message| {
            // Twins are not reliable.
            let _ = gossip.send(message);
        });
        (machine, replica)
    }
}

fn open(directory: &Path, subnet: &Subnet, keys: &NodeKeys) -> Replica {
    std::fs::create_dir_all(directory).expect("a directory");
    let genesis = Genesis::new(
        &subnet.public_key(),
        subnet.query_keys(),
        BTreeMap::default(),
    );
    let store = directory.join("state.redb");
    Replica::open(
        store.as_path(),
        genesis.expect("it is one"),
        keys.query_signing_seed(),
        Arc::new(Engine::new()),
        Arc::new(NoModels),
        Arc::new(SystemClock),
    )
    .expect("it opens")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at(port: u16) -> PeerAddress {
    format!("127.0.0.1:{port}").parse().expect("it is one")
}
