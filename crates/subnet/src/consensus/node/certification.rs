//! Collects shares of signatures over state roots and delivers the certificates.
use super::{BUFFER_BYTES, EPOCH, Node, RETRY_INTERVAL};
use crate::consensus::{
    certification::IcScheme,
    replica::{self, Certifier, Replica},
};
use commonware_consensus::{
    IndexSubscription, Monitor,
    aggregation::{Config, Engine},
    types::{Epoch, EpochDelta, HeightDelta},
};
use commonware_cryptography::{certificate::ConstantProvider, ed25519::PublicKey};
use commonware_p2p::{Blocker, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage};
use commonware_utils::{
    NZDuration, NZU64, NZUsize,
    channel::{mpsc, ring},
};
use rand_core::CryptoRng;
use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
};

/// How many heights are certified at once.
const WINDOW: NonZeroU64 = NZU64!(16);
/// How far below the highest certified height shares still count.
const RETENTION: HeightDelta = HeightDelta::new(256);

/// Starts it on the channel for shares.
pub(super) fn start<E, S, R, B>(
    node: &Node<E>,
    replica: &Replica,
    shares: (S, R),
    blocker: B,
) -> [Handle<()>; 2]
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    let scheme = IcScheme::signer(
        node.subnet.participants().clone(),
        node.subnet.sharing().clone(),
        node.keys.share().clone(),
    )
    .expect("the share is of the subnet's key");
    let (certificates, undelivered) = mpsc::unbounded_channel();
    let certifier = Certifier {
        replica: replica.clone(),
        certificates,
    };
    let config = Config {
        monitor: OneEpoch::default(),
        provider: ConstantProvider::new(scheme),
        automaton: certifier.clone(),
        reporter: certifier,
        blocker,
        priority_acks: false,
        rebroadcast_timeout: NZDuration!(RETRY_INTERVAL),
        epoch_bounds: (EpochDelta::new(1), EpochDelta::new(1)),
        window: WINDOW,
        activity_timeout: RETENTION,
        journal_partition: node.partition("certification"),
        journal_write_buffer: BUFFER_BYTES,
        journal_replay_buffer: BUFFER_BYTES,
        journal_heights_per_section: NZU64!(64),
        journal_compression: None,
        journal_page_cache: node.cache.clone(),
        strategy: Sequential,
    };
    let delivery = replica::deliver_certificates(replica.clone(), undelivered);
    [
        Engine::new(node.runtime.child("certification"), config).start(shares),
        node.runtime
            .child("certificates")
            .dedicated()
            .spawn(move |_| delivery),
    ]
}

/// Tells aggregation that the epoch never changes. It keeps the senders, because a closed
/// subscription would end aggregation.
#[derive(Clone, Default)]
struct OneEpoch(Arc<Mutex<Vec<ring::Sender<Epoch>>>>);

impl Monitor for OneEpoch {
    type Index = Epoch;

    async fn subscribe(&mut self) -> (Epoch, IndexSubscription<Epoch>) {
        let (sender, receiver) = ring::channel(NZUsize!(1));
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        (EPOCH, receiver)
    }
}
