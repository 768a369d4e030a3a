//! Accounts: a principal and one of its 2^256 subaccounts.
use crate::Key;
use candid::{CandidType, Deserialize, Principal};
use serde_bytes::ByteBuf;

/// An account as the interface has it. No subaccount is the one of zeros.
#[derive(CandidType, Deserialize, Clone, Debug)]
pub struct Account {
    pub owner: Principal,
    pub subaccount: Option<ByteBuf>,
}

/// An account in its one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    pub owner: Principal,
    pub subaccount: [u8; 32],
}

impl Holder {
    /// # Errors
    /// The subaccount has not 32 bytes.
    pub fn new(owner: Principal, subaccount: Option<&ByteBuf>) -> Result<Self, String> {
        let subaccount = match subaccount {
            None => [0; 32],
            Some(bytes) => bytes
                .as_slice()
                .try_into()
                .map_err(|_| format!("a subaccount has 32 bytes, not {}", bytes.len()))?,
        };
        Ok(Self { owner, subaccount })
    }
}

impl TryFrom<&Account> for Holder {
    type Error = String;

    fn try_from(account: &Account) -> Result<Self, String> {
        Self::new(account.owner, account.subaccount.as_ref())
    }
}

/// The subaccount, then the owner.
impl Key for Holder {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.subaccount, self.owner.as_slice()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (subaccount, owner) = bytes.split_first_chunk()?;
        Some(Self {
            owner: Principal::try_from_slice(owner).ok()?,
            subaccount: *subaccount,
        })
    }
}
