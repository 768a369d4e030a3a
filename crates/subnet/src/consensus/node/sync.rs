//! Serves checkpoints to peers, fetches them when this node lacks what peers no longer have, prunes the chain.
//!
//! # Design
//! One task does all of it, next to the engines, which go on meanwhile. It asks peers for offers from time to time.
//! An offer that the replica wants, with the subnet's signature, begins a [`Transfer`] from all peers that have the
//! checkpoint. When its state has been taken over, and whenever the chain here lacks the blocks behind the state, a
//! finalization at or below the state's height becomes the floor from which marshal goes on.
//!
//! # Errors
//! Peers may say anything: what they send is checked, and who sends what is wrong is not asked again in a transfer.
use super::Node;
use crate::{
    application::Height,
    consensus::{block::Block, replica::Replica, transfer::Message},
    sync::{Download, Offer, StateSync, SyncError},
};
use bytes::Bytes;
use commonware_codec::{Decode as _, DecodeExt as _, Encode as _};
use commonware_consensus::{
    Heightable as _,
    marshal::{core::Mailbox, standard::Standard},
    simplex::{scheme::ed25519::Scheme, types::Finalization},
    types,
};
use commonware_cryptography::{
    Digestible as _, Signer as _, certificate::Verifier as _, ed25519::PublicKey, sha256::Digest,
};
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage};
use rand_core::CryptoRng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How often it is looked what there is to do.
const TICK: Duration = Duration::from_millis(500);
/// Ticks from one question for offers to the next.
const TICKS_PER_QUESTION: u64 = 6;
/// Requests that a peer has at a time.
const REQUESTS_PER_PEER: usize = 4;
/// After so much time a request is made again, to another peer if there is one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests without an answer after which a peer is not asked any more in a transfer.
const LATE_MAX: u32 = 4;
/// How often an answer is offered to a network that is busy, and the time between.
const SEND_TRIES: u32 = 25;
const SEND_RETRY: Duration = Duration::from_millis(20);

type Archive = Mailbox<Scheme, Standard<Block>>;
type Final = Finalization<Scheme, Digest>;

/// Starts it on its channel.
pub(super) fn start<E, S, R>(
    node: &Node<E>,
    scheme: Scheme,
    replica: &Replica,
    archive: Archive,
    (sender, receiver): (S, R),
) -> Handle<()>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
{
    let me = node.keys.identity().public_key();
    let peers = node.subnet.participants().iter();
    let peers = peers.filter(|peer| **peer != me).cloned().collect();
    let replica = replica.clone();
    let context = node.runtime.child("sync").dedicated();
    context.spawn(move |runtime| {
        let syncing = Syncing {
            runtime,
            scheme,
            replica,
            archive,
            peers,
            sender,
            ticks: 0,
            asked: BTreeSet::new(),
            offered: BTreeMap::new(),
            best: None,
            transfer: None,
            anchor_from: None,
            pruned: 0,
        };
        syncing.run(receiver)
    })
}

/// What a transfer asked a peer.
#[derive(Default)]
struct Provider {
    requests: BTreeMap<u32, SystemTime>,
    late: u32,
}

/// A checkpoint that is being fetched.
struct Transfer {
    download: Download,
    providers: BTreeMap<PublicKey, Provider>,
    /// Who sent what is wrong.
    liars: BTreeSet<PublicKey>,
}

struct Syncing<E, S> {
    runtime: E,
    scheme: Scheme,
    replica: Replica,
    archive: Archive,
    peers: Vec<PublicKey>,
    sender: S,
    ticks: u64,
    /// Who may answer a question for offers.
    asked: BTreeSet<PublicKey>,
    /// Who offers which height.
    offered: BTreeMap<PublicKey, Height>,
    best: Option<Offer>,
    transfer: Option<Transfer>,
    /// Who may answer the question for a finalization.
    anchor_from: Option<PublicKey>,
    /// Below this height the chain was pruned.
    pruned: Height,
}

impl<E, S> Syncing<E, S>
where
    E: Clock + CryptoRng + Spawner,
    S: Sender<PublicKey = PublicKey>,
{
    async fn run<R: Receiver<PublicKey = PublicKey>>(mut self, mut receiver: R) {
        let application = Arc::clone(&self.replica.application);
        let Some(state) = application.state_sync() else {
            // Nothing to say; but what comes is taken off the channel.
            while receiver.recv().await.is_ok() {}
            return std::future::pending::<()>().await;
        };
        let mut next_tick = self.runtime.current() + TICK;
        loop {
            let pause = self.runtime.sleep_until(next_tick);
            tokio::select! {
                biased;
                () = pause => {
                    next_tick = self.runtime.current() + TICK;
                    self.tick(state).await;
                }
                message = receiver.recv() => {
                    let Ok((peer, bytes)) = message else {
                        return;
                    };
                    if let Some(message) = Message::decode(bytes.as_ref()) {
                        self.take(state, peer, message).await;
                    }
                }
            }
        }
    }

    async fn tick(&mut self, state: &dyn StateSync) {
        if self.transfer.is_none()
            && let Some(offer) = self.best.take()
            && state.wants(offer.height())
            // What cannot be kept now may be kept later.
            && let Ok(download) = state.download(offer)
        {
            let offered = self.offered.iter();
            let have = offered.filter(|(_, height)| **height == download.height());
            self.transfer = Some(Transfer {
                providers: have
                    .map(|(peer, _)| (peer.clone(), Provider::default()))
                    .collect(),
                download,
                liars: BTreeSet::new(),
            });
        }
        if self.ticks.is_multiple_of(TICKS_PER_QUESTION) {
            self.asked = self.peers.iter().cloned().collect();
            self.offered.clear();
            self.send(Recipients::All, &Message::AskOffer);
        }
        self.ticks += 1;
        self.forget_late_requests();
        self.go_on(state).await;
        self.set_floor_below_state().await;
        if let Some(oldest) = state.oldest() {
            // Whoever has that checkpoint needs a finalization at or below it.
            let kept = oldest.saturating_sub(state.checkpoint_interval());
            if kept > self.pruned {
                self.archive.prune(types::Height::new(kept));
                self.pruned = kept;
            }
        }
    }

    async fn take(&mut self, state: &dyn StateSync, peer: PublicKey, message: Message) {
        match message {
            Message::AskOffer => {
                if let Some(offer) = state.offer() {
                    self.answer(peer, &Message::Offer(offer)).await;
                }
            }
            Message::AskPart { height, index } => {
                let bytes = state.part(height, index);
                let part = Message::Part {
                    height,
                    index,
                    bytes,
                };
                self.answer(peer, &part).await;
            }
            Message::AskAnchor { height } => {
                if let Some(anchor) = self.anchor(state, height).await {
                    self.answer(peer, &anchor).await;
                }
            }
            Message::Offer(bytes) => self.take_offer(state, peer, &bytes),
            Message::Part {
                height,
                index,
                bytes,
            } => self.take_part(state, peer, height, index, bytes).await,
            Message::Anchor {
                finalization,
                block,
            } => self.take_anchor(&peer, finalization, block),
        }
    }

    /// An offer is looked at if it was asked for, and its signature if the checkpoint is wanted.
    fn take_offer(&mut self, state: &dyn StateSync, peer: PublicKey, bytes: &[u8]) {
        let claimed = Offer::claimed_height(bytes);
        if !self.asked.remove(&peer) || !claimed.is_some_and(|height| state.wants(height)) {
            return;
        }
        let Ok(offer) = Offer::decode(bytes) else {
            return;
        };
        let certificates = &self.replica.certificates;
        if !certificates.is_signature(offer.root(), offer.signature()) {
            return;
        }
        let height = offer.height();
        if let Some(transfer) = &mut self.transfer
            && transfer.download.height() == height
            && !transfer.liars.contains(&peer)
        {
            transfer.providers.entry(peer.clone()).or_default();
        }
        self.offered.insert(peer, height);
        if self.best.as_ref().is_none_or(|best| best.height() < height) {
            self.best = Some(offer);
        }
    }

    async fn take_part(
        &mut self,
        state: &dyn StateSync,
        peer: PublicKey,
        height: Height,
        index: u32,
        bytes: Option<Vec<u8>>,
    ) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Some(provider) = transfer.providers.get_mut(&peer) else {
            return;
        };
        if transfer.download.height() != height || provider.requests.remove(&index).is_none() {
            return;
        }
        provider.late = 0;
        match bytes.map(|bytes| transfer.download.accept(index, bytes)) {
            Some(Ok(())) => {}
            None => drop(transfer.providers.remove(&peer)),
            Some(Err(SyncError::Part { .. })) => {
                transfer.providers.remove(&peer);
                transfer.liars.insert(peer);
            }
            // What was fetched is there yet, as far as it could be kept.
            Some(Err(_)) => self.transfer = None,
        }
        self.go_on(state).await;
    }

    /// Asks for parts that are missing; takes over the state when none is.
    async fn go_on(&mut self, state: &dyn StateSync) {
        let Some(mut transfer) = self.transfer.take() else {
            return;
        };
        if transfer.download.is_complete() {
            self.restore(state, transfer.download).await;
            return;
        }
        if transfer.providers.is_empty() {
            // Nobody has it any more: what was fetched counts for the next one.
            return;
        }
        let providers = transfer.providers.values();
        let mut asked: BTreeSet<u32> = providers
            .flat_map(|provider| provider.requests.keys().copied())
            .collect();
        let height = transfer.download.height();
        let now = self.runtime.current();
        let mut missing = transfer.download.missing();
        let mut next = || missing.find(|index| asked.insert(*index));
        'peers: for (peer, provider) in &mut transfer.providers {
            while provider.requests.len() < REQUESTS_PER_PEER {
                let Some(index) = next() else {
                    break 'peers;
                };
                let ask = Message::AskPart { height, index };
                let recipient = Recipients::One(peer.clone());
                // If the network is busy, the tick asks again.
                if self.send(recipient, &ask) {
                    provider.requests.insert(index, now);
                } else {
                    break;
                }
            }
        }
        drop(missing);
        self.transfer = Some(transfer);
    }

    fn forget_late_requests(&mut self) {
        let now = self.runtime.current();
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        transfer.providers.retain(|_, provider| {
            let before = provider.requests.len();
            provider.requests.retain(|_, at| {
                now.duration_since(*at)
                    .is_ok_and(|age| age < REQUEST_TIMEOUT)
            });
            provider.late += (before - provider.requests.len()) as u32;
            provider.late < LATE_MAX
        });
    }

    async fn restore(&mut self, state: &dyn StateSync, download: Download) {
        let _turn = self.replica.progress.turn().await;
        // A state that is late is not needed, one that cannot be stored is fetched again: the parts are there.
        if let Ok((height, _)) = state.restore(download) {
            self.replica.progress.note_restored(height);
        }
    }

    /// Asks for a finalization from which marshal can go on, if the block behind what it has done is not here but
    /// executed.
    async fn set_floor_below_state(&mut self) {
        self.anchor_from = None;
        let executed = self.replica.application.executed_height();
        let processed = self.archive.get_processed().await;
        let processed = processed.map_or(0, |processed| processed.height().get());
        if processed >= executed {
            return;
        }
        let next = types::Height::new(processed + 1);
        if self.archive.get_block(next).await.is_some() {
            return;
        }
        let which = self.ticks as usize % self.peers.len().max(1);
        if let Some(peer) = self.peers.get(which).cloned() {
            let ask = Message::AskAnchor { height: executed };
            self.send(Recipients::One(peer.clone()), &ask);
            self.anchor_from = Some(peer);
        }
    }

    /// The newest finalization of a height or below, as far as checkpoints may need it, with its block.
    async fn anchor(&mut self, state: &dyn StateSync, height: Height) -> Option<Message> {
        let lowest = height.saturating_sub(state.checkpoint_interval());
        for height in (lowest.max(1)..=height).rev() {
            let height = types::Height::new(height);
            let Some(finalization) = self.archive.get_finalization(height).await else {
                continue;
            };
            let block = self.archive.get_block(height).await?;
            return Some(Message::Anchor {
                finalization: finalization.encode().to_vec(),
                block: block.inner().encode().to_vec(),
            });
        }
        None
    }

    fn take_anchor(&mut self, peer: &PublicKey, finalization: Vec<u8>, block: Vec<u8>) {
        if self.anchor_from.as_ref() != Some(peer) {
            return;
        }
        self.anchor_from = None;
        let codec = self.scheme.certificate_codec_config();
        let Ok(finalization) = Final::decode_cfg(Bytes::from(finalization), &codec) else {
            return;
        };
        let Ok(block) = Block::decode(Bytes::from(block)) else {
            return;
        };
        let executed = self.replica.application.executed_height();
        if block.digest() == finalization.proposal.payload
            && block.height().get() <= executed
            && finalization.verify(&mut self.runtime, &self.scheme, &Sequential)
        {
            self.archive.set_floor(finalization);
        }
    }

    /// Whether a message is on its way.
    fn send(&mut self, recipients: Recipients<PublicKey>, message: &Message) -> bool {
        let message = Bytes::from(message.encode());
        !self.sender.send(recipients, message, false).is_empty()
    }

    async fn answer(&mut self, peer: PublicKey, message: &Message) {
        let message = Bytes::from(message.encode());
        for _ in 0..SEND_TRIES {
            let recipient = Recipients::One(peer.clone());
            if !self
                .sender
                .send(recipient, message.clone(), false)
                .is_empty()
            {
                return;
            }
            self.runtime.sleep(SEND_RETRY).await;
        }
    }
}
