//! The seam between consensus, which orders and certifies, and the replica, which executes.
use crate::{members::Members, state::Epochs, sync::StateSync};
use bytes::Bytes;
use std::{fmt, pin::Pin, sync::Arc, time::Duration};

/// A height of the chain; the first block is 1.
pub type Height = u64;

/// The longest that [`Application::propose`] may take: a leader that is slower loses its turn.
pub const PROPOSAL_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a block carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload {
    /// The block's time, nanoseconds since 1970; more than its parent's.
    pub time_ns: u64,
    /// Signed ingress messages: CBOR envelopes as clients sent them.
    pub messages: Vec<Bytes>,
    /// Signatures of earlier heights that were waited for; consensus adds and verifies them.
    pub beacons: Vec<Beacon>,
    /// What begins some heights later; consensus adds and verifies it.
    pub switch: Option<Arc<Switch>>,
}

/// From the block that orders a switch to the first of the new epoch: more than may be final and not executed.
pub const SWITCH_DELAY: Height = 16;

/// The order to begin another epoch [`SWITCH_DELAY`] heights later: with other nodes, or other rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Its number: one more than the last epoch's that was ordered. A switch to any other has no effect.
    pub epoch: u64,
    /// The version of the rules by which its blocks change the state.
    pub protocol_version: u64,
    /// Its nodes.
    pub members: Members,
}

/// The subnet's signature of the state root after an earlier height: there is one, and nobody knows it before
/// the height is executed by honest nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// The height.
    pub height: Height,
    /// BLS12-381 signature, G1.
    pub signature: [u8; 48],
}

/// A payload in the making.
pub type Proposal<'application> = Pin<Box<dyn Future<Output = Payload> + Send + 'application>>;

/// A block whose place is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinalizedBlock {
    /// Its height.
    pub height: Height,
    /// Its digest.
    pub digest: [u8; 32],
    /// Its content.
    pub payload: Payload,
}

/// What consensus needs of a replica. Shared between consensus tasks.
pub trait Application: Send + Sync + 'static {
    /// Content for a block after one with `parent_time_ns`. Waits while there is nothing to do (no
    /// message, no running session), but no longer than [`PROPOSAL_WAIT_MAX`] in all.
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_>;

    /// Whether the payload may stand after a block with `parent_time_ns`. Looks at the payload
    /// (sizes, signatures, time, expiry) and, for a time that is ahead of it, at the clock, so that
    /// honest replicas agree but about that. Not asked about blocks that are final.
    fn verify(&self, parent_time_ns: u64, payload: &Payload) -> bool;

    /// Executes the next block and returns the state root after it, durable on return. Blocks
    /// come in order of height, each at least once; one that was executed gives its root again.
    /// Called on a thread that may block.
    fn execute(&self, block: &FinalizedBlock) -> [u8; 32];

    /// The last height that [`Self::execute`] made durable; 0 at first.
    fn executed_height(&self) -> Height;

    /// The state root after `height`, if it was executed and is still known.
    fn root(&self, height: Height) -> Option<[u8; 32]>;

    /// The heights whose signatures the next blocks should bring, the lowest first.
    fn wanted_beacons(&self) -> Vec<Height>;

    /// The epochs after the last executed height, those that have not begun included.
    fn epochs(&self) -> Arc<Epochs>;

    /// The version of the rules that blocks are executed by in the last of them.
    fn protocol_version(&self) -> u64;

    /// `signature` (48 bytes, BLS12-381 G1) certifies `root` at `height`, which has been executed. Heights may be
    /// skipped, and come in any order.
    fn certified(&self, height: Height, root: [u8; 32], signature: [u8; 48]);

    /// A signed ingress message gossiped by a peer.
    fn gossip(&self, message: Bytes);

    /// What serves and takes over states; `None`: blocks are all that there is, and none is pruned.
    fn state_sync(&self) -> Option<&dyn StateSync> {
        None
    }
}

impl fmt::Debug for dyn Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Application")
            .field("executed_height", &self.executed_height())
            .finish_non_exhaustive()
    }
}
