//! Account identifiers: digests of accounts, by which this ledger keeps its balances.
use book::{Holder, Key};
use sha2::{Digest, Sha224};

/// The digest of an account, without its check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AccountIdentifier([u8; 28]);

impl AccountIdentifier {
    /// From the form that clients use: the check sequence, then the digest.
    ///
    /// # Errors
    /// A wrong length or check sequence.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let identifier = bytes.get(4..).and_then(Self::from_bytes);
        let identifier = identifier
            .ok_or_else(|| format!("an account identifier has 32 bytes, not {}", bytes.len()))?;
        if identifier.checked() == bytes {
            Ok(identifier)
        } else {
            Err("the account identifier's check sequence is wrong".into())
        }
    }

    /// The form that clients use.
    pub(crate) fn checked(&self) -> Vec<u8> {
        [&crc32fast::hash(&self.0).to_be_bytes()[..], &self.0].concat()
    }
}

impl From<Holder> for AccountIdentifier {
    fn from(holder: Holder) -> Self {
        let mut hasher = Sha224::new();
        hasher.update(b"\x0Aaccount-id");
        hasher.update(holder.owner.as_slice());
        hasher.update(holder.subaccount);
        Self(hasher.finalize().into())
    }
}

impl Key for AccountIdentifier {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}
