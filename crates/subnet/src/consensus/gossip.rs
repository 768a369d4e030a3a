//! Ingress messages from one node to all others.
//!
//! # Units and bounds
//!
//! A message has at most [`GOSSIP_BYTES_MAX`] bytes; each peer may send
//! [`super::node::GOSSIP_RATE`] a second. Delivery is best effort: a node that accepted a message
//! keeps it until it is ordered.
use crate::application::Application;
use bytes::Bytes;
use commonware_p2p::{Receiver, Recipients, Sender};
use commonware_utils::channel::mpsc;
use std::sync::Arc;
use thiserror::Error;

/// The most bytes of a gossiped message: 2 MiB of argument and its envelope.
pub const GOSSIP_BYTES_MAX: usize = (2 << 20) + (64 << 10);

/// Why a message was not gossiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GossipError {
    /// It has more than [`GOSSIP_BYTES_MAX`] bytes.
    #[error("message exceeds {GOSSIP_BYTES_MAX} bytes: {byte_count}")]
    TooLarge {
        /// Its size.
        byte_count: usize,
    },
    /// More messages wait than the queue holds; try again later.
    #[error("too many messages wait to be gossiped")]
    Busy,
    /// The node is stopped.
    #[error("the node is stopped")]
    Stopped,
}

/// Where a running node takes messages to gossip.
#[derive(Clone, Debug)]
pub struct Gossip(mpsc::Sender<Bytes>);

impl Gossip {
    pub(crate) fn new(queue_count_max: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(queue_count_max);
        (Self(sender), receiver)
    }

    /// Sends `message` to all other nodes. It does not come back to this one.
    ///
    /// # Errors
    ///
    /// If the message is too large, the queue is full, or the node is stopped.
    pub fn send(&self, message: Bytes) -> Result<(), GossipError> {
        if message.len() > GOSSIP_BYTES_MAX {
            return Err(GossipError::TooLarge {
                byte_count: message.len(),
            });
        }
        self.0.try_send(message).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => GossipError::Busy,
            mpsc::error::TrySendError::Closed(_) => GossipError::Stopped,
        })
    }
}

/// Sends queued messages to all peers; ends never, so that a dropped handle stops nothing.
pub(crate) async fn send(mut queue: mpsc::Receiver<Bytes>, mut peers: impl Sender) {
    while let Some(message) = queue.recv().await {
        peers.send(Recipients::All, message, false);
    }
    std::future::pending().await
}

/// Gives the application what peers sent, until the network closes.
pub(crate) async fn receive(application: Arc<dyn Application>, mut peers: impl Receiver) {
    while let Ok((_, message)) = peers.recv().await {
        if message.len() <= GOSSIP_BYTES_MAX {
            // A copy, because a view would keep the whole network buffer alive.
            application.gossip(Bytes::copy_from_slice(message.as_ref()));
        }
    }
}
