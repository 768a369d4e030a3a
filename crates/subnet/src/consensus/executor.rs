//! Hands final blocks to the application, in order, on a thread of its own.
//!
//! # Invariants
//!
//! A block is acknowledged only after the application made its effects durable. Blocks come at
//! least once; one that was executed is acknowledged again without a second execution. If the
//! application's state is behind what was acknowledged (an older copy of its directory), the
//! blocks between are taken from consensus's own archive, at once: a node that is far behind does not
//! vote, and without its vote there may never be a next block to deliver.
//!
//! # Panics
//!
//! If consensus lost blocks that the application lacks: neither can go on alone.
use super::{block::Block, replica::Replica};
use crate::application::{FinalizedBlock, Height};
use commonware_actor::Feedback;
use commonware_consensus::{
    Heightable as _, Reporter,
    marshal::{Update, core::Mailbox, standard::Standard},
    simplex::scheme::ed25519,
    types,
};
use commonware_cryptography::{Digested, Digestible as _};
use commonware_utils::{Acknowledgement as _, acknowledgement::Exact, channel::mpsc};

/// A final block and the acknowledgement that consensus waits for.
pub(crate) type Delivery = (Digested<Block>, Exact);

/// Takes final blocks from consensus and queues them; consensus bounds the queue by the
/// acknowledgements it waits for.
#[derive(Clone)]
pub(crate) struct Queue {
    pub(crate) replica: Replica,
    pub(crate) deliveries: mpsc::UnboundedSender<Delivery>,
}

impl Reporter for Queue {
    type Activity = Update<Block>;

    fn report(&mut self, update: Update<Block>) -> Feedback {
        match update {
            Update::Tip(_, height, _) => {
                self.replica.progress.note_finalized(height.get());
                Feedback::Ok
            }
            Update::Block(block, acknowledgement) => {
                match self.deliveries.send((block, acknowledgement)) {
                    Ok(()) => Feedback::Ok,
                    Err(_) => Feedback::Closed,
                }
            }
        }
    }
}

/// Executes what is queued until the queue closes.
pub(crate) async fn execute(
    replica: Replica,
    archive: Mailbox<ed25519::Scheme, Standard<Block>>,
    mut deliveries: mpsc::UnboundedReceiver<Delivery>,
) {
    execute_archived(&replica, &archive, u64::MAX).await;
    while let Some((block, acknowledgement)) = deliveries.recv().await {
        let height = block.height().get();
        execute_archived(&replica, &archive, height).await;
        let next = replica.application.executed_height() + 1;
        assert!(
            height <= next,
            "the state lacks block {next}, which consensus no longer has"
        );
        if height == next {
            execute_one(&replica, &block.inner().finalized(block.digest()));
        }
        acknowledgement.acknowledge();
    }
}

/// Executes the blocks below `end` that follow the state, as far as the archive has them.
async fn execute_archived(
    replica: &Replica,
    archive: &Mailbox<ed25519::Scheme, Standard<Block>>,
    end: Height,
) {
    loop {
        let next = replica.application.executed_height() + 1;
        if next >= end {
            return;
        }
        let Some(block) = archive.get_block(types::Height::new(next)).await else {
            return;
        };
        execute_one(replica, &block.inner().finalized(block.digest()));
    }
}

fn execute_one(replica: &Replica, block: &FinalizedBlock) {
    replica.application.execute(block);
    replica.progress.note_executed(block.height);
}
