//! Votes on the order of blocks: an engine for each epoch, one after the other.
use super::{
    BUFFER_BYTES, FETCH_RETRY_DELAY, FETCH_TIMEOUT, MAILBOX_SIZE, Node, RETRY_INTERVAL,
    VIEW_RETENTION, wait_without_keys,
};
use crate::{
    application::PROPOSAL_WAIT_MAX,
    consensus::{
        block::Block,
        epochs::{ProposerSchedule, Schedule},
        replica::{CERTIFICATION_WAIT_MAX, Replica},
    },
};
use commonware_consensus::{
    marshal::{
        core::Mailbox,
        standard::{Inline, Standard},
    },
    simplex::{
        Engine,
        config::{Config, Floor, ForwardPolicy, SkipBudget, SkipPolicy},
        elector::RoundRobin,
        scheme::ed25519::Scheme,
    },
    types::Epoch,
};
use commonware_cryptography::{Digestible as _, Sha256, ed25519::PublicKey, sha256::Digest};
use commonware_p2p::{Blocker, Sender, utils::mux::MuxHandle};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage, buffer::paged::CacheRef};
use commonware_utils::NZDuration;
use rand_core::CryptoRng;
use std::time::Duration;

/// Leaves a leader time to spread its block after the longest waits of its own.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = assert!(
    PROPOSAL_WAIT_MAX.as_millis() + CERTIFICATION_WAIT_MAX.as_millis() < LEADER_TIMEOUT.as_millis()
);
const CERTIFICATION_TIMEOUT: Duration = Duration::from_secs(4);
/// After this much silence a leader's turns are skipped without waiting for them.
const INACTIVE_AFTER: Duration = Duration::from_secs(6);

/// Starts it on the channels for votes, certificates and requests of missing certificates.
pub(super) fn start<E, S, B>(
    node: &Node<E>,
    replica: &Replica,
    archive: Archive,
    channels: [MuxHandle<S>; 3],
    blocker: B,
) -> Handle<()>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    let order = Order {
        replica: replica.clone(),
        archive,
        channels,
        blocker,
        cache: node.cache.clone(),
        partition: node.partition("order"),
    };
    let context = node.runtime.child("epochs");
    context.spawn(move |runtime| order.run(runtime))
}

type Archive = Mailbox<Scheme, Standard<Block>>;

/// One engine after the other, each for an epoch.
struct Order<S: Sender, B> {
    replica: Replica,
    archive: Archive,
    channels: [MuxHandle<S>; 3],
    blocker: B,
    cache: CacheRef,
    partition: String,
}

impl<S, B> Order<S, B>
where
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    /// Ends when an engine does by itself.
    async fn run<E>(mut self, runtime: E)
    where
        E: Clock + CryptoRng + Spawner + Storage + Metrics,
    {
        let (epochs, progress) = (self.replica.epochs.clone(), self.replica.progress.clone());
        loop {
            let number = epochs.now(progress.heights().executed);
            let over = progress.until(|heights| epochs.now(heights.executed) != number);
            let Some(scheme) = epochs.get(number).and_then(|epoch| epoch.voter()) else {
                wait_without_keys(over, &runtime).await;
                continue;
            };
            let Some(mut engine) = self.engine(&runtime, number, scheme).await else {
                return;
            };
            tokio::select! {
                biased;
                () = over => {}
                _ = &mut engine => return,
            }
            // What was voted on last is executed here; whoever lacks it asks for it.
            engine.abort();
            let _ = engine.await;
        }
    }

    /// The engine of an epoch; `None`: the network is gone.
    async fn engine<E>(&mut self, runtime: &E, number: u64, scheme: Scheme) -> Option<Handle<()>>
    where
        E: Clock + CryptoRng + Spawner + Storage + Metrics,
    {
        let parent = self.replica.epochs.parent(number);
        let parent = parent.map_or_else(|| Block::genesis().digest(), Digest);
        let runtime = runtime.child("epoch").with_attribute("number", number);
        let proposer = Inline::new(
            runtime.child("proposer"),
            self.replica.clone(),
            self.archive.clone(),
            ProposerSchedule(Schedule(self.replica.epochs.clone())),
        );
        let config = Config {
            scheme,
            elector: RoundRobin::<Sha256>::default(),
            blocker: self.blocker.clone(),
            automaton: proposer.clone(),
            relay: proposer.clone(),
            reporter: proposer,
            track_historical_votes: false,
            strategy: Sequential,
            partition: format!("{}-{number}", self.partition),
            mailbox_size: MAILBOX_SIZE,
            epoch: Epoch::new(number),
            floor: Floor::Genesis(parent),
            replay_buffer: BUFFER_BYTES,
            write_buffer: BUFFER_BYTES,
            page_cache: self.cache.clone(),
            leader_timeout: LEADER_TIMEOUT,
            certification_timeout: CERTIFICATION_TIMEOUT,
            timeout_retry: RETRY_INTERVAL,
            view_retention: VIEW_RETENTION,
            skip: SkipPolicy::Enabled {
                timeout: INACTIVE_AFTER,
                budget: SkipBudget::Participants,
            },
            fetch_timeout: NZDuration!(FETCH_TIMEOUT),
            fetch_retry_delay: FETCH_RETRY_DELAY,
            forward: ForwardPolicy::SilentVoters,
        };
        let [votes, certificates, missing] = &mut self.channels;
        let votes = votes.register(number).await.ok()?;
        let certificates = certificates.register(number).await.ok()?;
        let missing = missing.register(number).await.ok()?;
        let engine = Engine::new(runtime.child("order"), config);
        Some(engine.start(votes, certificates, missing))
    }
}
