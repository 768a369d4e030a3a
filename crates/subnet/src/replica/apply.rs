//! What consensus asks of a replica.
use super::{
    Certified, Executed, IDLE, PACE, Pending, Replica, UNCERTIFIED_MAX, UNEXECUTED_BLOCKS_MAX,
    lock, recent::Took,
};
use crate::{
    application::{Application, FinalizedBlock, Height, Payload, Proposal},
    execution,
    ingress::{IngressError, Request, RequestId},
    mempool::{BLOCK_BYTES_MAX, BLOCK_CALLS_MAX, envelopes},
    state::Epochs,
    sync::StateSync,
};
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc};

/// Times beyond this (the year 2262) are no times: sums with them must not overflow.
const TIME_NS_MAX: u64 = i64::MAX as u64;
/// How far a block's time may be ahead of the clock here. A leader that could name any time could make every call
/// expire; one whose clock is further ahead than this of most others' does not lead.
const DRIFT_NS_MAX: u64 = 10_000_000_000;

impl Application for Replica {
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_> {
        Box::pin(self.proposal(parent_time_ns))
    }

    fn verify(&self, parent_time_ns: u64, payload: &Payload) -> bool {
        let bytes: usize = payload.messages.iter().map(Bytes::len).sum();
        if payload.time_ns <= parent_time_ns
            || payload.time_ns > self.clock.now_ns().saturating_add(DRIFT_NS_MAX)
            || payload.time_ns > TIME_NS_MAX
            || payload.messages.len() > BLOCK_CALLS_MAX
            || bytes > BLOCK_BYTES_MAX
        {
            return false;
        }
        let mut ids = BTreeSet::new();
        for message in &payload.messages {
            match self.check_call(message, payload.time_ns) {
                Ok(id) if ids.insert(*id) => {}
                _ => return false,
            }
        }
        let ids = ids.into_iter().collect();
        lock(&self.mempool).offer(parent_time_ns, payload.time_ns, ids);
        true
    }

    fn execute(&self, block: &FinalizedBlock) -> [u8; 32] {
        let mut executor = lock(&self.executor);
        if let Some(reason) = self.halted() {
            panic!("the replica has halted: {reason}");
        }
        let before = self.executed();
        if block.height <= before.state.height {
            return self.stored_root(block.height).unwrap_or_else(|| {
                panic!("the root after height {} is no longer kept", block.height)
            });
        }
        // After a height that failed half-way, what is unfinished may be ahead of the state.
        if !std::mem::replace(&mut executor.in_step, false) {
            executor.unfinished.clear();
        }
        let outcome = match execution::execute(
            &before.state,
            block,
            &self.engine,
            &mut executor.unfinished,
        ) {
            Ok(outcome) => outcome,
            Err(halt) => {
                self.halt(format!(
                    "height {} cannot be executed here: {halt}",
                    block.height
                ));
                panic!("height {} cannot be executed here: {halt}", block.height);
            }
        };
        self.counters.add(&outcome);
        let took = Took::of(block, &outcome);
        let executed = Arc::new(Executed::new(outcome.state, block.digest));
        let root = *executed.tree.digest();
        if let Err(error) = executor.store.commit(&executed.state, Some(root)) {
            self.halt(format!("height {} cannot be stored: {error}", block.height));
            panic!("height {} cannot be stored: {error}", block.height);
        }
        executor.in_step = true;
        lock(&self.recent).add(took, &executed);
        self.compare_with_diverged(&executed);
        lock(&self.checkpoints).add(&executed);
        self.publish(executed);
        root
    }

    fn executed_height(&self) -> Height {
        self.executed.borrow().state.height
    }

    fn root(&self, height: Height) -> Option<[u8; 32]> {
        let latest = self.executed();
        if latest.state.height == height {
            return (height > 0).then(|| *latest.tree.digest());
        }
        if let Some(executed) = lock(&self.pending).executed.get(&height) {
            return Some(*executed.tree.digest());
        }
        // In a state that came from others there are roots that were never executed here.
        if let Some(root) = latest.state.randomness.root(height) {
            return Some(root);
        }
        self.stored_root(height)
    }

    fn epochs(&self) -> Arc<Epochs> {
        Arc::clone(&self.executed.borrow().state.epochs)
    }

    fn protocol_version(&self) -> u64 {
        self.executed.borrow().state.protocol_version(u64::MAX)
    }

    fn wanted_beacons(&self) -> Vec<Height> {
        self.executed.borrow().state.randomness.wanted().collect()
    }

    fn certified(&self, height: Height, root: [u8; 32], signature: [u8; 48]) {
        let mut pending = lock(&self.pending);
        if self.executed().state.randomness.is_wanted(height) {
            pending.beacons.insert(height);
            self.arrivals.send_replace(());
        }
        self.certify(&mut pending, height, root, signature);
    }

    fn gossip(&self, message: Bytes) {
        self.take_gossip(&message);
    }

    fn state_sync(&self) -> Option<&dyn StateSync> {
        Some(self)
    }
}

impl Replica {
    /// See [`Application::propose`].
    async fn proposal(&self, parent_time_ns: u64) -> Payload {
        self.wait_for_execution(parent_time_ns).await;
        self.wait_for_work(parent_time_ns).await;
        let time_ns = self.proposal_time_ns(parent_time_ns);
        let mut calls = Vec::new();
        // Calls that the history has no room for would be ordered in vain.
        if !self.executed().state.history.is_full() {
            let mut mempool = lock(&self.mempool);
            calls = mempool.select(time_ns);
            let ids = calls.iter().map(|call| *call.id).collect();
            mempool.offer(parent_time_ns, time_ns, ids);
        }
        Payload {
            time_ns,
            messages: envelopes(&calls),
            ..Payload::default()
        }
    }

    /// Checks a call of a block. One that waits here was authenticated when it came.
    fn check_call(&self, message: &Bytes, time_ns: u64) -> Result<RequestId, IngressError> {
        let request = Request::decode(message)?;
        let known = lock(&self.mempool).get(&request.id()).cloned();
        match known.filter(|call| call.bytes == *message) {
            Some(call) => call.check_again(time_ns)?,
            None => drop(request.authenticate_call(&self.genesis.root_key, time_ns)?),
        }
        Ok(request.id())
    }

    fn proposal_time_ns(&self, parent_time_ns: u64) -> u64 {
        self.clock
            .now_ns()
            .clamp(parent_time_ns.saturating_add(1), TIME_NS_MAX)
    }

    async fn wait_for_execution(&self, parent_time_ns: u64) {
        let mut executed = self.executed.subscribe();
        let mut pace = self.clock.sleep(PACE);
        while lock(&self.mempool).unexecuted(parent_time_ns) > UNEXECUTED_BLOCKS_MAX {
            tokio::select! {
                biased;
                _ = executed.changed() => {}
                () = &mut pace => return,
            }
        }
    }

    async fn wait_for_work(&self, parent_time_ns: u64) {
        let (mut executed, mut arrivals) = (self.executed.subscribe(), self.arrivals.subscribe());
        let mut idle = self.clock.sleep(IDLE);
        loop {
            let time_ns = self.proposal_time_ns(parent_time_ns);
            let latest = self.executed();
            let has_calls =
                !latest.state.history.is_full() && lock(&self.mempool).has_calls(time_ns);
            let has_beacon = !lock(&self.pending).beacons.is_empty();
            if has_calls || has_beacon || latest.state.has_work() {
                return;
            }
            tokio::select! {
                biased;
                _ = executed.changed() => {}
                _ = arrivals.changed() => {}
                () = &mut idle => return,
            }
        }
    }

    fn stored_root(&self, height: Height) -> Option<[u8; 32]> {
        lock(&self.roots).get(height).unwrap_or_else(|error| {
            self.halt(error.to_string());
            None
        })
    }

    /// Makes an executed and stored height visible.
    fn publish(&self, executed: Arc<Executed>) {
        let height = executed.state.height;
        let before = self.executed();
        let mut pending = lock(&self.pending);
        let randomness = &executed.state.randomness;
        pending
            .beacons
            .retain(|height| randomness.is_wanted(*height));
        pending.executed.insert(height, Arc::clone(&executed));
        if pending.executed.len() > UNCERTIFIED_MAX {
            pending.executed.pop_first();
        }
        // In one step: what is not in the pool any more is in the state.
        let mut mempool = lock(&self.mempool);
        mempool.executed(&executed.state, &before.state.history);
        self.executed.send_replace(executed);
    }

    fn certify(&self, pending: &mut Pending, height: Height, root: [u8; 32], signature: [u8; 48]) {
        let Some(executed) = pending.executed.get(&height).cloned() else {
            return;
        };
        let ours = executed.tree.digest();
        if *ours != root {
            self.diverge(root, executed);
            return;
        }
        pending.executed = pending.executed.split_off(&(height + 1));
        self.certified.send_if_modified(|latest| {
            let is_newer = latest
                .as_ref()
                .is_none_or(|latest| latest.height() < height);
            if is_newer {
                let certified = Certified {
                    executed,
                    signature,
                };
                lock(&self.checkpoints).certify(&certified);
                *latest = Some(certified);
            }
            is_newer
        });
    }
}
