//! Brings a replica to a certified state of others without executing the chain.
//!
//! # Design
//! Every [`Genesis::checkpoint_interval`](crate::state::Genesis::checkpoint_interval) heights a state is a
//! *checkpoint*. Its manifest names its parts by their digests; the digest of the manifest is in the state from the
//! next height on, and so below the subnet's signature. Replicas keep the states of the last [`CHECKPOINTS_KEPT`]
//! certified checkpoints in memory, where they share with the newest one what did not change, and serve them
//! (`Checkpoint`). Who needs one asks others for an [`Offer`], checks its signature, and fetches parts from whoever has
//! them ([`Download`]): each is checked when it comes, and kept by its digest, so that neither a restart nor a newer
//! checkpoint costs it again. A whole download is made into a store, which is opened as any store is, with its digest
//! checked, and takes the place of the replica's at once.
//!
//! Whoever comes to another root than the certified one does the same; [`first_difference`] says where the two states
//! part.
//!
//! # Determinism
//! Manifests are part of the state. Everything else here is not, and depends on who answers when.
mod checkpoint;
mod codec;
mod difference;
mod download;
mod manifest;
mod offer;
mod piece;
mod rows;

pub use difference::{Difference, Place, first_difference};
pub use download::Download;
pub use manifest::CheckpointId;
pub use offer::Offer;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use codec::Reader;

use crate::{application::Height, store::StoreError};

/// Checkpoints that a replica keeps.
pub const CHECKPOINTS_KEPT: usize = 2;
/// Most bytes of an offer.
pub(crate) const OFFER_BYTES_MAX: usize = 64 << 10;
/// Most bytes of a part as it is sent.
pub(crate) const PART_BYTES_MAX: usize = piece::ENCODED_BYTES_MAX;

/// Why a state was not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// An offer is malformed or contradicts itself.
    #[error("the offer is not valid: {reason}")]
    Offer {
        /// What is wrong.
        reason: &'static str,
    },
    /// A part is not what the manifest says.
    #[error("part {index} is not what the manifest says")]
    Part {
        /// Which.
        index: u32,
    },
    /// What is fetched cannot be kept, or what was fetched cannot be made into a store.
    #[error("fetched parts cannot be kept")]
    Store(#[from] StoreError),
    /// Parts are missing.
    #[error("{count} parts are missing")]
    Incomplete {
        /// How many.
        count: usize,
    },
    /// The replica has come further meanwhile.
    #[error("height {height} is no longer wanted")]
    Late {
        /// The height of the checkpoint.
        height: Height,
    },
}

/// What consensus needs of a replica for state sync.
pub trait StateSync: Send + Sync {
    /// Heights from a checkpoint to the next.
    fn checkpoint_interval(&self) -> Height;

    /// The newest checkpoint, for others; `None`: there is none to serve.
    fn offer(&self) -> Option<Vec<u8>>;

    /// A part of the checkpoint of a height, if it is kept.
    fn part(&self, height: Height, index: u32) -> Option<Vec<u8>>;

    /// The oldest checkpoint that is kept: others may go on from it, and need the blocks behind it.
    fn oldest(&self) -> Option<Height>;

    /// Whether the checkpoint of a height is to be fetched.
    fn wants(&self, height: Height) -> bool;

    /// Whether the state here is wrong: nothing more is executed before another one was taken over.
    fn is_diverged(&self) -> bool;

    /// Begins to fetch a checkpoint, or goes on with what was fetched before. The offer's signature has been verified.
    ///
    /// # Errors
    /// [`SyncError::Store`] when nothing can be kept.
    fn download(&self, offer: Offer) -> Result<Download, SyncError>;

    /// Takes over a state whose parts are all there. Its height and its root.
    ///
    /// # Errors
    /// [`SyncError`]; the replica's state is as it was.
    fn restore(&self, download: Download) -> Result<(Height, [u8; 32]), SyncError>;
}
