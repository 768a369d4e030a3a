//! What the engine asks about heights and epochs.
use super::Epochs;
use crate::application::Height;
use commonware_consensus::{
    simplex::scheme::ed25519::Scheme,
    types::{self, EpochInfo, Epocher},
};
use commonware_cryptography::certificate::{self, Scoped};
use std::sync::Arc;

/// The last height of an epoch after which no other was ordered: the length of the first one must fit into its type.
pub(super) const LAST_HEIGHT: Height = u64::MAX - 1;

/// What the engine asks about heights and epochs.
#[derive(Clone, Debug)]
pub(crate) struct Schedule(pub(crate) Arc<Epochs>);

impl Epocher for Schedule {
    fn containing(&self, height: types::Height) -> Option<EpochInfo> {
        let number = self.0.at(height.get())?;
        let epoch = types::Epoch::new(number);
        Some(EpochInfo::new(
            epoch,
            height,
            self.first(epoch)?,
            self.last(epoch)?,
        ))
    }

    fn first(&self, epoch: types::Epoch) -> Option<types::Height> {
        self.0.first_height(epoch.get()).map(types::Height::new)
    }

    fn last(&self, epoch: types::Epoch) -> Option<types::Height> {
        let last = self.0.last_height(epoch.get());
        Some(types::Height::new(last.unwrap_or(LAST_HEIGHT)))
    }
}

/// The same for the one who proposes. Nothing can be voted on [`SWITCH_DELAY`](crate::application::SWITCH_DELAY) heights
/// above a block that orders an epoch, and is not final yet. If all those between are notarized and none is final, only
/// another vote on one of them can make it so: the last of them is proposed again, as the last of an epoch is.
#[derive(Clone, Debug)]
pub(crate) struct ProposerSchedule(pub(crate) Schedule);

impl Epocher for ProposerSchedule {
    fn containing(&self, height: types::Height) -> Option<EpochInfo> {
        self.0.containing(height)
    }

    fn first(&self, epoch: types::Epoch) -> Option<types::Height> {
        self.0.first(epoch)
    }

    fn last(&self, epoch: types::Epoch) -> Option<types::Height> {
        let boundary = self.0.0.boundary(epoch.get());
        Some(types::Height::new(boundary.unwrap_or(LAST_HEIGHT)))
    }
}

impl certificate::Provider for Schedule {
    type Scope = types::Epoch;
    type Scheme = Scheme;

    fn scoped(&self, epoch: types::Epoch) -> Option<Scoped<Scheme>> {
        self.0.get(epoch.get()).map(|epoch| epoch.scoped())
    }
}
