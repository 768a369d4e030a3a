//! A machine of a simulated subnet: a disk, a clock and, while it has power, a replica.
use crate::checks::{Agreement, Certificates};
use bytes::Bytes;
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_subnet::{
    application::{Application, Beacon, FinalizedBlock, Height, Payload, Proposal},
    consensus::simulation::{SimulatedClock, World},
    replica::{Clock, MemoryDisk, Replica, StoreError},
    state::{Epochs, Genesis},
    sync::{Download, Offer, StateSync, SyncError},
};
use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// When the world begins.
const START_NS: u64 = 1_800_000_000_000_000_000;

/// A clock that is ahead of the world's.
#[derive(Debug, Clone)]
pub(crate) struct SkewedClock {
    world: SimulatedClock,
    ahead_ns: Arc<AtomicI64>,
}

impl SkewedClock {
    pub(crate) fn new(world: SimulatedClock, ahead_ms: i64) -> Self {
        Self {
            world,
            ahead_ns: Arc::new(AtomicI64::new(ahead_ms * 1_000_000)),
        }
    }

    /// Sets by how much it is ahead, for all who read it.
    fn set(&self, ahead_ms: i64) {
        self.ahead_ns.store(ahead_ms * 1_000_000, Relaxed);
    }

    /// Another clock, ahead of this one.
    fn ahead_by(&self, ahead_ns: i64) -> Self {
        let ahead_ns = self.ahead_ns.load(Relaxed) + ahead_ns;
        Self {
            world: self.world.clone(),
            ahead_ns: Arc::new(AtomicI64::new(ahead_ns)),
        }
    }
}

impl Clock for SkewedClock {
    fn now_ns(&self) -> u64 {
        (START_NS + self.world.now_ns()).saturating_add_signed(self.ahead_ns.load(Relaxed))
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.world.sleep(duration))
    }
}

/// The checks that see what replicas do.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) agreement: Mutex<Agreement>,
    pub(crate) certificates: Mutex<Certificates>,
}

/// Locks what only this thread uses.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the checks see of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Everything.
    Honest,
    /// Nothing.
    Faulty,
    /// Nothing; and the roots it gives are wrong.
    Liar,
}

/// A replica, as consensus drives it.
pub(crate) struct Observed {
    replica: Arc<Replica>,
    node: usize,
    role: Role,
    seen: Arc<Seen>,
    upset: Arc<Upset>,
}

/// Whether a replica's state is to become, or is, another one than its blocks give.
#[derive(Debug, Default)]
struct Upset {
    wanted: AtomicBool,
    done: AtomicBool,
    restored: AtomicU64,
}

impl Observed {
    fn told(&self, mut root: [u8; 32]) -> [u8; 32] {
        if self.role == Role::Liar {
            root[0] ^= 1;
        }
        root
    }
}

impl Application for Observed {
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_> {
        self.replica.propose(parent_time_ns)
    }

    fn verify(&self, parent_time_ns: u64, payload: &Payload) -> bool {
        self.replica.verify(parent_time_ns, payload)
    }

    fn execute(&self, block: &FinalizedBlock) -> [u8; 32] {
        if self.upset.wanted.swap(false, Relaxed) {
            self.upset.done.store(true, Relaxed);
            let mut other = block.clone();
            other.payload.time_ns += 1;
            return self.replica.execute(&other);
        }
        let root = self.replica.execute(block);
        if self.role == Role::Honest && !self.upset.done.load(Relaxed) {
            let mut agreement = lock(&self.seen.agreement);
            agreement.executed(self.node, block, root);
            let mut certificates = lock(&self.seen.certificates);
            for Beacon { height, signature } in &block.payload.beacons {
                certificates.brought(*height, *signature, agreement.root(*height));
            }
        }
        self.told(root)
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
        if self.role == Role::Honest {
            let agreed = lock(&self.seen.agreement).root(height);
            lock(&self.seen.certificates).certified(height, root, signature, agreed);
        }
        Application::certified(&*self.replica, height, root, signature);
    }

    fn gossip(&self, message: Bytes) {
        self.replica.gossip(message);
    }

    fn state_sync(&self) -> Option<&dyn StateSync> {
        Some(self)
    }
}

impl StateSync for Observed {
    fn checkpoint_interval(&self) -> Height {
        self.replica.checkpoint_interval()
    }

    fn offer(&self) -> Option<Vec<u8>> {
        self.replica.offer()
    }

    fn part(&self, height: Height, index: u32) -> Option<Vec<u8>> {
        let mut part = self.replica.part(height, index)?;
        // Not always: a liar that never says the truth is found out at once.
        if self.role == Role::Liar && index.is_multiple_of(2) {
            part.iter_mut().for_each(|byte| *byte ^= 1);
        }
        Some(part)
    }

    fn oldest(&self) -> Option<Height> {
        self.replica.oldest()
    }

    fn wants(&self, height: Height) -> bool {
        self.replica.wants(height)
    }

    fn is_diverged(&self) -> bool {
        self.replica.is_diverged()
    }

    fn download(&self, offer: Offer) -> Result<Download, SyncError> {
        self.replica.download(offer)
    }

    fn restore(&self, download: Download) -> Result<(Height, [u8; 32]), SyncError> {
        let restored = self.replica.restore(download)?;
        self.upset.done.store(false, Relaxed);
        self.upset.restored.fetch_add(1, Relaxed);
        Ok(restored)
    }
}

/// How often something happened to a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Incidents {
    /// It lost power or its process ended.
    pub stops: u64,
    /// Its state was found to be damaged, and made anew from the chain.
    pub damaged: u64,
    /// It took over a state of others.
    pub restored: u64,
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) node: usize,
    pub(crate) disk: MemoryDisk,
    pub(crate) backup: Option<MemoryDisk>,
    pub(crate) replica: Option<Arc<Replica>>,
    incidents: Incidents,
    clock: SkewedClock,
    engine: Arc<Engine>,
    genesis: Genesis,
    seen: Arc<Seen>,
    upset: Arc<Upset>,
    /// Which storage its consensus has.
    storage: u32,
}

impl Machine {
    /// What happened to it.
    pub(crate) fn incidents(&self) -> Incidents {
        Incidents {
            restored: self.upset.restored.load(Relaxed),
            ..self.incidents
        }
    }

    /// Lets the next height come to another state here.
    pub(crate) fn upset(&self) {
        self.upset.wanted.store(true, Relaxed);
    }

    /// What is known of where the state became another one.
    pub(crate) fn divergence(&self) -> Option<String> {
        self.replica.as_ref()?.divergence()
    }

    pub(crate) fn new(node: usize, clock: SkewedClock, genesis: Genesis, seen: Arc<Seen>) -> Self {
        let threads = NonZeroUsize::MIN.saturating_add(node % 2);
        Self {
            node,
            disk: MemoryDisk::default(),
            backup: None,
            replica: None,
            incidents: Incidents::default(),
            clock,
            engine: Arc::new(Engine::new().on_threads(threads)),
            genesis,
            seen,
            upset: Arc::default(),
            storage: 0,
        }
    }

    /// Starts an honest node from what it has stored. State that is damaged is made anew.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) async fn start(&mut self, world: &mut World) -> Result<(), String> {
        let opened = match self.open(world, &self.disk) {
            Err(StoreError::Damaged { .. }) => {
                self.incidents.damaged += 1;
                self.disk = MemoryDisk::default();
                self.open(world, &self.disk)
            }
            opened => opened,
        };
        let replica = opened.map_err(|error| format!("node {}: {error:?}", self.node))?;
        self.run(world, replica, Role::Honest).await
    }

    pub(crate) async fn start_faulty(
        &mut self,
        world: &mut World,
        lies: bool,
    ) -> Result<(), String> {
        let role = if lies { Role::Liar } else { Role::Faulty };
        let replica = self.open(world, &self.disk);
        let replica = replica.map_err(|error| format!("node {}: {error:?}", self.node))?;
        self.run(world, replica, role).await
    }

    /// Starts the machine and another one with the same keys.
    ///
    /// # Errors
    /// If a state cannot be opened.
    pub(crate) async fn start_twins(
        &mut self,
        world: &mut World,
        sides: &[lockstep_subnet::consensus::simulation::Twin],
    ) -> Result<(), StoreError> {
        let first = self.open(world, &self.disk)?;
        // Otherwise the two would do the same, often enough.
        self.clock = self.clock.ahead_by(1_000_000);
        let second = self.open(world, &MemoryDisk::default())?;
        let twins = [first, second]
            .map(|replica| self.observed(replica, Role::Faulty) as Arc<dyn Application>);
        world.start_twins(self.node, twins, sides).await;
        Ok(())
    }

    /// The power goes; sectors that `survives` is true for reach the disk yet.
    pub(crate) async fn stop(&mut self, world: &mut World, survives: impl FnMut() -> bool) {
        self.incidents.stops += 1;
        self.disk.lose_power(survives);
        if self.replica.take().is_some() {
            world.stop_node(self.node).await;
        }
    }

    /// Its clock jumps to so much ahead.
    pub(crate) fn set_clock(&self, ahead_ms: i64) {
        self.clock.set(ahead_ms);
    }

    /// Loses everything.
    pub(crate) fn wipe(&mut self) {
        self.disk = MemoryDisk::default();
        self.storage += 1;
    }

    fn open(&self, world: &World, disk: &MemoryDisk) -> Result<Arc<Replica>, StoreError> {
        let keys = &world.genesis().nodes[self.node];
        Replica::open(
            disk.clone(),
            self.genesis.clone(),
            keys.query_signing_seed(),
            Arc::clone(&self.engine),
            Arc::new(NoModels),
            Arc::new(self.clock.clone()),
        )
        .map(Arc::new)
    }

    fn observed(&self, replica: Arc<Replica>, role: Role) -> Arc<Observed> {
        Arc::new(Observed {
            replica,
            node: self.node,
            role,
            seen: Arc::clone(&self.seen),
            upset: Arc::clone(&self.upset),
        })
    }

    async fn run(
        &mut self,
        world: &mut World,
        replica: Arc<Replica>,
        role: Role,
    ) -> Result<(), String> {
        let observed = self.observed(Arc::clone(&replica), role);
        let started = world
            .try_start_node(self.node, observed, self.storage)
            .await;
        self.replica = Some(Arc::clone(&replica));
        let handle = started.ok_or_else(|| format!("node {} does not start", self.node))?;
        let gossip = handle.gossip().clone();
        replica.set_gossip(move |message| {
            // Best effort: the replica keeps the message until it is ordered.
            let _ = gossip.send(message);
        });
        Ok(())
    }
}
