//! Whatever is certified is the agreed root, and verifies with the subnet's key by an implementation that is not ours.
use super::Violations;
use lockstep_subnet::application::Height;
use std::collections::BTreeMap;

/// Certificates seen.
#[derive(Debug, Clone)]
pub struct Certificates {
    public_key: [u8; 96],
    verified: BTreeMap<Height, [u8; 48]>,
    /// How many came.
    pub count: u64,
    /// What was found wrong.
    pub violations: Violations,
}

impl Certificates {
    /// Of a subnet with this key.
    #[must_use]
    pub fn new(public_key: [u8; 96]) -> Self {
        Self {
            public_key,
            verified: BTreeMap::new(),
            count: 0,
            violations: Violations::default(),
        }
    }

    /// A node was given a certificate; `agreed` is the root at the height.
    pub fn certified(
        &mut self,
        height: Height,
        root: [u8; 32],
        signature: [u8; 48],
        agreed: Option<[u8; 32]>,
    ) {
        self.count += 1;
        self.check(height, root, signature, agreed);
    }

    /// A final block brings the signature of a height; `agreed` is the root there.
    pub fn brought(&mut self, height: Height, signature: [u8; 48], agreed: Option<[u8; 32]>) {
        match agreed {
            Some(root) => self.check(height, root, signature, agreed),
            None => self.violations.add(format!(
                "a block brings the signature of height {height}, which nobody has executed"
            )),
        }
    }

    fn check(
        &mut self,
        height: Height,
        root: [u8; 32],
        signature: [u8; 48],
        agreed: Option<[u8; 32]>,
    ) {
        if agreed != Some(root) {
            self.violations.add(format!(
                "another root than the agreed one is certified at {height}"
            ));
        }
        // There is one signature of a message: one pairing for each height is enough.
        match self.verified.get(&height) {
            Some(known) if *known == signature => {}
            Some(_) => self
                .violations
                .add(format!("two signatures certify height {height}")),
            None if self.verifies(&root, &signature) => {
                self.verified.insert(height, signature);
            }
            None => self.violations.add(format!(
                "the certificate of height {height} does not verify"
            )),
        }
    }

    /// Whether a signature of a root is the subnet's.
    #[must_use]
    pub fn verifies(&self, root: &[u8; 32], signature: &[u8]) -> bool {
        let message = [b"\x0Dic-state-root".as_slice(), root].concat();
        ic_verify_bls_signature::verify_bls_signature(signature, &message, &self.public_key).is_ok()
    }
}
