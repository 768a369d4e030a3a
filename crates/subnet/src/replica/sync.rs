//! State sync: what a replica serves of checkpoints, and how it takes over one.
//!
//! # Divergence
//! A replica whose root differs from the certified one executes nothing more until it has taken over a checkpoint. Its
//! store is kept beside, and the state that differed in memory: when the height is executed again, its root must be
//! the certified one, and where the two states part is reported. If it is not, the replica halts.
use super::{Certified, Executed, Replica, lock};
use crate::{
    application::Height,
    state::ReplicatedState,
    store::Store,
    sync::{CHECKPOINTS_KEPT, Checkpoint, Download, Offer, StateSync, SyncError, first_difference},
};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

/// Checkpoints, by height.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Executed, and not known to be certified.
    executed: BTreeMap<Height, Arc<Executed>>,
    certified: BTreeMap<Height, Arc<Checkpoint>>,
}

impl Checkpoints {
    /// Notes an executed state.
    pub(super) fn add(&mut self, executed: &Arc<Executed>) {
        if executed.state.is_checkpoint() {
            self.executed
                .insert(executed.state.height, Arc::clone(executed));
            if self.executed.len() > CHECKPOINTS_KEPT {
                self.executed.pop_first();
            }
        }
    }

    /// Notes a certified state: it may name a checkpoint.
    pub(super) fn certify(&mut self, later: &Certified) {
        let Some(named) = later.executed.state.checkpoint else {
            return;
        };
        let Some(executed) = self.executed.remove(&named.height) else {
            return;
        };
        let checkpoint = Arc::new(Checkpoint::new(executed, later));
        self.certified.insert(named.height, checkpoint);
        if self.certified.len() > CHECKPOINTS_KEPT {
            self.certified.pop_first();
        }
    }
}

/// Another state here than the certified one.
#[derive(Debug)]
pub(super) struct Divergence {
    /// The certified root.
    pub(super) root: [u8; 32],
    /// The state here.
    pub(super) executed: Arc<Executed>,
    /// Whether a checkpoint has been taken over since.
    restored: bool,
}

impl Divergence {
    pub(super) fn new(root: [u8; 32], executed: Arc<Executed>) -> Self {
        Self {
            root,
            executed,
            restored: false,
        }
    }

    fn height(&self) -> Height {
        self.executed.state.height
    }

    fn text(&self) -> String {
        format!(
            "height {} has another state here: certified root {}, root here {}",
            self.height(),
            hex::encode(self.root),
            hex::encode(self.executed.tree.digest())
        )
    }
}

impl Replica {
    /// What came of the last divergence, for people: the height, the roots, and, once it is known, where the states
    /// part first.
    #[must_use]
    pub fn divergence(&self) -> Option<String> {
        lock(&self.divergence_report).clone()
    }

    /// Whether it has another state than the subnet, or cannot go on: then clients are sent to other replicas.
    pub(super) fn is_out_of_step(&self) -> bool {
        self.halted().is_some() || self.is_diverged()
    }

    /// Notes that a state is not the certified one.
    pub(super) fn diverge(&self, root: [u8; 32], executed: Arc<Executed>) {
        let divergence = Divergence::new(root, executed);
        let mut known = lock(&self.diverged);
        match &*known {
            Some(earlier) if !earlier.restored => {}
            Some(earlier) if earlier.height() == divergence.height() => {
                self.halt(format!("{}, again", divergence.text()));
            }
            _ => {
                *lock(&self.divergence_report) = Some(divergence.text());
                *known = Some(divergence);
            }
        }
    }

    /// Compares a height that was executed again with what it had been.
    pub(super) fn compare_with_diverged(&self, executed: &Executed) {
        let mut known = lock(&self.diverged);
        let Some(divergence) = known
            .as_ref()
            .filter(|earlier| earlier.restored && earlier.height() == executed.state.height)
        else {
            return;
        };
        if *executed.tree.digest() != divergence.root {
            self.halt(format!("{}, again", divergence.text()));
            return;
        }
        self.report_difference(divergence, &executed.state);
        *known = None;
    }

    fn report_difference(&self, divergence: &Divergence, right: &ReplicatedState) {
        let difference = first_difference(&divergence.executed.state, right)
            .map_or_else(|| "nowhere".to_owned(), |difference| difference.to_string());
        let text = format!("{}; they differ first in {difference}", divergence.text());
        *lock(&self.divergence_report) = Some(text);
    }

    /// Puts another store in the place of this replica's.
    fn replace(&self, download: &Download, store: Store) -> Result<Arc<Executed>, SyncError> {
        let height = download.height();
        let mut executor = lock(&self.executor);
        let wrong = self.is_diverged();
        if !wrong && self.executed().state.height >= height {
            return Err(SyncError::Late { height });
        }
        let aside = lock(&self.diverged)
            .as_ref()
            .filter(|_| wrong)
            .map(Divergence::height);
        let genesis = Arc::clone(&self.genesis);
        let store = store.install(&self.medium, aside, genesis, &self.engine)?;
        let executed = Arc::new(Executed::new(store.state().clone(), [0; 32]));
        *lock(&self.roots) = store.roots();
        executor.store = store;
        executor.unfinished.clear();
        executor.in_step = true;
        // What was executed before is not compared with certificates any more.
        lock(&self.pending).executed.clear();
        self.note_restored(&executed.state);
        let mut pending = lock(&self.pending);
        pending.executed.insert(height, Arc::clone(&executed));
        let mut mempool = lock(&self.mempool);
        let before = self.executed();
        mempool.executed(&executed.state, &before.state.history);
        self.executed.send_replace(Arc::clone(&executed));
        Ok(executed)
    }

    /// A divergence is over, or its height is going to be executed again.
    fn note_restored(&self, state: &ReplicatedState) {
        let mut diverged = lock(&self.diverged);
        let Some(known) = diverged.as_mut().filter(|known| !known.restored) else {
            return;
        };
        known.restored = true;
        match known.height().cmp(&state.height) {
            Ordering::Greater => return,
            Ordering::Equal => self.report_difference(known, state),
            Ordering::Less => {
                let text = format!("{}; its right state is no longer to be had", known.text());
                *lock(&self.divergence_report) = Some(text);
            }
        }
        *diverged = None;
    }
}

impl StateSync for Replica {
    fn checkpoint_interval(&self) -> Height {
        self.genesis.checkpoint_interval.get()
    }

    fn offer(&self) -> Option<Vec<u8>> {
        let newest = lock(&self.checkpoints)
            .certified
            .values()
            .next_back()
            .cloned();
        Some(newest?.offer())
    }

    fn part(&self, height: Height, index: u32) -> Option<Vec<u8>> {
        let checkpoint = lock(&self.checkpoints).certified.get(&height).cloned();
        checkpoint?.part(index)
    }

    fn oldest(&self) -> Option<Height> {
        let checkpoints = lock(&self.checkpoints);
        checkpoints.certified.keys().next().copied()
    }

    fn wants(&self, height: Height) -> bool {
        let executed = self.executed().state.height;
        let ahead = height >= executed.saturating_add(self.checkpoint_interval());
        self.halted().is_none() && (ahead || self.is_diverged())
    }

    fn is_diverged(&self) -> bool {
        lock(&self.diverged)
            .as_ref()
            .is_some_and(|known| !known.restored)
    }

    fn download(&self, offer: Offer) -> Result<Download, SyncError> {
        Download::open(&self.medium, offer)
    }

    fn restore(&self, download: Download) -> Result<(Height, [u8; 32]), SyncError> {
        let genesis = Arc::clone(&self.genesis);
        let store = download.store(&self.medium, genesis, &self.engine)?;
        let executed = self.replace(&download, store)?;
        download.forget()?;
        Ok((executed.state.height, *executed.tree.digest()))
    }
}
