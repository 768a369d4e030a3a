//! One node: wires ordering, dissemination, execution and certification together.
//!
//! # Design
//!
//! `simplex` orders block digests, `marshal` spreads the blocks and gives the final ones in order,
//! the executor hands them to the application, `certification` has the roots signed that come out, `sync` brings a
//! node to the state of others.
//! The node is generic over the runtime and the network, so that simulations run this code.
use super::{
    block::Block,
    certification::kept::Certificates,
    epochs::{Epochs, InstallError, Installed, Standing},
    genesis::{NODE_COUNT_MAX, PeerAddress, Subnet},
    gossip::{self, GOSSIP_BYTES_MAX, Gossip},
    progress::{Heights, Progress},
    replica::Replica,
    transfer,
};
use crate::application::Application;
use commonware_consensus::{
    BoundedBlock as _,
    marshal::{self, standard::Standard},
    simplex::{self, scheme::ed25519::Scheme, types::Finalization},
    types::ViewDelta,
};
use commonware_cryptography::{ed25519::PublicKey, sha256::Digest};
use commonware_p2p::{
    Blocker, Provider, Receiver, Sender,
    utils::mux::{MuxHandle, Muxer, prefixed},
};
use commonware_runtime::{
    Clock, Handle, Metrics, Quota, Spawner, Storage, buffer::paged::CacheRef,
};
use commonware_utils::{NZU16, NZU64, NZUsize};
use futures_util::future::select_all;
use rand_core::CryptoRng;
use std::{
    collections::BTreeMap,
    fmt,
    num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

mod certification;
mod dissemination;
mod order;
mod sync;

/// Gossiped messages a second that a peer may send.
pub(crate) const GOSSIP_RATE: u32 = 1_024;

/// Questions and answers of state sync a second that a peer may send: of a mebibyte at most.
const TRANSFER_RATE: u32 = 256;
const PROTOCOL_RATE: u32 = 4_096;
/// Messages about certificates a second that a peer may send: one for each of its heights, and at most 32 again.
const SHARE_RATE: u32 = 256;
const GOSSIP_QUEUE_MAX: usize = 1_024;
const MAILBOX_SIZE: NonZeroUsize = NZUsize!(1_024);
const BUFFER_BYTES: NonZeroUsize = NZUsize!(1 << 20);
/// A page and its checksum fill a disk block.
const PAGE_BYTES: NonZeroU16 = NZU16!(4_084);
const PAGE_COUNT: NonZeroUsize = NZUsize!(512);
const ITEMS_PER_SECTION: NonZeroU64 = NZU64!(4_096);
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
const FETCH_TIMEOUT: Duration = Duration::from_secs(1);
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(100);
/// How often a node without keys for the epoch looks for them.
const KEYS_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether there are other peers.
const CONNECT_INTERVAL: Duration = Duration::from_millis(500);
const VIEW_RETENTION: ViewDelta = ViewDelta::new(256);

/// The channels of a node, numbered from 0, with the rate each peer may use.
pub(crate) const CHANNEL_RATES: [u32; 8] = [
    PROTOCOL_RATE,
    PROTOCOL_RATE,
    PROTOCOL_RATE,
    PROTOCOL_RATE,
    PROTOCOL_RATE,
    SHARE_RATE,
    GOSSIP_RATE,
    TRANSFER_RATE,
];

pub(crate) fn quota(rate: u32) -> Quota {
    Quota::per_second(NonZeroU32::new(rate).expect("rates are not zero"))
}

/// Tells the network with whom to connect from now on.
pub(crate) type Connect = Box<dyn FnMut(BTreeMap<PublicKey, Option<PeerAddress>>) + Send>;

/// What a node needs of the network, in the order of [`CHANNEL_RATES`].
pub(crate) struct Network<S, R, B, P> {
    pub(crate) channels: [(S, R); CHANNEL_RATES.len()],
    pub(crate) blocker: B,
    pub(crate) peers: P,
    pub(crate) connect: Connect,
}

/// Who the node is and what it runs.
pub(crate) struct NodeConfig {
    pub(crate) epochs: Arc<Epochs>,
    pub(crate) application: Arc<dyn Application>,
    /// Distinguishes nodes that share one storage.
    pub(crate) partition: String,
}

/// A running node, seen from outside.
#[derive(Clone)]
pub struct NodeHandle {
    gossip: Gossip,
    progress: Arc<Progress>,
    epochs: Arc<Epochs>,
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("NodeHandle")
            .field("heights", &self.heights())
            .finish()
    }
}

impl NodeHandle {
    /// Sends ingress messages to the other nodes.
    #[must_use]
    pub fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// How far the node is.
    #[must_use]
    pub fn heights(&self) -> Heights {
        self.progress.heights()
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// The number of the epoch that the next block belongs to.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epochs.now(self.heights().executed)
    }

    /// Which part the node has in ordering the next block.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.epochs.standing(self.heights().executed)
    }

    /// Installs the key files of a later epoch: this node votes for beginning it.
    ///
    /// # Errors
    ///
    /// If they are not of this subnet and this node, or the epoch was ordered with other nodes.
    pub fn install(&self, installed: Installed) -> Result<(), InstallError> {
        if installed.subnet.addresses().is_empty() {
            return Err(InstallError::NoAddresses {
                epoch: installed.subnet.epoch(),
            });
        }
        self.epochs.install(installed)
    }
}

/// The largest message that nodes of a subnet send each other, however many there will be.
pub(crate) fn message_bytes_max() -> u32 {
    let node_count = NODE_COUNT_MAX;
    commonware_p2p::max_message_size(&[
        prefixed(simplex::max_payload_size::<Scheme, Digest>(node_count)),
        marshal::max_payload_size::<Standard<Block>, Scheme>(node_count, &()),
        prefixed(certification::MESSAGE_BYTES_MAX),
        GOSSIP_BYTES_MAX,
        transfer::message_bytes_max(
            Finalization::<Scheme, Digest>::max_encode_size(node_count)
                + Block::max_encode_size(&()),
        ),
    ])
}

/// Of the messages between nodes. Nodes of different versions do not connect: each would take what the other says for
/// nonsense, and block it.
pub(crate) const WIRE_VERSION: u32 = 3;

/// What separates the messages of this subnet from those of any other.
pub(crate) fn namespace(subnet: &Subnet, purpose: &str) -> Vec<u8> {
    [
        b"lockstep/".as_slice(),
        purpose.as_bytes(),
        b"/",
        &subnet.public_key(),
    ]
    .concat()
}

/// What the parts of a node share.
struct Node<E> {
    runtime: E,
    cache: CacheRef,
    partition: String,
}

impl<E> Node<E> {
    fn partition(&self, part: &str) -> String {
        format!("{}-{part}", self.partition)
    }
}

/// Lets a channel carry messages of several epochs, so that nobody takes what is said in one for a word in another.
/// What is said in one that this node is not in is dropped.
fn by_epoch<E, S, R>(
    runtime: &E,
    name: &'static str,
    (sender, receiver): (S, R),
    tasks: &mut Vec<Handle<()>>,
) -> MuxHandle<S>
where
    E: Spawner + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
{
    let (mux, handle) = Muxer::new(runtime.child(name), sender, receiver);
    tasks.push(runtime.child(name).spawn(move |_| async move {
        let _ = mux.run().await;
    }));
    handle
}

/// Waits until an epoch is over for which this node has no keys, or a while: they may be installed later.
async fn wait_without_keys(over: impl Future<Output = ()>, clock: &impl Clock) {
    tokio::select! {
        biased;
        () = over => {}
        () = clock.sleep(KEYS_INTERVAL) => {}
    }
}

/// Connects with whom this node has to do, as that changes.
async fn connect(
    epochs: Arc<Epochs>,
    progress: Arc<Progress>,
    clock: impl Clock,
    mut connect: Connect,
    mut connected: BTreeMap<PublicKey, Option<PeerAddress>>,
) {
    loop {
        clock.sleep(CONNECT_INTERVAL).await;
        let peers = epochs.peers(progress.heights().executed);
        if peers != connected {
            connect(peers.clone());
            connected = peers;
        }
    }
}

/// Starts a node. The future of the pair resolves when a part of it ends, which is a failure
/// unless the runtime is being stopped.
///
/// # Panics
///
/// If the storage is damaged.
pub(crate) async fn start<E, S, R, B, P>(
    runtime: E,
    config: NodeConfig,
    network: Network<S, R, B, P>,
) -> (NodeHandle, impl Future<Output = ()> + use<E, S, R, B, P>)
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
    P: Provider<PublicKey = PublicKey>,
{
    let NodeConfig {
        epochs,
        application,
        partition,
    } = config;
    let Network {
        channels,
        blocker,
        peers,
        connect: mut track,
    } = network;
    epochs.follow(&*application);
    let [
        votes,
        certificates,
        missing_certificates,
        blocks,
        missing_blocks,
        shares,
        ingress,
        transfer,
    ] = channels;
    let executed = application.executed_height();
    let others = epochs.peers(executed);
    track(others.clone());
    let cache = CacheRef::new(PAGE_BYTES, PAGE_COUNT);
    let node = Node {
        runtime,
        cache,
        partition,
    };
    let progress = Arc::new(Progress::new(executed));
    let public_key = epochs.get(epochs.now(executed));
    let public_key = *public_key.expect("followed").subnet().sharing().public();
    let replica = Replica {
        application: application.clone(),
        progress: progress.clone(),
        certificates: Arc::new(Certificates::new(public_key)),
        epochs: epochs.clone(),
    };

    let (mut tasks, archive) = dissemination::start(
        &node,
        &replica,
        (blocks, missing_blocks),
        blocker.clone(),
        peers,
    )
    .await;
    tasks.push(sync::start(&node, &replica, archive.clone(), transfer));
    let [votes, certificates, missing, shares] = [
        ("votes", votes),
        ("certificates", certificates),
        ("missing", missing_certificates),
        ("shares", shares),
    ]
    .map(|(name, channel)| by_epoch(&node.runtime, name, channel, &mut tasks));
    let votes = [votes, certificates, missing];
    tasks.push(order::start(
        &node,
        &replica,
        archive,
        votes,
        blocker.clone(),
    ));
    tasks.push(certification::start(&node, &replica, shares, blocker));
    let connecting = node.runtime.child("connect").spawn({
        let (epochs, progress) = (epochs.clone(), progress.clone());
        move |clock| connect(epochs, progress, clock, track, others)
    });
    tasks.push(connecting);
    let (gossip, outgoing) = Gossip::new(GOSSIP_QUEUE_MAX);
    let sending = gossip::send(outgoing, ingress.0);
    tasks.push(node.runtime.child("gossip").spawn(move |_| sending));
    let receiving = gossip::receive(application, ingress.1);
    tasks.push(
        node.runtime
            .child("ingress")
            .dedicated()
            .spawn(move |_| receiving),
    );

    let ended = async move {
        // The tasks are aborted when the context that they were started from is dropped.
        let _node = node;
        let _ = select_all(tasks).await;
    };
    let handle = NodeHandle {
        gossip,
        progress,
        epochs,
    };
    (handle, ended)
}
