//! The application as the engine sees it: builds and checks blocks.
use super::{
    block::{BEACON_COUNT_MAX, Block},
    certification::{Certificate, kept::Certificates},
    epochs::{Epochs, known_from},
    progress::Progress,
};
use crate::application::{Application, Beacon, Height, Payload, Switch};
use commonware_consensus::{
    Epochable as _, Heightable as _,
    marshal::ancestry::Ancestry,
    simplex::{scheme::ed25519, types::Context},
    types::Epoch,
};
use commonware_cryptography::{Digested, Digestible as _, ed25519::PublicKey, sha256::Digest};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Spawner};
use futures_util::StreamExt as _;
use std::{sync::Arc, time::Duration};

/// How long a leader waits for certification that is behind before it goes on without.
pub(super) const CERTIFICATION_WAIT_MAX: Duration = Duration::from_millis(500);

/// Builds blocks from the application's payloads and checks those of others.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) application: Arc<dyn Application>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) certificates: Arc<Certificates>,
    pub(crate) epochs: Arc<Epochs>,
}

impl<E: Clock + Spawner> commonware_consensus::Application<E> for Replica {
    type SigningScheme = ed25519::Scheme;
    type Context = Context<Digest, PublicKey>;
    type Block = Block;
    type Input = ();

    async fn propose(
        &mut self,
        (runtime, context): (E, Self::Context),
        ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let parent = ancestry.peek()?.clone();
        self.progress.until_executed().await;
        let height = parent.height().get() + 1;
        if !self.belongs(height, context.epoch(), ancestry).await {
            return None;
        }
        tokio::select! {
            biased;
            () = self.progress.until_certified() => {}
            () = runtime.sleep(CERTIFICATION_WAIT_MAX) => {}
        }
        let mut payload = self
            .application
            .propose(parent.inner().payload().time_ns)
            .await;
        payload.beacons = self.beacons();
        payload.switch = self.switch().map(Arc::new);
        let block = Block::child(parent.inner(), parent.digest(), payload);
        Some(Digested::compute(block, &Sequential).await)
    }

    async fn verify(
        &mut self,
        (runtime, context): (E, Self::Context),
        mut ancestry: impl Ancestry<Block>,
    ) -> bool {
        // Height and parent are checked before this is called. To give no verdict is to wait.
        let Some(block) = ancestry.next().await else {
            return std::future::pending().await;
        };
        let before = ancestry.clone();
        let Some(parent) = ancestry.next().await else {
            return std::future::pending().await;
        };
        self.progress.until_executed().await;
        if let Some(beacon) = block.inner().payload().beacons.last() {
            // Its height is below this one: if this block can become final, that is executed some time.
            self.progress.until_executed_at(beacon.height).await;
        }
        let height = block.height().get();
        if !self.belongs(height, context.epoch(), before).await {
            return false;
        }
        let replica = self.clone();
        let verdict = runtime.shared(true).spawn(move |_| async move {
            let parent_time_ns = parent.inner().payload().time_ns;
            let payload = block.inner().payload();
            let is_valid = replica.is_valid(parent_time_ns, payload);
            let switch = payload.switch.as_ref();
            if is_valid && switch.is_some_and(|switch| replica.epochs.is_next(switch.epoch)) {
                replica.epochs.expect_voted_switch(height);
            }
            is_valid
        });
        match verdict.await {
            Ok(valid) => valid,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Replica {
    /// Whether a block of this height may stand in an epoch. Which one a height belongs to is known when the height
    /// [`SWITCH_DELAY`](crate::application::SWITCH_DELAY) below is executed; it is waited for only if a block up to that
    /// may order one, so that a long row of blocks that are not final yet stops nothing else.
    async fn belongs(
        &self,
        height: Height,
        epoch: Epoch,
        mut ancestry: impl Ancestry<Block>,
    ) -> bool {
        let known = known_from(height);
        let mut ordered_at = None;
        while self.progress.heights().executed < known {
            let Some(block) = ancestry.next().await else {
                // What is between was not seen: to give no verdict is to wait.
                return std::future::pending().await;
            };
            let at = block.height().get();
            if at <= self.progress.heights().executed {
                break;
            }
            let switch = block.inner().payload().switch.as_ref();
            if switch.is_some_and(|switch| self.epochs.is_next(switch.epoch)) {
                ordered_at = Some(at);
            }
        }
        if let Some(at) = ordered_at {
            self.epochs.expect_switch(at);
            if at <= known {
                self.progress.until_executed_at(known).await;
            }
        }
        self.epochs.at(height) == Some(epoch.get())
    }

    /// The epoch that this node wants to have ordered.
    fn switch(&self) -> Option<Switch> {
        self.epochs.proposal(self.progress.heights().executed)
    }

    /// What calls wait for, as far as this node has it.
    fn beacons(&self) -> Vec<Beacon> {
        let wanted = self.application.wanted_beacons().into_iter();
        let certificates = wanted.filter_map(|height| self.certificates.get(height));
        certificates
            .map(|certificate| Beacon {
                height: certificate.height,
                signature: certificate.signature,
            })
            .take(BEACON_COUNT_MAX)
            .collect()
    }

    /// Whether a payload may stand after a block with `parent_time_ns`.
    fn is_valid(&self, parent_time_ns: u64, payload: &Payload) -> bool {
        let executed = self.progress.heights().executed;
        let switch = payload.switch.as_ref();
        switch.is_none_or(|switch| self.epochs.accepts(executed, switch))
            && payload.beacons.iter().all(|beacon| self.is_beacon(beacon))
            && self.application.verify(parent_time_ns, payload)
    }

    /// Whether it is the signature of the root that this node knows.
    fn is_beacon(&self, beacon: &Beacon) -> bool {
        let root = self.application.root(beacon.height);
        root.is_some_and(|root| {
            self.certificates.is_certificate(&Certificate {
                height: beacon.height,
                root,
                signature: beacon.signature,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        application::{FinalizedBlock, Height, Proposal},
        consensus::{certification::Signer, epochs::Installed, genesis::Genesis},
    };
    use bytes::Bytes;

    /// Knows the roots of heights 1 to 9 and takes every payload.
    struct Roots;

    fn root(height: Height) -> [u8; 32] {
        [height as u8; 32]
    }

    impl Application for Roots {
        fn propose(&self, _: u64) -> Proposal<'_> {
            Box::pin(std::future::ready(Payload::default()))
        }

        fn verify(&self, _: u64, _: &Payload) -> bool {
            true
        }

        fn execute(&self, block: &FinalizedBlock) -> [u8; 32] {
            root(block.height)
        }

        fn executed_height(&self) -> Height {
            9
        }

        fn root(&self, height: Height) -> Option<[u8; 32]> {
            (1..10).contains(&height).then(|| root(height))
        }

        fn epochs(&self) -> Arc<crate::state::Epochs> {
            Arc::default()
        }

        fn protocol_version(&self) -> u64 {
            1
        }

        fn wanted_beacons(&self) -> Vec<Height> {
            vec![3, 4, 12]
        }

        fn certified(&self, _: Height, _: [u8; 32], _: [u8; 48]) {}

        fn gossip(&self, _: Bytes) {}
    }

    fn epochs(genesis: &Genesis) -> Epochs {
        let installed = Installed {
            subnet: Arc::new(genesis.subnet.clone()),
            keys: Some(genesis.nodes[0].clone()),
        };
        Epochs::new(installed, Vec::new(), None).unwrap()
    }

    #[test]
    fn blocks_bring_signatures_of_their_heights_or_are_not_voted_for() {
        // A node alone is a quorum.
        let genesis = Genesis::deal(1, &[5; 32]).unwrap();
        let sharing = genesis.subnet.sharing();
        let signer = Signer::new(sharing.clone(), genesis.nodes[0].share().clone());
        let replica = Replica {
            application: Arc::new(Roots),
            progress: Arc::new(Progress::new(9)),
            certificates: Arc::new(Certificates::new(*sharing.public())),
            epochs: Arc::new(epochs(&genesis)),
        };
        let certificate = |height| {
            let root = root(height);
            let partial = Signer::partial(0, &signer.sign(&root)).unwrap();
            let signature = signer.recover(&root, &[partial]).unwrap();
            Certificate {
                height,
                root,
                signature,
            }
        };
        let beacon = |height, of| Beacon {
            height,
            signature: certificate(of).signature,
        };
        let is_valid = |beacons: &[Beacon]| {
            let payload = Payload {
                beacons: beacons.to_vec(),
                ..Payload::default()
            };
            replica.is_valid(0, &payload)
        };
        let malformed = Beacon {
            height: 3,
            signature: [0xff; 48],
        };
        for known in [false, true] {
            assert!(is_valid(&[]) && is_valid(&[beacon(3, 3), beacon(4, 4)]));
            // Of another height, of a root that nobody knows, and no point.
            assert!(!is_valid(&[beacon(3, 3), beacon(4, 3)]));
            assert!(!is_valid(&[beacon(12, 12)]));
            assert!(!is_valid(&[malformed]));
            if !known {
                assert_eq!(replica.beacons(), []);
                for height in [3, 5] {
                    replica.certificates.insert(certificate(height));
                }
            }
        }
        assert_eq!(replica.beacons(), [beacon(3, 3)]);
    }
}
