//! Certifies what is executed: the [`Collector`] at work on the channel for shares.
use super::{Node, wait_without_keys};
use crate::consensus::{
    block::BEACON_COUNT_MAX,
    certification::{
        collector::{Action, Collector},
        message::{self, Message},
    },
    progress::BACKLOG_MAX,
    replica::Replica,
};
use commonware_codec::{DecodeExt as _, Encode as _};
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{Blocker, Receiver, Recipients, Sender, block, utils::mux::MuxHandle};
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage};
use rand_core::CryptoRng;
use std::{collections::BTreeMap, time::Duration};

pub(super) const MESSAGE_BYTES_MAX: usize = message::MESSAGE_BYTES_MAX;

/// How often shares are sent again whose certificates lack.
const AGAIN_INTERVAL: Duration = Duration::from_millis(500);

/// Starts it on the channel for shares, on a thread of its own: signatures take their time.
pub(super) fn start<E, S, B>(
    node: &Node<E>,
    replica: &Replica,
    mut channel: MuxHandle<S>,
    blocker: B,
) -> Handle<()>
where
    E: Clock + CryptoRng + Spawner + Storage + Metrics,
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    let replica = replica.clone();
    let context = node.runtime.child("certification").dedicated();
    context.spawn(move |clock| async move {
        let (epochs, progress) = (replica.epochs.clone(), replica.progress.clone());
        loop {
            let number = epochs.now(progress.heights().executed);
            let over = progress.until(|heights| epochs.now(heights.executed) != number);
            let epoch = epochs.get(number);
            let Some((epoch, signer)) = epoch.and_then(|epoch| {
                let signer = epoch.signer()?;
                Some((epoch, signer))
            }) else {
                wait_without_keys(over, &clock).await;
                continue;
            };
            let Ok((sender, receiver)) = channel.register(number).await else {
                return;
            };
            let certification = Certification {
                collector: Collector::new(signer, replica.certificates.clone()),
                participants: epoch.subnet().participants().iter().cloned().collect(),
                replica: replica.clone(),
                sender,
                blocker: blocker.clone(),
            };
            tokio::select! {
                biased;
                () = over => {}
                () = certification.run(&clock, receiver) => return,
            }
        }
    })
}

/// The work of an epoch. Heights of the last one that have no certificate yet get it from this one's nodes: the
/// signature is the same, whoever makes it.
struct Certification<S, B> {
    collector: Collector,
    /// The nodes by their numbers.
    participants: Vec<PublicKey>,
    replica: Replica,
    sender: S,
    blocker: B,
}

impl<S, B> Certification<S, B>
where
    S: Sender<PublicKey = PublicKey>,
    B: Blocker<PublicKey = PublicKey>,
{
    /// Ends when the network does.
    async fn run(mut self, clock: &impl Clock, mut peers: impl Receiver<PublicKey = PublicKey>) {
        let progress = self.replica.progress.clone();
        let mut next = 1;
        let mut again = Box::pin(clock.sleep(AGAIN_INTERVAL));
        let mut restored = Box::pin(progress.restored());
        loop {
            let heights = progress.heights();
            // While a node catches up the others have left most of its heights behind.
            let lowest = Collector::lowest(heights.finalized);
            let executed = heights.executed;
            for height in next.max(lowest)..=executed {
                // A root that is not known any more is not signed.
                if let Some(root) = self.replica.application.root(height) {
                    self.collector.executed(height, root);
                }
            }
            next = executed + 1;
            self.act();
            tokio::select! {
                biased;
                () = &mut restored => {
                    restored = Box::pin(progress.restored());
                    self.collector.forget();
                }
                () = progress.until_executed_at(next) => {}
                () = &mut again => {
                    self.want();
                    self.collector.again();
                    again = Box::pin(clock.sleep(AGAIN_INTERVAL));
                }
                message = peers.recv() => match message {
                    Ok((peer, bytes)) => self.receive(peer, Message::decode(bytes)),
                    Err(_) => return,
                },
            }
        }
    }

    /// Heights whose signatures are waited for may be older than those that are certified anyway. What a state
    /// waited for that is left behind long ago does not count.
    fn want(&mut self) {
        let Replica {
            application,
            progress,
            certificates,
            ..
        } = &self.replica;
        let heights = progress.heights();
        let mut wanted = BTreeMap::new();
        if heights.finalized - heights.executed <= BACKLOG_MAX {
            let lacking = application.wanted_beacons().into_iter();
            let lacking = lacking.filter(|height| certificates.get(*height).is_none());
            let roots = lacking.filter_map(|height| Some((height, application.root(height)?)));
            wanted.extend(roots.take(BEACON_COUNT_MAX));
        }
        self.collector.want(&wanted);
    }

    fn receive(&mut self, peer: PublicKey, message: Result<Message, commonware_codec::Error>) {
        let number = self.participants.iter().position(|other| *other == peer);
        let Some(number) = number.and_then(|number| u32::try_from(number).ok()) else {
            return;
        };
        match message {
            Ok(message) => self.collector.received(number, message),
            Err(error) => {
                block!(self.blocker, peer, %error, "invalid message about certificates");
            }
        }
    }

    fn act(&mut self) {
        for action in self.collector.actions() {
            match action {
                Action::Broadcast(message) => {
                    self.sender.send(Recipients::All, message.encode(), false);
                }
                Action::Send(node, message) => {
                    let node = self.participants[node as usize].clone();
                    self.sender
                        .send(Recipients::One(node), message.encode(), false);
                }
                Action::Deliver(certificate) => {
                    self.replica.application.certified(
                        certificate.height,
                        certificate.root,
                        certificate.signature,
                    );
                    self.replica.progress.note_certified(certificate.height);
                }
                Action::Block(node, reason) => {
                    let node = self.participants[node as usize].clone();
                    block!(self.blocker, node, reason, "invalid share or certificate");
                }
            }
        }
    }
}
