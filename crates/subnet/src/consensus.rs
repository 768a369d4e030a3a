//! Orders blocks among the nodes of a subnet, has them executed, certifies the state roots.
//!
//! # Design
//!
//! commonware's `simplex` (order) and `marshal` (dissemination and the archive of final blocks) do the
//! work, certificates are made by `certification`; this module is the only one that names the engine
//! (decision record 0008). It drives an [`Application`](crate::application::Application) and knows nothing of canisters.
//!
//! - [`genesis`] deals and stores the keys, and says where the nodes are.
//! - [`machine`] runs one node on its own runtime, over authenticated connections.
//! - [`loopback`] runs the nodes of a subnet in one process, each a machine, over
//!   the loopback interface.
//! - [`simulation`] runs the same nodes in virtual time over simulated links, from a seed.
//!
//! # Invariants
//!
//! - Honest nodes execute the same blocks in the same order; a block is acknowledged to consensus
//!   only after its effects are durable.
//! - Delivery is at least once, of blocks and of certificates. Certificates of some heights may
//!   never be delivered on a node that was behind.
//! - A certificate is delivered on a node after the node executed its height.
//! - At most `f = (n - 1) / 3` of `n` nodes may fail or lie, in each epoch.
//! - Which nodes an epoch has is ordered by blocks of the one before; the subnet's key stays.
mod block;
mod certification;
mod epochs;
mod executor;
pub mod genesis;
mod gossip;
pub mod loopback;
pub mod machine;
mod node;
mod progress;
mod replica;
pub mod simulation;
mod transfer;

pub use block::{MESSAGE_BYTES_MAX, MESSAGE_COUNT_MAX};
pub use epochs::{InstallError, Installed, Standing};
pub use gossip::{GOSSIP_BYTES_MAX, Gossip, GossipError};
pub use node::NodeHandle;
pub use progress::{BACKLOG_MAX, Heights};
