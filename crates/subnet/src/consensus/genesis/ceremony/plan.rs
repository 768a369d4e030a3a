//! The steps of a ceremony.
use super::{
    Acknowledgements, Candidate, CeremonyError, DEALING_CONTEXT, Dealing, Entry, Log, NAMESPACE,
    PLAN_CONTEXT, Piece,
};
use crate::{
    consensus::{
        certification::IcVariant,
        genesis::{
            GenesisError, NODE_COUNT_MAX, NodeKeys, PeerAddress, SeedStream, Subnet,
            keys::query_key,
        },
    },
    execution::protocol,
};
use commonware_codec::{Decode, Encode as _, FixedSize as _};
use commonware_cryptography::{
    Signer as _,
    bls12381::{
        dkg::feldman_desmedt::{
            Dealer, DealerLogSummary, DealerPrivMsg, DealerPubMsg, Error, Info, Logs, Output,
            Player, PlayerAck, Reveal, SignedDealerLog, observe,
        },
        primitives::sharing::{Mode, ModeVersion},
    },
    ed25519::{PrivateKey, PublicKey},
    transcript::Summary,
};
use commonware_parallel::Sequential;
use commonware_utils::{
    N3f1, TryCollect as _,
    ordered::{Quorum as _, Set},
    sys_rng,
};
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

/// Which parts a candidate has: numbers among those who do the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Among those who deal; `None`: it joins a subnet that has its key.
    pub dealer: Option<usize>,
    /// Among the nodes that will be; `None`: it leaves.
    pub player: Option<usize>,
}

/// Who takes part, in order of their identities, and what the subnet is to know.
#[derive(Clone, Debug)]
pub struct Plan {
    epoch: u64,
    /// Who has the subnet's key, or makes it.
    dealers: Set<PublicKey>,
    /// Who gets a share of it.
    players: Set<PublicKey>,
    query_keys: Vec<[u8; 32]>,
    addresses: Vec<PeerAddress>,
    models: BTreeMap<String, [u8; 32]>,
    protocol_version: u64,
    digest: String,
    info: Info<IcVariant, PublicKey>,
}

impl Plan {
    /// The plan of a new subnet with these entries, in whatever order they come.
    ///
    /// # Errors
    ///
    /// If an entry is malformed or there twice, two have one address, or there are too many.
    pub fn new(
        entries: Vec<Entry>,
        models: BTreeMap<String, [u8; 32]>,
    ) -> Result<Self, CeremonyError> {
        Self::make(entries, models, 0, None)
    }

    /// The plan of `epoch` of a subnet whose nodes have been those of `before`: those of the entries that do not leave
    /// are its nodes. Of the nodes before, `n - f` at least take part, whether they leave or not.
    ///
    /// # Errors
    ///
    /// As [`Self::new`], and if too few of the nodes before take part, somebody leaves who is not there, or the epoch is
    /// not a later one.
    pub fn next(before: &Subnet, epoch: u64, entries: Vec<Entry>) -> Result<Self, CeremonyError> {
        if epoch <= before.epoch() {
            return Err(plan(format!(
                "the subnet is in epoch {} already",
                before.epoch()
            )));
        }
        Self::make(entries, before.models().clone(), epoch, Some(before))
    }

    fn make(
        mut entries: Vec<Entry>,
        models: BTreeMap<String, [u8; 32]>,
        epoch: u64,
        before: Option<&Subnet>,
    ) -> Result<Self, CeremonyError> {
        let failed = |error: &dyn fmt::Display| plan(error.to_string());
        entries.sort();
        let count = entries.iter().filter(|entry| !entry.leaves).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 || count > NODE_COUNT_MAX {
            return Err(failed(&GenesisError::NodeCount { node_count: count }));
        }
        let mut hasher = blake3::Hasher::new_derive_key(PLAN_CONTEXT);
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(&epoch.to_le_bytes());
        add(&before.map_or([0; 32], Subnet::digest));
        let protocol_version = before.map_or(protocol::NEWEST, Subnet::protocol_version);
        add(&protocol_version.to_le_bytes());
        let (mut all, mut players) = (Vec::new(), Vec::new());
        let (mut query_keys, mut addresses) = (Vec::new(), Vec::new());
        for entry in &entries {
            for text in [&entry.identity, &entry.query_key, &entry.address] {
                add(text.as_bytes());
            }
            add(&[u8::from(entry.leaves)]);
            let node = hex::decode(&entry.identity).map_err(|error| failed(&error))?;
            let node = PublicKey::decode_cfg(bytes::Bytes::from(node), &());
            let node = node.map_err(|error| failed(&error))?;
            all.push(node.clone());
            if entry.leaves {
                continue;
            }
            players.push(node);
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
        let in_order = |nodes: &[PublicKey]| {
            let sorted: Set<PublicKey> = nodes
                .iter()
                .cloned()
                .try_collect()
                .map_err(|_| plan("a node is there twice".to_owned()))?;
            if sorted.iter().eq(nodes) {
                Ok(sorted)
            } else {
                Err(plan("an identity is not in lower case".to_owned()))
            }
        };
        let (all, players) = (in_order(&all)?, in_order(&players)?);
        let dealers = match before {
            None => all.clone(),
            Some(before) => all
                .iter()
                .filter(|node| before.participants().position(node).is_some())
                .cloned()
                .try_collect()
                .expect("all are different"),
        };
        let idle = all
            .iter()
            .find(|node| dealers.position(node).is_none() && players.position(node).is_none());
        if before.is_none() && players.len() < all.len() || idle.is_some() {
            return Err(plan("a node leaves that is not there".to_owned()));
        }
        let digest = hasher.finalize().to_hex().to_string();
        let namespace = [NAMESPACE, b"/", digest.as_bytes()].concat();
        let info = Info::new::<N3f1>(
            &namespace,
            epoch,
            before.map(outcome),
            Mode::NonZeroCounter,
            Reveal::V1,
            dealers.clone(),
            players.clone(),
        );
        let info = info.map_err(|error| match (error, before) {
            (Error::NumDealers(count), Some(before)) => plan(format!(
                "{count} of the nodes before take part, and {} are needed",
                before.sharing().required()
            )),
            (error, _) => failed(&error),
        })?;
        Ok(Self {
            epoch,
            dealers,
            players,
            query_keys,
            addresses,
            models,
            protocol_version,
            digest,
            info,
        })
    }

    /// What all nodes' operators must see alike, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many of the nodes that will be can sign in the subnet's name together.
    #[must_use]
    pub fn quorum(&self) -> u32 {
        self.players.quorum::<N3f1>()
    }

    /// The number of the epoch that is planned; 0: a new subnet.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The addresses of the nodes that will be, by number.
    #[must_use]
    pub fn addresses(&self) -> &[PeerAddress] {
        &self.addresses
    }

    /// Which parts a candidate has.
    ///
    /// # Errors
    ///
    /// If the plan has no entry of it.
    pub fn roles(&self, candidate: &Candidate) -> Result<Roles, CeremonyError> {
        let me = candidate.identity.public_key();
        let (dealer, player) = (self.dealers.position(&me), self.players.position(&me));
        let is_entered = match player {
            Some(index) => {
                !candidate.leaves()
                    && self.query_keys[index] == query_key(&candidate.query_seed)
                    && Some(&self.addresses[index]) == candidate.address.as_ref()
            }
            None => dealer.is_some() && candidate.leaves(),
        };
        if is_entered {
            Ok(Roles { dealer, player })
        } else {
            Err(CeremonyError::Stranger)
        }
    }

    fn as_dealer(&self, candidate: &Candidate) -> Result<usize, CeremonyError> {
        self.roles(candidate)?.dealer.ok_or(CeremonyError::NoDealer)
    }

    fn as_player(&self, candidate: &Candidate) -> Result<usize, CeremonyError> {
        self.roles(candidate)?.player.ok_or(CeremonyError::Leaver)
    }

    /// Deals: one dealing for each node that will be, the dealer too if it is one.
    ///
    /// # Errors
    ///
    /// If the candidate is a stranger, or joins a subnet that has its key.
    pub fn deal(&self, candidate: &Candidate) -> Result<Vec<Dealing>, CeremonyError> {
        let from = self.as_dealer(candidate)?;
        let (_, commitment, shares) = self.dealer(candidate)?;
        let commitment = hex::encode(commitment.encode());
        let dealings = shares.into_iter().map(|(node, share)| Dealing {
            plan: self.digest.clone(),
            from,
            to: self.players.position(&node).expect("players are dealt to"),
            commitment: commitment.clone(),
            share: hex::encode(share.encode()),
        });
        Ok(dealings.collect())
    }

    /// Checks what all dealers dealt to this node, and signs that it is in order.
    ///
    /// # Errors
    ///
    /// If the candidate leaves, a dealing lacks, is for another node, or does not fit its commitment.
    pub fn acknowledge(
        &self,
        candidate: &Candidate,
        dealings: &[Dealing],
    ) -> Result<Acknowledgements, CeremonyError> {
        let from = self.as_player(candidate)?;
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
        let from = self.as_dealer(candidate)?;
        let (mut dealer, _, _) = self.dealer(candidate)?;
        for (acknowledgement, node) in self
            .one_of_each(acknowledgements, &self.players)?
            .into_iter()
            .zip(&self.players)
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

    /// Adds up: the subnet, which is the same for all nodes, and this node's secrets, if it is one that stays.
    ///
    /// # Errors
    ///
    /// If a log or a dealing lacks or is wrong.
    pub fn finish(
        &self,
        candidate: &Candidate,
        dealings: &[Dealing],
        logs: &[Log],
    ) -> Result<(Subnet, Option<NodeKeys>), CeremonyError> {
        let index = self.roles(candidate)?.player;
        let mut checked = Logs::<IcVariant, PublicKey, N3f1>::new(self.info.clone());
        let logs = self.one_of_each(logs, &self.dealers)?;
        for (log, node) in logs.into_iter().zip(&self.dealers) {
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
        let (output, share) = match index {
            None => {
                let output = observe(&mut sys_rng(), checked, &Sequential);
                (output.map_err(|error| plan(error.to_string()))?, None)
            }
            Some(index) => {
                let (player, _) = self.player(candidate, index, dealings)?;
                let sum = player.finalize::<N3f1>(&mut sys_rng(), checked, &Sequential);
                let (output, share) = sum.map_err(|error| plan(error.to_string()))?;
                (output, Some((index, share)))
            }
        };
        let counted = output.dealers();
        let expected = self.dealers.iter().take(counted.len());
        if !counted.iter().eq(expected) {
            return Err(plan("a log of the first nodes does not count".to_owned()));
        }
        let subnet = Subnet::new(
            self.players.clone(),
            self.query_keys.clone(),
            output.public().clone(),
        );
        let subnet = subnet
            .with_models(self.models.clone())
            .with_protocol_version(self.protocol_version)
            .in_epoch(self.epoch)
            .with_addresses(self.addresses.clone())
            .map_err(|error| plan(error.to_string()))?;
        let keys = share.map(|(index, share)| {
            NodeKeys::new(
                index,
                candidate.identity.clone(),
                candidate.query_seed,
                share,
            )
        });
        if keys.as_ref().is_some_and(|keys| !keys.are_of(&subnet)) {
            return Err(plan("the share is not of the subnet's key".to_owned()));
        }
        Ok((subnet, keys))
    }

    /// The candidate's dealer, the same each time.
    pub(super) fn dealer(&self, candidate: &Candidate) -> Result<Dealt, CeremonyError> {
        let secret = [&candidate.dealing_seed[..], self.digest.as_bytes()].concat();
        let random = SeedStream::new(DEALING_CONTEXT, &secret);
        let share = candidate.share.clone();
        let identity = candidate.identity.clone();
        Dealer::start::<N3f1>(random, self.info.clone(), identity, share)
            .map_err(|error| plan(error.to_string()))
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
            .one_of_each(dealings, &self.dealers)?
            .into_iter()
            .zip(&self.dealers)
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

    /// The pieces by the numbers of those who make them, if there is one of each.
    fn one_of_each<'a, P: Piece>(
        &self,
        pieces: &'a [P],
        makers: &Set<PublicKey>,
    ) -> Result<Vec<&'a P>, CeremonyError> {
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
        (0..makers.len())
            .map(|node| {
                found
                    .remove(&node)
                    .ok_or_else(|| incomplete("there is none of", node))
            })
            .collect()
    }

    fn bound(&self) -> NonZeroU32 {
        NonZeroU32::new(NODE_COUNT_MAX).expect("not zero")
    }
}

fn plan(reason: String) -> CeremonyError {
    CeremonyError::Plan { reason }
}

/// What the last ceremony came to, or the dealer: only who had which share counts.
fn outcome(subnet: &Subnet) -> Output<IcVariant, PublicKey> {
    let nodes = subnet.participants().encode();
    let nobody = Set::<PublicKey>::default().encode();
    let summary = [0; Summary::SIZE];
    let parts = [
        &summary[..],
        &subnet.sharing().encode(),
        &nodes,
        &nodes,
        &nobody,
    ];
    let bound = NonZeroU32::new(NODE_COUNT_MAX).expect("not zero");
    Output::decode_cfg(
        bytes::Bytes::from(parts.concat()),
        &(bound, ModeVersion::v0()),
    )
    .expect("a subnet has as many nodes as its sharing")
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
