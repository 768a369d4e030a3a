//! The certificates of recent heights: for peers that lack them, and for blocks that bring their signatures.
use super::{Certificate, PublicKey, Root, Signature, is_signature};
use crate::application::Height;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How many are kept; those of the lowest heights go.
const KEPT_MAX: usize = 16_384;

/// Shared between the tasks of a node. Not stored: a node that was restarted asks its peers.
pub(crate) struct Certificates {
    public_key: PublicKey,
    kept: Mutex<BTreeMap<Height, Certificate>>,
}

impl Certificates {
    pub(crate) fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            kept: Mutex::default(),
        }
    }

    /// Whether it is a certificate, if its root is that of its height.
    pub(crate) fn is_certificate(&self, certificate: &Certificate) -> bool {
        match self.get(certificate.height) {
            Some(known) => known == *certificate,
            None => self.is_signature(&certificate.root, &certificate.signature),
        }
    }

    /// Whether it is the subnet's signature of a root.
    pub(crate) fn is_signature(&self, root: &Root, signature: &Signature) -> bool {
        is_signature(&self.public_key, root, signature)
    }

    pub(crate) fn get(&self, height: Height) -> Option<Certificate> {
        self.lock().get(&height).copied()
    }

    pub(crate) fn insert(&self, certificate: Certificate) {
        let mut kept = self.lock();
        kept.insert(certificate.height, certificate);
        while kept.len() > KEPT_MAX {
            kept.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Height, Certificate>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
