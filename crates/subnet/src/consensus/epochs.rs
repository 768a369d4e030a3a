//! Which nodes order which heights: what a node knows of the subnet's epochs, and what it wants the next one to be.
//!
//! # Design
//! The state says which epochs were ordered ([`state::Epochs`]); key files say which node this is in each, and what its
//! operator wants next. A node proposes and votes for just the switch that its operator has installed, so that the
//! agreement of `n - f` operators is what orders it; and it proposes it when a quorum of the nodes of now and one of the
//! next have told that they have it installed, so that those who are early lose no turns by it, and those who join are there.
//!
//! # Invariants
//! The epoch of a height is known as soon as the height [`SWITCH_DELAY`] below it is executed, and never changes. What
//! the state says of an epoch wins over files.
use super::{
    certification::Signer,
    genesis::{NodeKeys, PeerAddress, Subnet},
    node::namespace,
};
use crate::{
    application::{Application, Height, SWITCH_DELAY, Switch},
    members::Members,
    state,
};
use commonware_consensus::simplex::scheme::ed25519::Scheme;
use commonware_cryptography::{Signer as _, certificate::Scoped, ed25519::PublicKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

mod installed;
mod schedule;

pub use installed::{InstallError, Installed, Standing};
pub(crate) use schedule::{ProposerSchedule, Schedule};

/// Nodes for which there is room besides twice those that are known at the start.
const ROOM_BESIDES: usize = 4;
/// Context of the digest by which nodes tell which switch they have installed.
const SWITCH_CONTEXT: &str = "lockstep 2026 subnet: switch";

/// An epoch, as this node sees it.
pub(crate) struct Epoch {
    subnet: Arc<Subnet>,
    keys: Option<NodeKeys>,
    scheme: Arc<Scheme>,
}

impl Epoch {
    fn new(installed: Installed) -> Self {
        let Installed { subnet, keys } = installed;
        let votes = namespace(&subnet, "votes");
        let participants = subnet.participants().clone();
        let signer = keys
            .as_ref()
            .and_then(|keys| Scheme::signer(&votes, participants.clone(), keys.identity().clone()));
        let scheme = signer.unwrap_or_else(|| Scheme::verifier(&votes, participants));
        Self {
            subnet,
            keys,
            scheme: Arc::new(scheme),
        }
    }

    pub(crate) fn subnet(&self) -> &Arc<Subnet> {
        &self.subnet
    }

    /// What its finalizations are verified with.
    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// What votes are made with; `None`: this node is none of the epoch's, or has no share of its key.
    pub(crate) fn voter(&self) -> Option<Scheme> {
        self.keys.as_ref().map(|_| Scheme::clone(&self.scheme))
    }

    /// What shares of certificates are made with.
    pub(crate) fn signer(&self) -> Option<Signer> {
        let keys = self.keys.as_ref()?;
        let sharing = self.subnet.sharing().clone();
        Some(Signer::new(sharing, keys.share().clone()))
    }

    fn scoped(&self) -> Scoped<Scheme> {
        let scheme = Arc::clone(&self.scheme);
        match self.keys {
            Some(_) => Scoped::scheme(scheme),
            None => Scoped::verifier(scheme),
        }
    }
}

/// Where an epoch begins.
#[derive(Clone, Copy)]
struct Start {
    first_height: Height,
    parent: Option<[u8; 32]>,
}

struct Inner {
    epochs: BTreeMap<u64, Arc<Epoch>>,
    /// Of the ordered ones.
    starts: BTreeMap<u64, Start>,
    /// Where the peers are, as files say.
    addresses: BTreeMap<PublicKey, PeerAddress>,
    /// What other nodes have installed, and when they last said so.
    ready: BTreeMap<PublicKey, ([u8; 32], SystemTime)>,
    /// The nodes of the last ordered epoch as the state has them; `None`: the genesis.
    last_members: Option<Members>,
    protocol_version: u64,
    upgrade_to: Option<u64>,
    /// The lowest height above the executed ones whose block, not final yet, orders the next epoch.
    expected_at: Option<Height>,
    /// The most nodes that it connects with.
    room: usize,
}

/// Shared between the tasks of a node, and with whoever installs keys.
pub(crate) struct Epochs {
    me: PublicKey,
    query_key: [u8; 32],
    inner: Mutex<Inner>,
}

impl fmt::Debug for Epochs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Epochs").finish_non_exhaustive()
    }
}

impl Epochs {
    /// What is installed at the start: the genesis, and epochs after it.
    ///
    /// # Errors
    /// If the parts are not of one subnet and one node.
    pub(crate) fn new(
        genesis: Installed,
        later: Vec<Installed>,
        upgrade_to: Option<u64>,
    ) -> Result<Self, InstallError> {
        let keys = genesis.keys.iter();
        let later_keys = later.iter().filter_map(|epoch| epoch.keys.as_ref());
        let keys = keys.chain(later_keys).next().ok_or(InstallError::NoKeys)?;
        let epochs = Self {
            me: keys.identity().public_key(),
            query_key: keys.query_key(),
            inner: Mutex::new(Inner {
                epochs: BTreeMap::new(),
                starts: BTreeMap::new(),
                addresses: BTreeMap::new(),
                ready: BTreeMap::new(),
                last_members: None,
                protocol_version: 0,
                upgrade_to,
                expected_at: None,
                room: usize::MAX,
            }),
        };
        let number = genesis.subnet.epoch();
        epochs.lock().starts.insert(
            number,
            Start {
                first_height: 0,
                parent: None,
            },
        );
        epochs.install(genesis)?;
        for installed in later {
            epochs.install(installed)?;
        }
        {
            let mut inner = epochs.lock();
            inner.room = 2 * inner.node_count() + ROOM_BESIDES;
        }
        Ok(epochs)
    }

    /// The most nodes that this one connects with. Queues of messages are made for so many.
    pub(crate) fn room(&self) -> usize {
        self.lock().room
    }

    /// Takes key files for an epoch: of this node for one that was ordered, or for the next one, which is wanted from
    /// now on.
    ///
    /// # Errors
    /// If they are not of this subnet and this node, or the epoch was ordered with other nodes.
    pub(crate) fn install(&self, installed: Installed) -> Result<(), InstallError> {
        let Installed { subnet, keys } = &installed;
        let epoch = subnet.epoch();
        if let Some(keys) = keys {
            if !keys.are_of(subnet) {
                return Err(InstallError::UnknownIdentity { epoch });
            }
            if keys.identity().public_key() != self.me || keys.query_key() != self.query_key {
                return Err(InstallError::OtherNode { epoch });
            }
        }
        let mut inner = self.lock();
        let others = inner.epochs.values().next().map(|first| &first.subnet);
        if others.is_some_and(|other| {
            other.public_key() != subnet.public_key()
                || other.models() != subnet.models()
                || other.protocol_version() != subnet.protocol_version()
        }) {
            return Err(InstallError::OtherSubnet { epoch });
        }
        let is_ordered = inner.starts.contains_key(&epoch);
        if let Some(known) = inner.epochs.get(&epoch)
            && is_ordered
            && known.subnet.digest() != subnet.digest()
        {
            return Err(InstallError::Ordered { epoch });
        }
        let new = subnet.participants().iter();
        let new = new.filter(|node| !inner.is_node(node)).count();
        if inner.node_count() + new > inner.room {
            return Err(InstallError::NoRoom { epoch });
        }
        let nodes = subnet.participants().iter().cloned();
        inner
            .addresses
            .extend(nodes.zip(subnet.addresses().iter().cloned()));
        let Some(keys) = installed.keys.clone() else {
            // What is known of an ordered epoch may have keys, and is the same but for them.
            if !is_ordered || !inner.epochs.contains_key(&epoch) {
                inner.epochs.insert(epoch, Arc::new(Epoch::new(installed)));
            }
            return Ok(());
        };
        // Epochs that go on with the same sharing wait for these keys, too.
        let members = installed.subnet.members();
        for known in inner.epochs.values_mut() {
            if known.keys.is_none() && same_nodes(&known.subnet.members(), &members) {
                *known = Arc::new(Epoch::new(Installed {
                    subnet: Arc::clone(&known.subnet),
                    keys: Some(keys.clone()),
                }));
            }
        }
        inner.epochs.insert(epoch, Arc::new(Epoch::new(installed)));
        Ok(())
    }

    /// Takes over what the state says after a height was executed or another state was taken over.
    ///
    /// # Panics
    /// If the state names nodes that are none, which no honest node has voted for.
    pub(crate) fn follow(&self, application: &dyn Application) {
        let ordered = application.epochs();
        let executed = application.executed_height();
        let mut inner = self.lock();
        inner.expected_at = inner.expected_at.filter(|at| *at > executed);
        inner.protocol_version = application.protocol_version();
        for epoch in ordered.ordered() {
            let state::Epoch {
                number,
                first_height,
                parent,
                members,
                ..
            } = epoch;
            let start = Start {
                first_height: *first_height,
                parent: *parent,
            };
            if inner.starts.insert(*number, start).is_some() {
                continue;
            }
            inner.ready.clear();
            inner.last_members = Some(members.clone());
            let known = inner.epochs.get(number);
            if known.is_some_and(|known| same_nodes(&known.subnet.members(), members)) {
                continue;
            }
            let any = inner.epochs.values().next().expect("the genesis");
            let subnet = any.subnet.with_members(*number, members);
            let subnet = subnet.expect("voters have checked the nodes of an epoch");
            // The same nodes with the same sharing go on with their keys.
            let same = inner.epochs.values().rev();
            let mut same = same.filter(|known| same_nodes(&known.subnet.members(), members));
            let keys = same.find_map(|known| known.keys.clone());
            let subnet = Arc::new(subnet);
            let epoch = Epoch::new(Installed { subnet, keys });
            inner.epochs.insert(*number, Arc::new(epoch));
        }
    }

    /// The number of the epoch that a height belongs to, as far as it was ordered; `None`: it is too long ago.
    pub(crate) fn at(&self, height: Height) -> Option<u64> {
        number_at(&self.lock().starts, height)
    }

    /// The number of the epoch of the height after `executed`. While a later state is being taken over, that of the state
    /// before it.
    pub(crate) fn now(&self, executed: Height) -> u64 {
        let inner = self.lock();
        let mut begun = inner.starts.iter().rev();
        let begun = begun.find(|(_, start)| start.first_height <= executed + 1);
        begun.map_or(0, |(number, _)| *number)
    }

    /// Whether an epoch of this number is the next one that can be ordered.
    pub(crate) fn is_next(&self, number: u64) -> bool {
        let last = self.lock().starts.last_key_value().map(|(last, _)| *last);
        last.is_some_and(|last| number == last + 1)
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<Epoch>> {
        self.lock().epochs.get(&number).cloned()
    }

    /// The digest of the block before an epoch's first; `None`: the epoch is the genesis, or it is not known yet.
    pub(crate) fn parent(&self, number: u64) -> Option<[u8; 32]> {
        self.lock().starts.get(&number)?.parent
    }

    /// The first height of an epoch, if it was ordered.
    fn first_height(&self, number: u64) -> Option<Height> {
        Some(self.lock().starts.get(&number)?.first_height)
    }

    /// The last height of an epoch, if the next one was ordered.
    pub(crate) fn last_height(&self, number: u64) -> Option<Height> {
        let inner = self.lock();
        let next = inner.starts.get(&(number + 1))?;
        Some(next.first_height - 1)
    }

    /// Notes that the block of a height that is not final yet orders the next epoch, on the chain that is gone on with.
    pub(crate) fn expect_switch(&self, at: Height) {
        self.lock().expected_at = Some(at);
    }

    /// The same of a block that is voted for: one that is expected already may be before it on the same chain.
    pub(crate) fn expect_voted_switch(&self, at: Height) {
        self.lock().expected_at.get_or_insert(at);
    }

    /// The height after which nothing of an epoch can be voted on before its block is final: its last one, or the one that
    /// would be if a block that is not final yet becomes it.
    fn boundary(&self, number: u64) -> Option<Height> {
        let last = self.last_height(number);
        last.or_else(|| {
            let inner = self.lock();
            let (last, start) = inner.starts.last_key_value()?;
            let is_of_it = |at: &Height| *last == number && *at >= start.first_height;
            let expected_at = inner.expected_at.filter(is_of_it)?;
            Some(expected_at + SWITCH_DELAY - 1)
        })
    }

    /// All nodes of the epoch of the height after `executed`, of the one before, and of those after as far as they are
    /// known, this one too, with their addresses.
    pub(crate) fn peers(&self, executed: Height) -> BTreeMap<PublicKey, Option<PeerAddress>> {
        let inner = self.lock();
        let now = number_at(&inner.starts, executed + 1).unwrap_or(0);
        let mut peers = BTreeMap::new();
        for (_, epoch) in inner.epochs.range(now.saturating_sub(1)..) {
            let mut addresses = epoch.subnet.addresses().iter();
            for node in epoch.subnet.participants() {
                let address = addresses.next().cloned();
                let installed = inner.addresses.get(node).cloned();
                peers.insert(node.clone(), installed.or(address));
            }
        }
        peers
    }

    /// See [`Standing`].
    pub(crate) fn standing(&self, executed: Height) -> Standing {
        let number = self.now(executed);
        let Some(epoch) = self.get(number) else {
            return Standing::Outside { epoch: number };
        };
        match (&epoch.keys, epoch.subnet.participants().position(&self.me)) {
            (Some(_), _) => Standing::Member,
            (None, Some(_)) => Standing::NoKeys { epoch: number },
            (None, None) => Standing::Outside { epoch: number },
        }
    }

    pub(crate) fn me(&self) -> &PublicKey {
        &self.me
    }

    /// The switch that this node wants when `executed` is executed, if it wants one.
    pub(crate) fn wanted(&self, executed: Height) -> Option<Switch> {
        self.lock().wanted(executed)
    }

    /// Notes that a node has installed a switch.
    pub(crate) fn note_ready(&self, node: &PublicKey, switch: [u8; 32], now: SystemTime) {
        let mut inner = self.lock();
        // Of nodes only, so that this is bounded.
        if inner.is_node(node) {
            inner.ready.insert(node.clone(), (switch, now));
        }
    }

    /// Forgets what was said before a time and not again.
    pub(crate) fn forget_ready(&self, before: SystemTime) {
        self.lock().ready.retain(|_, (_, said)| *said >= before);
    }

    /// The switch that this node proposes: what it wants, when a quorum of the epoch's nodes wants it, and a quorum of the
    /// next one's.
    pub(crate) fn proposal(&self, executed: Height) -> Option<Switch> {
        let inner = self.lock();
        let switch = inner.wanted(executed)?;
        let now = inner.epochs.get(&number_at(&inner.starts, executed + 1)?)?;
        let next = inner.epochs.get(&switch.epoch).unwrap_or(now);
        let digest = digest(&switch);
        let is_ready = |node: &PublicKey| {
            let said = inner.ready.get(node).map(|(said, _)| said);
            *node == self.me || said == Some(&digest)
        };
        let unready = |epoch: &Epoch| {
            let nodes = epoch.subnet.participants().iter();
            nodes.filter(|node| !is_ready(node)).count()
        };
        let (unready_now, unready_next) = (unready(now), unready(next));
        tracing::debug!(
            epoch = switch.epoch,
            unready_now,
            unready_next,
            "another epoch is wanted"
        );
        let are_ready = |epoch: &Epoch, unready: usize| {
            let ready = epoch.subnet.participants().len() - unready;
            ready >= epoch.subnet.sharing().required() as usize
        };
        (are_ready(now, unready_now) && are_ready(next, unready_next)).then_some(switch)
    }

    /// Whether this node votes for a block with this switch: it wants it itself, or it was just ordered.
    pub(crate) fn accepts(&self, executed: Height, switch: &Switch) -> bool {
        let inner = self.lock();
        if inner.wanted(executed).as_ref() == Some(switch) {
            return true;
        }
        let last = inner.starts.last_key_value();
        last.is_some_and(|(last, start)| {
            *last == switch.epoch
                && start.first_height > executed + 1
                && inner.protocol_version == switch.protocol_version
                && inner.last_members.as_ref() == Some(&switch.members)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The different nodes of all epochs that are known.
    fn node_count(&self) -> usize {
        let nodes = self.epochs.values();
        let nodes = nodes.flat_map(|epoch| epoch.subnet.participants());
        nodes.collect::<BTreeSet<_>>().len()
    }

    fn is_node(&self, node: &PublicKey) -> bool {
        let mut epochs = self.epochs.values();
        epochs.any(|epoch| epoch.subnet.participants().position(node).is_some())
    }

    fn wanted(&self, executed: Height) -> Option<Switch> {
        let (last, start) = self.starts.last_key_value()?;
        if start.first_height > executed + 1 {
            return None;
        }
        let epoch = last + 1;
        let installed = self.epochs.get(&epoch);
        let upgrade = self.upgrade_to.filter(|to| *to > self.protocol_version);
        if installed.is_none() && upgrade.is_none() {
            return None;
        }
        let members = match (installed, &self.last_members) {
            (Some(installed), _) => installed.subnet.members(),
            (None, Some(members)) => members.clone(),
            (None, None) => self.epochs.get(last)?.subnet.members(),
        };
        Some(Switch {
            epoch,
            protocol_version: upgrade.unwrap_or(self.protocol_version),
            members,
        })
    }
}

/// The epoch of a height; `None`: it is one of those that the state has forgotten.
fn number_at(starts: &BTreeMap<u64, Start>, height: Height) -> Option<u64> {
    let mut later = None;
    for (number, start) in starts.iter().rev() {
        if start.first_height <= height {
            let is_known = later.is_none_or(|later| later == number + 1);
            return is_known.then_some(*number);
        }
        later = Some(*number);
    }
    None
}

/// Whether they are the same nodes with the same sharing, wherever they are.
fn same_nodes(left: &Members, right: &Members) -> bool {
    let keys = |members: &Members| {
        let nodes = members.nodes.iter();
        nodes
            .map(|node| (node.identity, node.query_key))
            .collect::<Vec<_>>()
    };
    left.sharing == right.sharing && keys(left) == keys(right)
}

/// What nodes tell each other of a switch.
pub(crate) fn digest(switch: &Switch) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SWITCH_CONTEXT);
    hasher.update(&switch.epoch.to_le_bytes());
    hasher.update(&switch.protocol_version.to_le_bytes());
    hasher.update(&switch.members.encode());
    *hasher.finalize().as_bytes()
}

/// The height whose execution tells which epoch a height belongs to.
pub(crate) fn known_from(height: Height) -> Height {
    height.saturating_sub(SWITCH_DELAY)
}

#[cfg(test)]
mod tests;
