//! Chains of keys from a sender to who signed, and what each link allows.
//!
//! # Design
//! The interface specification's "Authentication": the sender's key signs a delegation to a second key, that one to a
//! third, and the last signs the request. A chain allows what all of its links allow.
//!
//! # Units and bounds
//! At most [`DELEGATIONS_MAX`] links, each for at most [`TARGETS_MAX`] canisters.
use super::signature::{At, SignatureError, verify_key};
use ic_principal::Principal;
use ic_transport_types::{DelegationPermissions, SignedDelegation};
use std::collections::BTreeSet;

/// Most links of a chain.
pub const DELEGATIONS_MAX: usize = 20;
/// Most canisters that a link names.
pub const TARGETS_MAX: usize = 1000;

/// Why a chain of delegations does not let its signer speak for the sender.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DelegationError {
    /// More than [`DELEGATIONS_MAX`].
    #[error("{count} delegations, the limit is {DELEGATIONS_MAX}")]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// More than [`TARGETS_MAX`].
    #[error("delegation {index} names {count} canisters, the limit is {TARGETS_MAX}")]
    TooManyTargets {
        /// Which delegation, from 0.
        index: usize,
        /// How many it names.
        count: usize,
    },
    /// A key is in the chain twice.
    #[error("delegation {index} is to a key that is in the chain already")]
    Cycle {
        /// Which delegation, from 0.
        index: usize,
    },
    /// Its time has passed.
    #[error("delegation {index} has expired: at {expiration_ns} ns, the time is {now_ns} ns")]
    Expired {
        /// Which delegation, from 0.
        index: usize,
        /// When it expired.
        expiration_ns: u64,
        /// The time it was checked at.
        now_ns: u64,
    },
    /// The key before it has not signed it.
    #[error("delegation {index} is not signed by the key before it")]
    Signature {
        /// Which delegation, from 0.
        index: usize,
        /// What is wrong with the signature.
        source: SignatureError,
    },
    /// It is for other canisters.
    #[error("the delegations do not allow requests to canister {canister}")]
    NotATarget {
        /// The canister.
        canister: Principal,
    },
    /// It is for queries and reads.
    #[error("the delegations allow queries and reads only")]
    OnlyQueries,
}

/// What a signer may do in the name of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// For which canisters; for all, if it does not say.
    targets: Option<BTreeSet<Principal>>,
    may_call: bool,
    /// The first end of a link, nanoseconds since 1970.
    pub(super) until_ns: u64,
}

impl Default for Authority {
    /// That of a sender.
    fn default() -> Self {
        Self {
            targets: None,
            may_call: true,
            until_ns: u64::MAX,
        }
    }
}

impl Authority {
    /// Checks that requests to a canister are allowed.
    ///
    /// # Errors
    /// [`DelegationError::NotATarget`].
    pub fn check_target(&self, canister: &Principal) -> Result<(), DelegationError> {
        match &self.targets {
            Some(targets) if !targets.contains(canister) => Err(DelegationError::NotATarget {
                canister: *canister,
            }),
            _ => Ok(()),
        }
    }

    /// Checks that calls are allowed.
    ///
    /// # Errors
    /// [`DelegationError::OnlyQueries`].
    pub fn check_call(&self) -> Result<(), DelegationError> {
        if self.may_call {
            Ok(())
        } else {
            Err(DelegationError::OnlyQueries)
        }
    }
}

/// Checks a chain that begins with a sender's key: the key at its end and what that may do.
pub(super) fn follow<'a>(
    sender_key: &'a [u8],
    chain: &'a [SignedDelegation],
    At { root_key, now_ns }: At<'_>,
) -> Result<(&'a [u8], Authority), DelegationError> {
    if chain.len() > DELEGATIONS_MAX {
        return Err(DelegationError::TooMany { count: chain.len() });
    }
    let mut authority = Authority::default();
    let mut keys = BTreeSet::from([sender_key]);
    // All that is cheap before any signature.
    for (index, SignedDelegation { delegation, .. }) in chain.iter().enumerate() {
        if !keys.insert(&delegation.pubkey) {
            return Err(DelegationError::Cycle { index });
        }
        if delegation.expiration < now_ns {
            return Err(DelegationError::Expired {
                index,
                expiration_ns: delegation.expiration,
                now_ns,
            });
        }
        authority.until_ns = authority.until_ns.min(delegation.expiration);
        authority.may_call &= delegation.permissions != Some(DelegationPermissions::Queries);
        let Some(targets) = &delegation.targets else {
            continue;
        };
        if targets.len() > TARGETS_MAX {
            let count = targets.len();
            return Err(DelegationError::TooManyTargets { index, count });
        }
        let targets: BTreeSet<Principal> = targets.iter().copied().collect();
        authority.targets = Some(match authority.targets {
            Some(before) => &before & &targets,
            None => targets,
        });
    }
    let mut key = sender_key;
    for (index, signed) in chain.iter().enumerate() {
        let message = signed.delegation.signable();
        verify_key(key, &signed.signature, &message, root_key)
            .map_err(|source| DelegationError::Signature { index, source })?;
        key = &signed.delegation.pubkey;
    }
    Ok((key, authority))
}

#[cfg(test)]
mod tests;
