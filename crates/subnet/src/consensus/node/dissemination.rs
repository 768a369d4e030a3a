//! Spreads blocks, fetches missing ones, keeps the chain, gives final blocks to the executor.
use super::{
    BUFFER_BYTES, FETCH_RETRY_DELAY, FETCH_TIMEOUT, ITEMS_PER_SECTION, MAILBOX_SIZE, Node,
    VIEW_RETENTION,
};
use crate::consensus::{
    block::Block,
    epochs::Schedule,
    executor::{self, Queue},
    replica::Replica,
};
use commonware_broadcast::buffered;
use commonware_consensus::{
    marshal::{
        self, Start,
        core::{Actor, Mailbox},
        resolver::p2p as backfill,
        standard::Standard,
    },
    simplex::scheme::ed25519::Scheme,
};
use commonware_cryptography::{
    Digested, Digestible as _, certificate::Verifier as _, ed25519::PublicKey,
};
use commonware_p2p::{Blocker, Provider, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage, buffer::paged::CacheRef};
use commonware_storage::{archive::prunable, translator::EightCap};
use commonware_utils::{NZDuration, NZU64, NZUsize, channel::mpsc};
use rand_core::CryptoRng;
use std::num::NonZeroU64;

/// Blocks of each peer that are kept until they are final.
const BLOCKS_PER_PEER: usize = 8;

/// Heights that are pruned together.
const HEIGHTS_PER_SECTION: NonZeroU64 = NZU64!(32);

/// Starts it on the channels for whole blocks and for requests of missing ones.
pub(super) async fn start<E, S, R, B, P>(
    node: &Node<E>,
    replica: &Replica,
    (blocks, missing): ((S, R), (S, R)),
    blocker: B,
    peers: P,
) -> (Vec<Handle<()>>, Mailbox<Scheme, Standard<Block>>)
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
    P: Provider<PublicKey = PublicKey>,
{
    let me = replica.epochs.me().clone();
    let (spread, spread_mailbox) = buffered::Engine::new(
        node.runtime.child("spread"),
        buffered::Config {
            public_key: me.clone(),
            mailbox_size: MAILBOX_SIZE,
            deque_size: BLOCKS_PER_PEER,
            priority: false,
            codec_config: (),
            peer_provider: peers.clone(),
            strategy: Sequential,
        },
    );
    let fetch = backfill::init(
        node.runtime.child("fetch"),
        backfill::Config {
            public_key: me,
            peer_provider: peers,
            blocker,
            mailbox_size: MAILBOX_SIZE,
            fetch_timeout: NZDuration!(FETCH_TIMEOUT),
            fetch_retry_delay: FETCH_RETRY_DELAY,
            priority_requests: false,
            priority_responses: false,
        },
        missing,
    );
    let codec = Scheme::certificate_codec_config_unbounded();
    let finalizations = prunable::Archive::init(
        node.runtime.child("finalizations"),
        archive(&node.partition("final-certificates"), &node.cache, codec),
    )
    .await
    .expect("the archive of finalizations opens");
    let finalized_blocks = prunable::Archive::init(
        node.runtime.child("blocks"),
        archive(&node.partition("final-blocks"), &node.cache, ()),
    )
    .await
    .expect("the archive of blocks opens");
    let genesis = Block::genesis();
    let genesis_digest = genesis.digest();
    let config = marshal::Config {
        provider: Schedule(replica.epochs.clone()),
        epocher: Schedule(replica.epochs.clone()),
        start: Start::Genesis(Digested::precomputed(genesis, genesis_digest)),
        partition_prefix: node.partition("marshal"),
        mailbox_size: MAILBOX_SIZE,
        view_retention: VIEW_RETENTION,
        prunable_items_per_section: ITEMS_PER_SECTION,
        page_cache: node.cache.clone(),
        replay_buffer: BUFFER_BYTES,
        key_write_buffer: BUFFER_BYTES,
        value_write_buffer: BUFFER_BYTES,
        block_codec_config: (),
        max_repair: NZUsize!(32),
        max_pending_acks: NZUsize!(16),
        strategy: Sequential,
    };
    let (marshal, mailbox, _) = Actor::init(
        node.runtime.child("marshal"),
        finalizations,
        finalized_blocks,
        config,
    )
    .await;
    let (deliveries, queued) = mpsc::unbounded_channel();
    let queue = Queue {
        replica: replica.clone(),
        deliveries,
    };
    let execution = executor::execute(replica.clone(), mailbox.clone(), queued);
    let tasks = vec![
        spread.start(blocks),
        marshal.start(queue, spread_mailbox, fetch),
        node.runtime
            .child("executor")
            .dedicated()
            .spawn(move |_| execution),
    ];
    (tasks, mailbox)
}

fn archive<C>(name: &str, cache: &CacheRef, codec_config: C) -> prunable::Config<EightCap, C> {
    prunable::Config {
        translator: EightCap,
        metadata_partition: format!("{name}-metadata"),
        key_partition: format!("{name}-keys"),
        key_page_cache: cache.clone(),
        value_partition: format!("{name}-values"),
        compression: None,
        codec_config,
        items_per_section: HEIGHTS_PER_SECTION,
        key_write_buffer: BUFFER_BYTES,
        value_write_buffer: BUFFER_BYTES,
        replay_buffer: BUFFER_BYTES,
    }
}
