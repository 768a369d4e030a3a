//! The steps of a ceremony.
use super::{
    Acknowledgements, Candidate, CeremonyError, DEALING_CONTEXT, Dealing, Entry, Log, NAMESPACE,
    PLAN_CONTEXT, Piece,
};
use crate::consensus::{
    certification::IcVariant,
    genesis::{
        GenesisError, NODE_COUNT_MAX, NodeKeys, PeerAddress, SeedStream, Subnet, keys::query_key,
    },
};
use commonware_codec::{Decode, Encode as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::{
        dkg::feldman_desmedt::{
            Dealer, DealerLogSummary, DealerPrivMsg, DealerPubMsg, Info, Logs, Player, PlayerAck,
            Reveal, SignedDealerLog,
        },
        primitives::sharing::Mode,
    },
    ed25519::{PrivateKey, PublicKey},
};
use commonware_parallel::Sequential;
use commonware_utils::{N3f1, TryCollect as _, ordered::Set, sys_rng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    num::NonZeroU32,
};

type Received = (Player<IcVariant, PrivateKey>, Vec<PlayerAck<PublicKey>>);

type Dealt = (
    Dealer<IcVariant, PrivateKey>,
    DealerPubMsg<IcVariant>,
    Vec<(PublicKey, DealerPrivMsg)>,
);

/// Who takes part, in order of their identities, and what the subnet is to know.
#[derive(Clone, Debug)]
pub struct Plan {
    nodes: Set<PublicKey>,
    query_keys: Vec<[u8; 32]>,
    addresses: Vec<PeerAddress>,
    models: BTreeMap<String, [u8; 32]>,
    digest: String,
    info: Info<IcVariant, PublicKey>,
}

impl Plan {
    /// The plan of these entries, in whatever order they come.
    ///
    /// # Errors
    ///
    /// If an entry is malformed or there twice, two have one address, or there are too many.
    pub fn new(
        mut entries: Vec<Entry>,
        models: BTreeMap<String, [u8; 32]>,
    ) -> Result<Self, CeremonyError> {
        let plan = |reason: String| CeremonyError::Plan { reason };
        let failed = |error: &dyn fmt::Display| plan(error.to_string());
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if count == 0 || count > NODE_COUNT_MAX {
            return Err(failed(&GenesisError::NodeCount { node_count: count }));
        }
        entries.sort();
        let mut hasher = blake3::Hasher::new_derive_key(PLAN_CONTEXT);
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let (mut nodes, mut query_keys, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
        for entry in &entries {
            for text in [&entry.identity, &entry.query_key, &entry.address] {
                add(text.as_bytes());
            }
            let node = hex::decode(&entry.identity).map_err(|error| failed(&error))?;
            let node = PublicKey::decode_cfg(bytes::Bytes::from(node), &());
            nodes.push(node.map_err(|error| failed(&error))?);
            let mut query_key = [0; 32];
            hex::decode_to_slice(&entry.query_key, &mut query_key)
                .map_err(|error| failed(&error))?;
            ic_ed25519::PublicKey::deserialize_raw(&query_key).map_err(|error| failed(&error))?;
            query_keys.push(query_key);
            let address: PeerAddress = entry.address.parse().map_err(|error| failed(&error))?;
            addresses.push(address);
        }
        for (name, digest) in &models {
            add(name.as_bytes());
            add(digest);
        }
        if addresses.iter().collect::<BTreeSet<_>>().len() != addresses.len() {
            return Err(plan("two nodes have one address".to_owned()));
        }
        if query_keys.iter().collect::<BTreeSet<_>>().len() != query_keys.len() {
            return Err(plan("two nodes have one key for queries".to_owned()));
        }
        let sorted: Set<PublicKey> = nodes
            .iter()
            .cloned()
            .try_collect()
            .map_err(|_| plan("a node is there twice".to_owned()))?;
        if !sorted.iter().eq(&nodes) {
            return Err(plan("an identity is not in lower case".to_owned()));
        }
        let digest = hasher.finalize().to_hex().to_string();
        let namespace = [NAMESPACE, b"/", digest.as_bytes()].concat();
        let info = Info::new::<N3f1>(
            &namespace,
            0,
            None,
            Mode::NonZeroCounter,
            Reveal::V1,
            sorted.clone(),
            sorted.clone(),
        )
        .map_err(|error| failed(&error))?;
        Ok(Self {
            nodes: sorted,
            query_keys,
            addresses,
            models,
            digest,
            info,
        })
    }

    /// What all nodes' operators must see alike, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The nodes' addresses, by number.
    #[must_use]
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// The number of a candidate's node.
    ///
    /// # Errors
    ///
    /// If the plan has no entry of it.
    pub fn index(&self, candidate: &Candidate) -> Result<usize, CeremonyError> {
        let me = candidate.identity.public_key();
        let index = self.nodes.iter().position(|node| *node == me);
        let index = index.ok_or(CeremonyError::Stranger)?;
        let is_entered = self.query_keys[index] == query_key(&candidate.query_seed)
            && self.addresses[index] == candidate.address;
        if is_entered {
            Ok(index)
        } else {
            Err(CeremonyError::Stranger)
        }
    }

    /// Deals: one dealing for each node, the dealer too.
    ///
    /// # Errors
    ///
    /// If the candidate is a stranger.
    pub fn deal(&self, candidate: &Candidate) -> Result<Vec<Dealing>, CeremonyError> {
        let from = self.index(candidate)?;
        let (_, commitment, shares) = self.dealer(candidate)?;
        let commitment = hex::encode(commitment.encode());
        let dealings = shares.into_iter().map(|(node, share)| Dealing {
            plan: self.digest.clone(),
            from,
            to: self
                .nodes
                .iter()
                .position(|known| *known == node)
                .unwrap_or(from),
            commitment: commitment.clone(),
            share: hex::encode(share.encode()),
        });
        Ok(dealings.collect())
    }

    /// Checks what all nodes dealt to this one, and signs that it is in order.
    ///
    /// # Errors
    ///
    /// If a dealing lacks, is for another node, or does not fit its commitment.
    pub fn acknowledge(
        &self,
        candidate: &Candidate,
        dealings: &[Dealing],
    ) -> Result<Acknowledgements, CeremonyError> {
        let from = self.index(candidate)?;
        let (_, signatures) = self.player(candidate, from, dealings)?;
        let signatures = signatures
            .iter()
            .map(|signature| hex::encode(signature.encode()));
        Ok(Acknowledgements {
            plan: self.digest.clone(),
            from,
            signatures: signatures.collect(),
        })
    }

    /// Signs that all nodes have acknowledged this one's dealings.
    ///
    /// # Errors
    ///
    /// If an acknowledgement lacks or is not of these dealings.
    pub fn conclude(
        &self,
        candidate: &Candidate,
        acknowledgements: &[Acknowledgements],
    ) -> Result<Log, CeremonyError> {
        let from = self.index(candidate)?;
        let (mut dealer, _, _) = self.dealer(candidate)?;
        for (acknowledgement, node) in self
            .one_of_each(acknowledgements)?
            .into_iter()
            .zip(self.nodes.iter())
        {
            let signature = acknowledgement.signatures.get(from);
            let signature =
                signature.ok_or_else(|| wrong(acknowledgement, "too few signatures"))?;
            let signature: PlayerAck<PublicKey> = decode(acknowledgement, signature, &())?;
            dealer
                .receive_player_ack(node.clone(), signature)
                .map_err(|error| wrong(acknowledgement, error))?;
        }
        Ok(Log {
            plan: self.digest.clone(),
            from,
            log: hex::encode(dealer.finalize::<N3f1>().encode()),
        })
    }

    /// Adds up: the subnet, which is the same for all nodes, and this node's secrets.
    ///
    /// # Errors
    ///
    /// If a log or a dealing lacks or is wrong.
    pub fn finish(
        &self,
        candidate: &Candidate,
        dealings: &[Dealing],
        logs: &[Log],
    ) -> Result<(Subnet, NodeKeys), CeremonyError> {
        let index = self.index(candidate)?;
        let (player, _) = self.player(candidate, index, dealings)?;
        let mut checked = Logs::<IcVariant, PublicKey, N3f1>::new(self.info.clone());
        for (log, node) in self.one_of_each(logs)?.into_iter().zip(self.nodes.iter()) {
            let signed: SignedDealerLog<IcVariant, PublicKey> =
                decode(log, &log.log, &self.bound())?;
            match signed.check(&self.info) {
                Some((dealer, content)) if dealer == *node => {
                    // The sum leaves out what is of no use, and that must be the same for all: so all are of use.
                    if !is_acknowledged_by_all(&content.summary()) {
                        return Err(wrong(log, "it is not acknowledged by all nodes"));
                    }
                    checked.record(dealer, content)
                }
                _ => return Err(wrong(log, "it is not signed by this node")),
            };
        }
        let (output, share) = player
            .finalize::<N3f1>(&mut sys_rng(), checked, &Sequential)
            .map_err(|error| CeremonyError::Plan {
                reason: error.to_string(),
            })?;
        let counted = output.dealers();
        let expected = self.nodes.iter().take(counted.len());
        if !counted.iter().eq(expected) {
            return Err(CeremonyError::Plan {
                reason: "a log of the first nodes does not count".to_owned(),
            });
        }
        let subnet = Subnet::new(
            self.nodes.clone(),
            self.query_keys.clone(),
            output.public().clone(),
        );
        let subnet = subnet.with_models(self.models.clone());
        let subnet = subnet
            .with_addresses(self.addresses.clone())
            .map_err(|error| CeremonyError::Plan {
                reason: error.to_string(),
            })?;
        let keys = NodeKeys::new(
            index,
            candidate.identity.clone(),
            candidate.query_seed,
            share,
        );
        if !keys.are_of(&subnet) {
            return Err(CeremonyError::Plan {
                reason: "the share is not of the subnet's key".to_owned(),
            });
        }
        Ok((subnet, keys))
    }

    /// The candidate's dealer, the same each time.
    pub(super) fn dealer(&self, candidate: &Candidate) -> Result<Dealt, CeremonyError> {
        let secret = [&candidate.dealing_seed[..], self.digest.as_bytes()].concat();
        let random = SeedStream::new(DEALING_CONTEXT, &secret);
        Dealer::start::<N3f1>(random, self.info.clone(), candidate.identity.clone(), None).map_err(
            |error| CeremonyError::Plan {
                reason: error.to_string(),
            },
        )
    }

    /// The node's view of what was dealt to it, and its signatures, by dealer.
    fn player(
        &self,
        candidate: &Candidate,
        index: usize,
        dealings: &[Dealing],
    ) -> Result<Received, CeremonyError> {
        let mut player = Player::new(self.info.clone(), candidate.identity.clone())
            .map_err(|_| CeremonyError::Stranger)?;
        let mut signatures = Vec::new();
        for (dealing, node) in self
            .one_of_each(dealings)?
            .into_iter()
            .zip(self.nodes.iter())
        {
            if dealing.to != index {
                return Err(wrong(dealing, format!("it is for node {}", dealing.to)));
            }
            let commitment = decode(dealing, &dealing.commitment, &self.bound())?;
            let share = decode(dealing, &dealing.share, &())?;
            let signature = player
                .dealer_message::<N3f1>(node.clone(), commitment, share)
                .map_err(|error| wrong(dealing, error))?;
            signatures.extend(signature);
        }
        Ok((player, signatures))
    }

    /// The pieces by their nodes' numbers, if there is one of each node.
    fn one_of_each<'a, P: Piece>(&self, pieces: &'a [P]) -> Result<Vec<&'a P>, CeremonyError> {
        let incomplete = |problem, node| CeremonyError::Incomplete {
            what: P::WHAT,
            problem,
            node,
        };
        let mut found: BTreeMap<usize, &P> = BTreeMap::new();
        for piece in pieces {
            if piece.plan() != self.digest {
                return Err(CeremonyError::OtherPlan {
                    what: P::WHAT,
                    node: piece.from(),
                });
            }
            if found.insert(piece.from(), piece).is_some() {
                return Err(incomplete("there are two of", piece.from()));
            }
        }
        (0..self.nodes.len())
            .map(|node| {
                found
                    .remove(&node)
                    .ok_or_else(|| incomplete("there is none of", node))
            })
            .collect()
    }

    fn bound(&self) -> NonZeroU32 {
        let count = u32::try_from(self.nodes.len()).ok();
        count
            .and_then(NonZeroU32::new)
            .expect("a plan has 1 to NODE_COUNT_MAX nodes")
    }
}

fn is_acknowledged_by_all(summary: &DealerLogSummary<PublicKey>) -> bool {
    matches!(summary, DealerLogSummary::Ok { reveals, .. } if reveals.is_empty())
}

fn wrong<P: Piece>(piece: &P, reason: impl fmt::Display) -> CeremonyError {
    CeremonyError::Wrong {
        what: P::WHAT,
        node: piece.from(),
        reason: reason.to_string(),
    }
}

fn decode<P: Piece, T: Decode>(piece: &P, text: &str, bound: &T::Cfg) -> Result<T, CeremonyError> {
    let bytes = hex::decode(text).map_err(|error| wrong(piece, error))?;
    T::decode_cfg(bytes::Bytes::from(bytes), bound).map_err(|error| wrong(piece, error))
}
