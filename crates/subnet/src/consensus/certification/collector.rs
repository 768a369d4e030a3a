//! Makes certificates from shares: what a node does about each message, without a network.
//!
//! # Invariants
//!
//! A height is certified here after it was executed here, with the root that was executed, once. The only
//! other root that is delivered is one that `n - f` nodes say is theirs at that height: then this node's
//! state is not the subnet's.
//!
//! # Units and bounds
//!
//! Shares are kept for heights up to [`AHEAD_MAX`] beyond what is executed and [`BEHIND_MAX`] below, and for those that are
//! wanted, one of each node for a height. A peer whose message cannot come from an honest node is named to be blocked. A
//! message that is of no use costs a look into a map.
use super::{
    Certificate, Root, Signature, Signer,
    kept::Certificates,
    message::{Message, Share},
};
use crate::application::Height;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How far ahead of the executed height shares count.
const AHEAD_MAX: u64 = 64;
/// How far behind it certificates are still made.
const BEHIND_MAX: u64 = 64;
/// How many shares are sent again at once.
const AGAIN_MAX: usize = 16;

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Tell everybody.
    Broadcast(Message),
    /// Tell one node.
    Send(u32, Message),
    /// A height is certified.
    Deliver(Certificate),
    /// A node is faulty, for this reason.
    Block(u32, &'static str),
}

/// A height on its way to a certificate.
#[derive(Default)]
struct Open {
    /// The root here, when it is executed.
    root: Option<Root>,
    /// What nodes say of themselves.
    shares: BTreeMap<u32, (Root, Signature)>,
    /// A certificate that came before the height was executed, not yet verified.
    early: Option<(Root, Signature)>,
    /// Whether it has waited long enough to send its share again.
    waits: bool,
}

/// See the module.
pub(crate) struct Collector {
    signer: Signer,
    certificates: Arc<Certificates>,
    executed: Height,
    /// Those without a certificate.
    open: BTreeMap<Height, Open>,
    /// Old heights whose certificates somebody needs.
    wanted: BTreeSet<Height>,
    /// Who was given which certificate since the last tick.
    given: BTreeSet<(u32, Height)>,
    actions: Vec<Action>,
}

impl Collector {
    pub(crate) fn new(signer: Signer, certificates: Arc<Certificates>) -> Self {
        Self {
            signer,
            certificates,
            executed: 0,
            open: BTreeMap::new(),
            wanted: BTreeSet::new(),
            given: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// What is to be done since this was last asked.
    pub(crate) fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The lowest height whose certificate is worth making.
    pub(crate) fn lowest(executed: Height) -> Height {
        executed.saturating_sub(BEHIND_MAX - 1).max(1)
    }

    /// A height was executed, with this root: signs it and tells everybody.
    pub(crate) fn executed(&mut self, height: Height, root: Root) {
        self.executed = self.executed.max(height);
        self.retain();
        if height >= Self::lowest(self.executed) {
            self.sign(height, root);
        }
    }

    /// The state is another one now: what was its root may have been wrong.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// Somebody needs the certificates of these heights with these roots, and of no other old ones any more.
    pub(crate) fn want(&mut self, wanted: &BTreeMap<Height, Root>) {
        self.wanted = wanted.keys().copied().collect();
        self.retain();
        for (height, root) in wanted {
            self.sign(*height, *root);
        }
    }

    fn retain(&mut self) {
        let lowest = Self::lowest(self.executed);
        let wanted = &self.wanted;
        self.open
            .retain(|height, _| *height >= lowest || wanted.contains(height));
    }

    fn sign(&mut self, height: Height, root: Root) {
        if self.certificates.get(height).is_some() {
            return;
        }
        let open = self.open.entry(height).or_default();
        if open.root.is_some() {
            return;
        }
        open.root = Some(root);
        let signature = self.signer.sign(&root);
        open.shares.insert(self.signer.index(), (root, signature));
        self.actions.push(Action::Broadcast(Message::Share(Share {
            height,
            root,
            signature,
            lacks: false,
        })));
        match open.early.take() {
            Some((early, signature))
                if early == root && self.signer.is_signature(&root, &signature) =>
            {
                self.certified(height, root, signature);
            }
            _ => self.recover(height),
        }
    }

    /// A node says something.
    pub(crate) fn received(&mut self, from: u32, message: Message) {
        match message {
            Message::Share(share) => self.received_share(from, share),
            Message::Certificate(certificate) => self.received_certificate(from, certificate),
        }
    }

    fn received_share(&mut self, from: u32, share: Share) {
        if let Some(certificate) = self.certificates.get(share.height) {
            if share.lacks && self.given.insert((from, share.height)) {
                let answer = Message::Certificate(certificate);
                self.actions.push(Action::Send(from, answer));
            }
            return;
        }
        if let Some(open) = self.find(share.height) {
            open.shares.insert(from, (share.root, share.signature));
            self.recover(share.height);
        }
    }

    fn received_certificate(&mut self, from: u32, certificate: Certificate) {
        let Certificate {
            height,
            root,
            signature,
        } = certificate;
        if self.certificates.get(height).is_some() {
            return;
        }
        let Some(open) = self.find(height) else {
            return;
        };
        let own = open.root;
        match own {
            None => open.early = Some((root, signature)),
            // Of another height, or the state here is wrong: then shares of later heights tell.
            Some(own) if own != root => {}
            Some(_) if self.signer.is_signature(&root, &signature) => {
                self.certified(height, root, signature);
            }
            Some(_) => self
                .actions
                .push(Action::Block(from, "it sent a certificate that is none")),
        }
    }

    /// Where a height stands, if its certificate is worth making.
    fn find(&mut self, height: Height) -> Option<&mut Open> {
        let lowest = Self::lowest(self.executed);
        if (lowest..=self.executed + AHEAD_MAX).contains(&height) {
            return Some(self.open.entry(height).or_default());
        }
        self.open.get_mut(&height)
    }

    /// Sends the shares of heights that have waited for their certificates since the last time. To be
    /// called now and then.
    pub(crate) fn again(&mut self) {
        self.given.clear();
        let mut late = Vec::new();
        for (height, open) in &mut self.open {
            if let Some(root) = open.root
                && std::mem::replace(&mut open.waits, true)
            {
                let (_, signature) = open.shares[&self.signer.index()];
                late.push(Share {
                    height: *height,
                    root,
                    signature,
                    lacks: true,
                });
            }
        }
        // The newest is what clients wait for; of the others the oldest come first.
        let newest = (late.len() > AGAIN_MAX).then(|| late.pop()).flatten();
        late.truncate(AGAIN_MAX - usize::from(newest.is_some()));
        let messages = late.into_iter().chain(newest).map(Message::Share);
        self.actions.extend(messages.map(Action::Broadcast));
    }

    /// Makes a certificate if there are enough shares of one root; drops those that are forged.
    fn recover(&mut self, height: Height) {
        while let Some(open) = self.open.get(&height)
            && open.root.is_some()
            && let Some(root) = open.root_of_quorum(self.signer.quorum())
        {
            let shares = open.shares.iter().filter(|(_, (of, _))| *of == root);
            let shares =
                shares.map(|(node, (_, signature))| (*node, Signer::partial(*node, signature)));
            let (points, mut forged): (Vec<_>, Vec<_>) =
                shares.partition(|(_, partial)| partial.is_some());
            if forged.is_empty() {
                let partials = points.iter().filter_map(|(_, partial)| partial.as_ref());
                if let Some(signature) = self.signer.recover(&root, partials) {
                    self.certified(height, root, signature);
                    return;
                }
                // One at least is none: together they made no signature.
                forged = points;
                forged.retain(|(_, partial)| {
                    let partial = partial.as_ref();
                    partial.is_none_or(|partial| !self.signer.is_partial(&root, partial))
                });
            }
            if forged.is_empty() {
                return;
            }
            for (node, _) in forged {
                self.actions
                    .push(Action::Block(node, "it sent a share that is none"));
                if let Some(open) = self.open.get_mut(&height) {
                    open.shares.remove(&node);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    fn certified(&mut self, height: Height, root: Root, signature: Signature) {
        let is_ours = self.open.remove(&height).and_then(|open| open.root) == Some(root);
        let certificate = Certificate {
            height,
            root,
            signature,
        };
        if is_ours {
            self.certificates.insert(certificate);
        }
        self.actions.push(Action::Deliver(certificate));
    }
}

impl Open {
    /// The root that a quorum has signed, as far as it says; two are impossible.
    fn root_of_quorum(&self, quorum: usize) -> Option<Root> {
        let mut counts: BTreeMap<&Root, usize> = BTreeMap::new();
        for (root, _) in self.shares.values() {
            *counts.entry(root).or_default() += 1;
        }
        let found = counts.into_iter().find(|(_, count)| *count >= quorum);
        found.map(|(root, _)| *root)
    }
}
