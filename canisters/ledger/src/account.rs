//! Accounts: a principal and one of its 2^256 subaccounts.
use candid::{CandidType, Deserialize, Principal};
use serde_bytes::ByteBuf;

/// An account as the interface has it. No subaccount is the one of zeros.
#[derive(CandidType, Deserialize, Clone, Debug)]
pub(crate) struct Account {
    pub(crate) owner: Principal,
    pub(crate) subaccount: Option<ByteBuf>,
}

/// An account in its one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) owner: Principal,
    pub(crate) subaccount: [u8; 32],
}

impl Holder {
    /// # Errors
    /// The subaccount has not 32 bytes.
    pub(crate) fn new(owner: Principal, subaccount: Option<&ByteBuf>) -> Result<Self, String> {
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

impl From<Holder> for Account {
    fn from(holder: Holder) -> Self {
        let subaccount = (holder.subaccount != [0; 32]).then(|| ByteBuf::from(holder.subaccount));
        Self {
            owner: holder.owner,
            subaccount,
        }
    }
}
