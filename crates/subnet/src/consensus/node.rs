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
    genesis::{NodeKeys, Subnet},
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
    types::{Epoch, FixedEpocher, ViewDelta},
};
use commonware_cryptography::{ed25519::PublicKey, sha256::Digest};
use commonware_p2p::{Blocker, Provider, Receiver, Sender};
use commonware_runtime::{Clock, Metrics, Quota, Spawner, Storage, buffer::paged::CacheRef};
use commonware_utils::{NZU16, NZU64, NZUsize};
use futures_util::future::select_all;
use rand_core::CryptoRng;
use std::{
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
const VIEW_RETENTION: ViewDelta = ViewDelta::new(256);
/// The only epoch: the membership is constant.
const EPOCH: Epoch = Epoch::zero();

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

/// What a node needs of the network, in the order of [`CHANNEL_RATES`].
pub(crate) struct Network<S, R, B, P> {
    pub(crate) channels: [(S, R); CHANNEL_RATES.len()],
    pub(crate) blocker: B,
    pub(crate) peers: P,
}

/// Who the node is and what it runs.
pub(crate) struct NodeConfig {
    pub(crate) subnet: Arc<Subnet>,
    pub(crate) keys: NodeKeys,
    pub(crate) application: Arc<dyn Application>,
    /// Distinguishes nodes that share one storage.
    pub(crate) partition: String,
}

/// A running node, seen from outside.
#[derive(Clone)]
pub struct NodeHandle {
    gossip: Gossip,
    progress: Arc<Progress>,
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
}

/// The largest message that nodes of a subnet of `node_count` send each other.
pub(crate) fn message_bytes_max(node_count: usize) -> u32 {
    let node_count = u32::try_from(node_count).unwrap_or(u32::MAX);
    commonware_p2p::max_message_size(&[
        simplex::max_payload_size::<Scheme, Digest>(node_count),
        marshal::max_payload_size::<Standard<Block>, Scheme>(node_count, &()),
        certification::MESSAGE_BYTES_MAX,
        GOSSIP_BYTES_MAX,
        transfer::message_bytes_max(
            Finalization::<Scheme, Digest>::max_encode_size(node_count)
                + Block::max_encode_size(&()),
        ),
    ])
}

/// Of the messages between nodes. Nodes of different versions do not connect: each would take what the other says for
/// nonsense, and block it.
pub(crate) const WIRE_VERSION: u32 = 2;

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
    subnet: Arc<Subnet>,
    keys: NodeKeys,
    cache: CacheRef,
    partition: String,
}

impl<E> Node<E> {
    fn partition(&self, part: &str) -> String {
        format!("{}-{part}", self.partition)
    }
}

fn epocher() -> FixedEpocher {
    FixedEpocher::new(NonZeroU64::MAX)
}

/// Starts a node. The future of the pair resolves when a part of it ends, which is a failure
/// unless the runtime is being stopped.
///
/// # Panics
///
/// If the storage is damaged or the keys are not of the subnet.
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
        subnet,
        keys,
        application,
        partition,
    } = config;
    let Network {
        channels,
        blocker,
        peers,
    } = network;
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
    let cache = CacheRef::new(PAGE_BYTES, PAGE_COUNT);
    let node = Node {
        runtime,
        subnet,
        keys,
        cache,
        partition,
    };
    let progress = Arc::new(Progress::new(application.executed_height()));
    let replica = Replica {
        application: application.clone(),
        progress: progress.clone(),
        certificates: Arc::new(Certificates::new(*node.subnet.sharing().public())),
    };
    let scheme = Scheme::signer(
        &namespace(&node.subnet, "votes"),
        node.subnet.participants().clone(),
        node.keys.identity().clone(),
    )
    .expect("the identity is a member");

    let (mut tasks, archive) = dissemination::start(
        &node,
        scheme.clone(),
        &replica,
        (blocks, missing_blocks),
        blocker.clone(),
        peers,
    )
    .await;
    tasks.push(sync::start(
        &node,
        scheme.clone(),
        &replica,
        archive.clone(),
        transfer,
    ));
    let votes = [votes, certificates, missing_certificates];
    tasks.push(order::start(
        &node,
        scheme,
        &replica,
        archive,
        votes,
        blocker.clone(),
    ));
    tasks.push(certification::start(&node, &replica, shares, blocker));
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
    (NodeHandle { gossip, progress }, ended)
}
