//! Hands final blocks to the application, in order, on a thread of its own.
//!
//! # Invariants
//!
//! A block is acknowledged only after the application made its effects durable. Blocks come at
//! least once; one that was executed is acknowledged again without a second execution. If the
//! application's state is behind what was acknowledged (an older copy of its directory), the
//! blocks between are taken from consensus's own archive, at once: a node that is far behind does not
//! vote, and without its vote there may never be a next block to deliver. Blocks that the archive does not have any
//! more are waited for: the state of a later height is fetched from peers, as it is when the state here is wrong.
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
use tracing::warn;

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
    loop {
        let restored = replica.progress.restored();
        execute_archived(&replica, &archive, u64::MAX).await;
        let (block, acknowledgement) = tokio::select! {
            biased;
            () = restored => continue,
            delivery = deliveries.recv() => match delivery {
                Some(delivery) => delivery,
                None => return,
            },
        };
        let height = block.height().get();
        loop {
            let restored = replica.progress.restored();
            execute_archived(&replica, &archive, height).await;
            if height <= replica.application.executed_height() + 1 {
                break;
            }
            // Neither the state nor the chain has what is between.
            let lacking = replica.application.executed_height() + 1;
            warn!("the chain lacks block {lacking}: the next checkpoint of peers is waited for");
            restored.await;
        }
        execute_one(&replica, &block.inner().finalized(block.digest())).await;
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
        execute_one(replica, &block.inner().finalized(block.digest())).await;
    }
}

/// Executes a block, if it is the next one when the state may be changed.
async fn execute_one(replica: &Replica, block: &FinalizedBlock) {
    loop {
        let turn = replica.progress.turn().await;
        let application = &replica.application;
        let state = application.state_sync();
        if state.is_some_and(|state| state.is_diverged()) {
            let restored = replica.progress.restored();
            drop(turn);
            restored.await;
            continue;
        }
        if block.height == application.executed_height() + 1 {
            application.execute(block);
            replica.epochs.follow(&**application);
            replica.progress.note_executed(block.height);
        }
        return;
    }
}
