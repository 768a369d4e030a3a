//! One replica: the state machine behind consensus, and what clients ask of it.
//!
//! # Design
//! Consensus drives a replica through [`Application`](crate::application::Application); clients
//! reach it through [`Replica::submit`], [`Replica::query`], [`Replica::read_state`] and
//! [`Replica::answered`]. Blocks are executed one after another under a lock. Readers never wait
//! for execution: they see the last certified state, an immutable value.
//!
//! # Pacing
//! A proposal first waits until at most [`UNEXECUTED_BLOCKS_MAX`] blocks before it are unexecuted
//! here, so that ordering cannot run away from execution, but no longer than [`PACE`]: a slow
//! replica delays its own proposals and never the chain. Then, if there is neither a call to order
//! nor work in the state, it waits for one, no longer than [`IDLE`].
//!
//! # Errors
//! A replica that cannot execute a block as the others do halts: [`Replica::halted`] says why, and executing panics
//! from then on. One whose root differs from the certified one takes over the state of others
//! ([`StateSync`](crate::sync::StateSync)); [`Replica::divergence`] says what was wrong. If the height gives another root
//! again, it halts.
mod apply;
mod canisters;
mod clock;
mod read;
mod recent;
mod status;
mod submit;
mod sync;

pub use crate::{
    mempool::NoRoom,
    store::{DiskFault, Medium, MemoryDisk, StoreError},
};
pub use canisters::{CANISTERS_PER_PAGE_MAX, CanisterPage, CanisterSummary};
pub use clock::{Clock, SystemClock};
pub use read::{ReadError, reject_response};
pub use recent::{RECENT_BLOCKS_MAX, RecentBlock};
pub use status::Status;
pub use submit::SubmitError;

use crate::{
    application::{Height, PROPOSAL_WAIT_MAX},
    execution::Unfinished,
    mempool::Mempool,
    state::{Genesis, ReplicatedState},
    store::{Roots, Store},
    tree::{Tree, state::state_tree},
};
use bytes::Bytes;
use ic_principal::Principal;
use lockstep_canister::{engine::Engine, models::ModelHost};
use recent::Recent;
use status::Counters;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};
use sync::{Checkpoints, Divergence};
use tokio::sync::watch;

/// Blocks that may be ordered ahead of what this replica has executed when it proposes.
pub const UNEXECUTED_BLOCKS_MAX: usize = 2;
/// The longest wait for execution before a proposal.
pub const PACE: Duration = Duration::from_millis(500);
/// The longest wait for something to do before a proposal.
pub const IDLE: Duration = Duration::from_millis(500);
const _: () = assert!(PACE.as_millis() + IDLE.as_millis() <= PROPOSAL_WAIT_MAX.as_millis());
/// Executed heights that are kept until they are certified.
const UNCERTIFIED_MAX: usize = 64;

/// A state with its tree.
#[derive(Debug)]
pub struct Executed {
    /// The state.
    pub state: ReplicatedState,
    /// Its tree; the digest is the root.
    pub tree: Tree,
    /// Digest of the block it came from; zeros when it was read from the store.
    pub block: [u8; 32],
}

impl Executed {
    fn new(state: ReplicatedState, block: [u8; 32]) -> Self {
        let tree = state_tree(&state);
        Self { state, tree, block }
    }
}

/// An executed state with the subnet's signature.
#[derive(Debug, Clone)]
pub struct Certified {
    /// State and tree.
    pub executed: Arc<Executed>,
    /// BLS12-381 signature of the root.
    pub signature: [u8; 48],
}

impl Certified {
    /// The height it certifies.
    #[must_use]
    pub fn height(&self) -> Height {
        self.executed.state.height
    }
}

/// What [`Replica::execute`](crate::application::Application::execute) works on.
#[derive(Debug)]
struct Executor {
    store: Store,
    unfinished: Unfinished,
    /// Whether that is where the state is.
    in_step: bool,
}

/// Heights on their way to a certificate.
#[derive(Debug, Default)]
struct Pending {
    executed: BTreeMap<Height, Arc<Executed>>,
    /// Wanted heights that consensus has the certificates of.
    beacons: BTreeSet<Height>,
}

type Gossip = Box<dyn Fn(Bytes) + Send + Sync>;

/// A replica. Shared between consensus and clients.
pub struct Replica {
    genesis: Arc<Genesis>,
    node_key: ic_ed25519::PrivateKey,
    node_id: Principal,
    engine: Arc<Engine>,
    clock: Arc<dyn Clock>,
    executor: Mutex<Executor>,
    medium: Medium,
    roots: Mutex<Roots>,
    executed: watch::Sender<Arc<Executed>>,
    pending: Mutex<Pending>,
    certified: watch::Sender<Option<Certified>>,
    mempool: Mutex<Mempool>,
    arrivals: watch::Sender<()>,
    gossip: OnceLock<Gossip>,
    halted: OnceLock<String>,
    checkpoints: Mutex<Checkpoints>,
    diverged: Mutex<Option<Divergence>>,
    divergence_report: Mutex<Option<String>>,
    counters: Counters,
    recent: Mutex<Recent>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Replica")
            .field("node", &self.node_id.to_text())
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// Opens the replica whose state is kept on `store`, creating it when there is none.
    /// `node_key` is the Ed25519 key with which it signs answers to queries.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be used.
    pub fn open(
        store: impl Into<Medium>,
        genesis: Genesis,
        node_key: [u8; 32],
        engine: Arc<Engine>,
        models: Arc<dyn ModelHost>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let genesis = Arc::new(genesis);
        let medium = store.into();
        let store = Store::open(medium.clone(), Arc::clone(&genesis), &engine)?;
        let node_key = ic_ed25519::PrivateKey::deserialize_raw_32(&node_key);
        let node_id = Principal::self_authenticating(node_key.public_key().serialize_rfc8410_der());
        let roots = Mutex::new(store.roots());
        let executed = Arc::new(Executed::new(store.state().clone(), [0; 32]));
        let mut pending = Pending::default();
        let mut checkpoints = Checkpoints::default();
        checkpoints.add(&executed);
        if executed.state.height > 0 {
            pending
                .executed
                .insert(executed.state.height, Arc::clone(&executed));
        }
        Ok(Self {
            genesis,
            node_key,
            node_id,
            engine,
            clock,
            executor: Mutex::new(Executor {
                store,
                unfinished: Unfinished::new(models),
                in_step: true,
            }),
            medium,
            roots,
            executed: watch::Sender::new(executed),
            pending: Mutex::new(pending),
            certified: watch::Sender::new(None),
            mempool: Mutex::default(),
            arrivals: watch::Sender::new(()),
            gossip: OnceLock::new(),
            halted: OnceLock::new(),
            checkpoints: Mutex::new(checkpoints),
            diverged: Mutex::default(),
            divergence_report: Mutex::default(),
            counters: Counters::default(),
            recent: Mutex::default(),
        })
    }

    /// Sets where accepted calls go, so that the other replicas learn of them. The first one stays.
    pub fn set_gossip(&self, gossip: impl Fn(Bytes) + Send + Sync + 'static) {
        let _ = self.gossip.set(Box::new(gossip));
    }

    /// What the subnet was started with.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// This node's principal: the hash of its key.
    #[must_use]
    pub fn node_id(&self) -> Principal {
        self.node_id
    }

    /// The last executed state.
    #[must_use]
    pub fn executed(&self) -> Arc<Executed> {
        Arc::clone(&self.executed.borrow())
    }

    /// The last certified state; `None` until a height has been certified since the start.
    #[must_use]
    pub fn certified(&self) -> Option<Certified> {
        self.certified.borrow().clone()
    }

    /// The last certified height; 0 until one has been certified since the start.
    #[must_use]
    pub fn certified_height(&self) -> Height {
        self.certified
            .borrow()
            .as_ref()
            .map_or(0, Certified::height)
    }

    /// Why the replica has stopped, if it has.
    #[must_use]
    pub fn halted(&self) -> Option<&str> {
        self.halted.get().map(String::as_str)
    }

    /// Waits until a height has been certified beyond `height`.
    pub async fn certified_after(&self, height: Height) -> Certified {
        let mut certified = self.certified.subscribe();
        let found = certified.wait_for(|latest| {
            latest
                .as_ref()
                .is_some_and(|latest| latest.height() > height)
        });
        let found = found.await.expect("the replica holds the sender");
        found.clone().expect("it was waited for")
    }

    fn halt(&self, reason: String) {
        let _ = self.halted.set(reason);
    }
}

/// Locks what no panic leaves inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
