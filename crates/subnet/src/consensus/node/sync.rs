//! Serves checkpoints to peers, fetches them when this node lacks what peers no longer have, prunes the chain.
//!
//! # Design
//! One task does all of it, next to the engines, which go on meanwhile. It asks peers for offers from time to time.
//! An offer that the replica wants, with the subnet's signature, begins a [`Transfer`] from all peers that have the
//! checkpoint. When its state has been taken over, and whenever the chain here lacks the blocks behind the state, a
//! finalization at or below the state's height becomes the floor from which marshal goes on.
//!
//! Whoever was away while an epoch ended hears nothing of its votes any more: when nothing becomes final it asks peers
//! for finalizations a little further on, until it knows the new epoch. And nodes tell each other which switch to
//! another epoch they have installed.
//!
//! # Errors
//! Peers may say anything: what they send is checked, and who sends what is wrong is not asked again in a transfer.
mod providers;

use self::providers::{Providers, REQUESTS_PER_PEER};
use super::Node;
use crate::{
    application::{Height, SWITCH_DELAY},
    consensus::{block::Block, epochs, replica::Replica, transfer::Message},
    sync::{Download, Offer, StateSync, SyncError},
};
use bytes::Bytes;
use commonware_codec::{Decode as _, DecodeExt as _, Encode as _};
use commonware_consensus::{
    Epochable as _, Heightable as _, Reporter as _,
    marshal::{core::Mailbox, standard::Standard},
    simplex::{
        scheme::ed25519::Scheme,
        types::{Activity, Finalization},
    },
    types,
};
use commonware_cryptography::{
    Digestible as _, certificate::Verifier as _, ed25519::PublicKey, sha256::Digest,
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
/// How often an answer is offered to a network that is busy, and the time between.
const SEND_TRIES: u32 = 25;
const SEND_RETRY: Duration = Duration::from_millis(20);
/// After so much time another peer is asked for a finalization: it comes with its block.
const ANCHOR_TIMEOUT: Duration = Duration::from_secs(5);
/// After so much time what a peer said of what it has installed does not count: it says it again every few seconds.
const READY_TIMEOUT: Duration = Duration::from_secs(12);
/// Ticks without anything new that is final, after which peers are asked. An idle subnet orders a block in each.
const STILL_TICKS: u64 = 4;

type Archive = Mailbox<Scheme, Standard<Block>>;
type Final = Finalization<Scheme, Digest>;

/// Starts it on its channel.
pub(super) fn start<E, S, R>(
    node: &Node<E>,
    replica: &Replica,
    archive: Archive,
    (sender, receiver): (S, R),
) -> Handle<()>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    R: Receiver<PublicKey = PublicKey>,
{
    let replica = replica.clone();
    let context = node.runtime.child("sync").dedicated();
    context.spawn(move |runtime| {
        let syncing = Syncing {
            runtime,
            replica,
            archive,
            peers: Vec::new(),
            sender,
            ticks: 0,
            asked: BTreeSet::new(),
            offered: BTreeMap::new(),
            best: None,
            transfer: None,
            anchor_from: None,
            still: Still::default(),
            pruned: 0,
        };
        syncing.run(receiver)
    })
}

/// A checkpoint that is being fetched.
struct Transfer {
    download: Download,
    providers: Providers<PublicKey>,
}

/// What a finalization of others is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Anchor {
    /// Marshal goes on from it: the state is beyond it.
    Floor,
    /// What it makes final was not heard of here.
    Further,
}

/// Since how many ticks nothing new is final.
#[derive(Default)]
struct Still {
    finalized: Height,
    ticks: u64,
}

struct Syncing<E, S> {
    runtime: E,
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
    /// Who may answer the question for a finalization, what it is for, and since when.
    anchor_from: Option<(PublicKey, Anchor, SystemTime)>,
    still: Still,
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
        let state = application.state_sync();
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

    async fn tick(&mut self, state: Option<&dyn StateSync>) {
        let executed = self.replica.application.executed_height();
        let nodes = self.replica.epochs.peers(executed).into_keys();
        self.peers = nodes
            .filter(|node| node != self.replica.epochs.me())
            .collect();
        if self.is_left_behind() {
            // What was fetched counts for the next one.
            self.transfer = None;
        }
        if self.transfer.is_none()
            && let Some(state) = state
            && let Some(offer) = self.best.take()
            && state.wants(offer.height())
            // What cannot be kept now may be kept later.
            && let Ok(download) = state.download(offer)
        {
            let offered = self.offered.iter();
            let have = offered.filter(|(_, height)| **height == download.height());
            self.transfer = Some(Transfer {
                providers: Providers::new(have.map(|(peer, _)| peer.clone())),
                download,
            });
        }
        if self.ticks.is_multiple_of(TICKS_PER_QUESTION) {
            if state.is_some() {
                self.asked = self.peers.iter().cloned().collect();
                self.offered.clear();
                self.send(Recipients::All, &Message::AskOffer);
            }
            if let Some(switch) = self.replica.epochs.wanted(executed) {
                let switch = epochs::digest(&switch);
                self.send(Recipients::All, &Message::Ready { switch });
            }
        }
        self.ticks += 1;
        let now = self.runtime.current();
        if let Some(transfer) = &mut self.transfer {
            transfer.providers.forget_late_requests(now);
        }
        if let Some((_, _, at)) = &self.anchor_from
            && now
                .duration_since(*at)
                .is_ok_and(|age| age >= ANCHOR_TIMEOUT)
        {
            self.anchor_from = None;
        }
        if let Some(before) = now.checked_sub(READY_TIMEOUT) {
            self.replica.epochs.forget_ready(before);
        }
        if let Some(state) = state {
            self.go_on(state).await;
            self.set_floor_below_state().await;
        }
        self.ask_further();
        if let Some(state) = state
            && let Some(oldest) = state.oldest()
        {
            // Whoever has that checkpoint needs a finalization at or below it.
            let kept = oldest.saturating_sub(state.checkpoint_interval());
            if kept > self.pruned {
                self.archive.prune(types::Height::new(kept));
                self.pruned = kept;
            }
        }
    }

    /// Whether more peers offer a later checkpoint than have the one that is fetched: a few that are slow, and alone have
    /// it, could otherwise hold this node up.
    fn is_left_behind(&self) -> bool {
        let (Some(transfer), Some(best)) = (&self.transfer, &self.best) else {
            return false;
        };
        let later = self.offered.values();
        let later = later.filter(|height| **height == best.height()).count();
        best.height() > transfer.download.height() && later > transfer.providers.count()
    }

    async fn take(&mut self, state: Option<&dyn StateSync>, peer: PublicKey, message: Message) {
        match message {
            Message::AskAnchor { height } => {
                if let Some(anchor) = self.anchor(state, height).await {
                    self.answer(peer, &anchor).await;
                }
            }
            Message::Anchor {
                finalization,
                block,
            } => self.take_anchor(&peer, finalization, block),
            Message::Ready { switch } => {
                let now = self.runtime.current();
                self.replica.epochs.note_ready(&peer, switch, now);
            }
            message => {
                if let Some(state) = state {
                    self.take_of_state(state, peer, message).await;
                }
            }
        }
    }

    async fn take_of_state(&mut self, state: &dyn StateSync, peer: PublicKey, message: Message) {
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
            Message::Offer(bytes) => self.take_offer(state, peer, &bytes),
            Message::Part {
                height,
                index,
                bytes,
            } => self.take_part(state, peer, height, index, bytes).await,
            Message::AskAnchor { .. } | Message::Anchor { .. } | Message::Ready { .. } => {}
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
        {
            transfer.providers.join(peer.clone());
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
        if transfer.download.height() != height || !transfer.providers.answered(&peer, index) {
            return;
        }
        match bytes.map(|bytes| transfer.download.accept(index, bytes)) {
            Some(Ok(())) => {}
            None => transfer.providers.leave(&peer),
            Some(Err(SyncError::Part { .. })) => transfer.providers.refuse(peer),
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
        if transfer.providers.count() == 0 {
            // Nobody has it any more: what was fetched counts for the next one.
            return;
        }
        let mut asked = transfer.providers.requested();
        let height = transfer.download.height();
        let now = self.runtime.current();
        let mut missing = transfer.download.missing();
        let mut next = || missing.find(|index| asked.insert(*index));
        'peers: for (peer, provider) in transfer.providers.iter_mut() {
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

    async fn restore(&mut self, state: &dyn StateSync, download: Download) {
        let _turn = self.replica.progress.turn().await;
        // A state that is late is not needed, one that cannot be stored is fetched again: the parts are there.
        if let Ok((height, _)) = state.restore(download) {
            self.replica.epochs.follow(&*self.replica.application);
            self.replica.progress.note_restored(height);
        }
    }

    /// Asks for a finalization from which marshal can go on, if the block behind what it has done is not here but
    /// executed.
    async fn set_floor_below_state(&mut self) {
        if self.anchor_from.is_some() {
            return;
        }
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
        self.ask_anchor(executed, Anchor::Floor);
    }

    /// Asks for a finalization further on when nothing new was final for a while: of the epoch that the state is in.
    fn ask_further(&mut self) {
        let heights = self.replica.progress.heights();
        if heights.finalized > self.still.finalized {
            self.still = Still {
                finalized: heights.finalized,
                ticks: 0,
            };
        }
        self.still.ticks += 1;
        if self.still.ticks < STILL_TICKS || self.anchor_from.is_some() {
            return;
        }
        // Whatever is not known here was ordered later, and begins later.
        let mut height = heights.executed + SWITCH_DELAY;
        let epochs = &self.replica.epochs;
        if let Some(last) = epochs.last_height(epochs.now(heights.executed)) {
            height = height.min(last);
        }
        if height > heights.finalized {
            self.ask_anchor(height, Anchor::Further);
        }
    }

    fn ask_anchor(&mut self, height: Height, purpose: Anchor) {
        let which = self.ticks as usize % self.peers.len().max(1);
        if let Some(peer) = self.peers.get(which).cloned() {
            let ask = Message::AskAnchor { height };
            if self.send(Recipients::One(peer.clone()), &ask) {
                self.anchor_from = Some((peer, purpose, self.runtime.current()));
            }
        }
    }

    /// The newest finalization of a height or below, as far as checkpoints may need it, with its block.
    async fn anchor(&mut self, state: Option<&dyn StateSync>, height: Height) -> Option<Message> {
        // A question about heights that are not here must cost no more than another.
        let height = height.min(self.replica.progress.heights().finalized);
        let span = state.map_or(SWITCH_DELAY, |state| state.checkpoint_interval());
        let lowest = height.saturating_sub(span);
        for height in (lowest.max(self.pruned).max(1)..=height).rev() {
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
        let Some((_, purpose, _)) = self.anchor_from.take_if(|(from, ..)| from == peer) else {
            return;
        };
        let codec = Scheme::certificate_codec_config_unbounded();
        let Ok(finalization) = Final::decode_cfg(Bytes::from(finalization), &codec) else {
            return;
        };
        let Ok(block) = Block::decode(Bytes::from(block)) else {
            return;
        };
        let height = block.height();
        let epochs = &self.replica.epochs;
        let number = finalization.epoch().get();
        let is_of_epoch = epochs.at(height.get()) == Some(number);
        let Some(epoch) = epochs.get(number).filter(|_| is_of_epoch) else {
            return;
        };
        let is_final = block.digest() == finalization.proposal.payload
            && finalization.verify(&mut self.runtime, epoch.scheme(), &Sequential);
        if !is_final {
            return;
        }
        let heights = self.replica.progress.heights();
        match purpose {
            Anchor::Floor if height.get() <= heights.executed => {
                self.archive.set_floor(finalization);
            }
            Anchor::Further if height.get() > heights.finalized => {
                // There may be more: the next tick asks again.
                self.still.finalized = height.get();
                let _ = self.archive.report(Activity::Finalization(finalization));
            }
            _ => {}
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
