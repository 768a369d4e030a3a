//! Votes on the order of blocks.
use super::{
    BUFFER_BYTES, EPOCH, FETCH_RETRY_DELAY, FETCH_TIMEOUT, MAILBOX_SIZE, Node, RETRY_INTERVAL,
    VIEW_RETENTION, epocher,
};
use crate::{
    application::PROPOSAL_WAIT_MAX,
    consensus::{
        block::Block,
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
};
use commonware_cryptography::{Digestible as _, Sha256, ed25519::PublicKey};
use commonware_p2p::{Blocker, Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage};
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
pub(super) fn start<E, S, R, B>(
    node: &Node<E>,
    scheme: Scheme,
    replica: &Replica,
    archive: Mailbox<Scheme, Standard<Block>>,
    [votes, certificates, missing]: [(S, R); 3],
    blocker: B,
) -> Handle<()>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    let proposer = Inline::new(
        node.runtime.child("proposer"),
        replica.clone(),
        archive,
        epocher(),
    );
    let config = Config {
        scheme,
        elector: RoundRobin::<Sha256>::default(),
        blocker,
        automaton: proposer.clone(),
        relay: proposer.clone(),
        reporter: proposer,
        track_historical_votes: false,
        strategy: Sequential,
        partition: node.partition("order"),
        mailbox_size: MAILBOX_SIZE,
        epoch: EPOCH,
        floor: Floor::Genesis(Block::genesis().digest()),
        replay_buffer: BUFFER_BYTES,
        write_buffer: BUFFER_BYTES,
        page_cache: node.cache.clone(),
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
    Engine::new(node.runtime.child("order"), config).start(votes, certificates, missing)
}
