//! The application as the engine sees it: builds and checks blocks.
use super::{
    block::{BEACON_COUNT_MAX, Block},
    certification::{Certificate, kept::Certificates},
    progress::Progress,
};
use crate::application::{Application, Beacon};
use commonware_consensus::{
    marshal::ancestry::Ancestry,
    simplex::{scheme::ed25519, types::Context},
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
}

impl<E: Clock + Spawner> commonware_consensus::Application<E> for Replica {
    type SigningScheme = ed25519::Scheme;
    type Context = Context<Digest, PublicKey>;
    type Block = Block;
    type Input = ();

    async fn propose(
        &mut self,
        (runtime, _): (E, Self::Context),
        ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let parent = ancestry.peek()?.clone();
        self.progress.until_executed().await;
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
        let block = Block::child(parent.inner(), parent.digest(), payload);
        Some(Digested::compute(block, &Sequential).await)
    }

    async fn verify(
        &mut self,
        (runtime, _): (E, Self::Context),
        mut ancestry: impl Ancestry<Block>,
    ) -> bool {
        // Height and parent are checked before this is called. To give no verdict is to wait.
        let (Some(block), Some(parent)) = (ancestry.next().await, ancestry.next().await) else {
            return std::future::pending().await;
        };
        self.progress.until_executed().await;
        if let Some(beacon) = block.inner().payload().beacons.last() {
            // Its height is below this one: if this block can become final, that is executed some time.
            self.progress.until_executed_at(beacon.height).await;
        }
        let replica = self.clone();
        let verdict = runtime.shared(true).spawn(move |_| async move {
            let payload = block.inner().payload();
            let parent_time_ns = parent.inner().payload().time_ns;
            payload
                .beacons
                .iter()
                .all(|beacon| replica.is_beacon(beacon))
                && replica.application.verify(parent_time_ns, payload)
        });
        match verdict.await {
            Ok(valid) => valid,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Replica {
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
