//! The application as consensus sees it: builds and checks blocks, gives roots to certify.
use super::{
    block::Block,
    certification::{IcScheme, height_of, signature_bytes},
    progress::Progress,
};
use crate::application::{Application, Height};
use commonware_actor::Feedback;
use commonware_consensus::{
    Automaton, Reporter,
    aggregation::types::Activity,
    marshal::ancestry::Ancestry,
    simplex::{scheme::ed25519, types::Context},
    types,
};
use commonware_cryptography::{Digested, Digestible as _, ed25519::PublicKey, sha256::Digest};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Spawner};
use commonware_utils::channel::{mpsc, oneshot};
use futures_util::StreamExt as _;
use std::{sync::Arc, time::Duration};

/// How long a leader waits for certification that is behind before it goes on without.
pub(super) const CERTIFICATION_WAIT_MAX: Duration = Duration::from_millis(500);

/// Builds blocks from the application's payloads and checks those of others.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) application: Arc<dyn Application>,
    pub(crate) progress: Arc<Progress>,
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
        let payload = self
            .application
            .propose(parent.inner().payload().time_ns)
            .await;
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
        let application = self.application.clone();
        let verdict = runtime.shared(true).spawn(move |_| async move {
            application.verify(parent.inner().payload().time_ns, block.inner().payload())
        });
        match verdict.await {
            Ok(valid) => valid,
            Err(_) => std::future::pending().await,
        }
    }
}

/// A certificate on its way to the application.
pub(crate) struct Certified {
    height: Height,
    root: [u8; 32],
    signature: [u8; 48],
}

/// Gives aggregation the roots to sign and takes the certificates from it.
#[derive(Clone)]
pub(crate) struct Certifier {
    pub(crate) replica: Replica,
    pub(crate) certificates: mpsc::UnboundedSender<Certified>,
}

impl Automaton for Certifier {
    type Context = types::Height;
    type Digest = Digest;

    async fn propose(&mut self, index: types::Height) -> oneshot::Receiver<Digest> {
        self.replica
            .progress
            .root_after(&*self.replica.application, height_of(index))
    }

    async fn verify(&mut self, index: types::Height, root: Digest) -> oneshot::Receiver<bool> {
        let (sender, receiver) = oneshot::channel();
        if let Ok(own) = self.propose(index).await.await {
            let _ = sender.send(own == root);
        }
        receiver
    }
}

impl Reporter for Certifier {
    type Activity = Activity<IcScheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        match activity {
            Activity::Certified(certificate) => {
                let Some(signature) = signature_bytes(&certificate.certificate) else {
                    return Feedback::Ok;
                };
                let height = height_of(certificate.item.height);
                let root = certificate.item.digest.0;
                match self.certificates.send(Certified {
                    height,
                    root,
                    signature,
                }) {
                    Ok(()) => Feedback::Ok,
                    Err(_) => Feedback::Closed,
                }
            }
            Activity::Tip(next) => {
                self.replica.progress.note_certified(next.get());
                Feedback::Ok
            }
            Activity::Ack(_) => Feedback::Ok,
        }
    }
}

/// Hands certificates to the application, each after its height is executed here.
pub(crate) async fn deliver_certificates(
    replica: Replica,
    mut certificates: mpsc::UnboundedReceiver<Certified>,
) {
    while let Some(Certified {
        height,
        root,
        signature,
    }) = certificates.recv().await
    {
        replica.progress.until_executed_at(height).await;
        replica.application.certified(height, root, signature);
    }
}
