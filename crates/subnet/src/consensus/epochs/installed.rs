//! Key files of a node for an epoch, and what it can be in one.
use crate::consensus::genesis::{NodeKeys, Subnet};
use std::sync::Arc;
use thiserror::Error;

/// A subnet in an epoch, and the secrets of this node in it, if it is one of its nodes.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The public part.
    pub subnet: Arc<Subnet>,
    /// The secrets.
    pub keys: Option<NodeKeys>,
}

/// Why key files cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Another key, other models, or another first version of the protocol.
    #[error("epoch {epoch} is of another subnet")]
    OtherSubnet {
        /// Its number.
        epoch: u64,
    },
    /// The secrets are of no node of that epoch.
    #[error("epoch {epoch} has no node with these keys")]
    UnknownIdentity {
        /// Its number.
        epoch: u64,
    },
    /// A node keeps its identity and its key for queries as long as it runs.
    #[error("the keys for epoch {epoch} are of another node")]
    OtherNode {
        /// Its number.
        epoch: u64,
    },
    /// No secrets at all.
    #[error("there are no keys of a node")]
    NoKeys,
    /// The subnet is in that epoch already, with other nodes.
    #[error("epoch {epoch} was ordered with other nodes")]
    Ordered {
        /// Its number.
        epoch: u64,
    },
    /// Connections are made for twice the nodes that were known at the start.
    #[error("epoch {epoch} brings more nodes than this one has made room for: start it again")]
    NoRoom {
        /// Its number.
        epoch: u64,
    },
    /// Nobody could connect.
    #[error("the nodes of epoch {epoch} have no addresses")]
    NoAddresses {
        /// Its number.
        epoch: u64,
    },
}

/// Which part a node has in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It orders and certifies.
    Member,
    /// It is one of the nodes, but has no keys for this epoch.
    NoKeys {
        /// The epoch's number.
        epoch: u64,
    },
    /// It is none of the nodes.
    Outside {
        /// The epoch's number.
        epoch: u64,
    },
}
