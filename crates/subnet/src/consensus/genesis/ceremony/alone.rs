//! A ceremony that one holds alone who has the secrets of all nodes.
use super::{Acknowledgements, Candidate, CeremonyError, Dealing, Log, Plan};
use crate::consensus::genesis::{self, Genesis, NodeKeys, PeerAddress};
use std::net::{Ipv4Addr, SocketAddr};

const IDENTITY_CONTEXT: &str = "lockstep 2026 subnet epoch: node identity";
const QUERY_CONTEXT: &str = "lockstep 2026 subnet epoch: query response key";
const DEALING_CONTEXT: &str = "lockstep 2026 subnet epoch: dealing";

impl Genesis {
    /// The next epoch of the subnet: the nodes `stay` of this one, and `joining` new ones. The same seed makes the same
    /// keys. Addresses are invented: they are for who connects nodes in another way.
    ///
    /// # Errors
    ///
    /// If that makes no subnet.
    ///
    /// # Panics
    ///
    /// If a number in `stay` is none.
    pub fn next_epoch(
        &self,
        stay: &[usize],
        joining: u16,
        seed: &[u8; 32],
    ) -> Result<Self, CeremonyError> {
        let epoch = self.subnet.epoch() + 1;
        let mut numbers = 0..;
        let mut derived =
            |context| genesis::derive(context, seed, numbers.next().expect("endless"));
        let mut ports = 1..;
        let mut address = || {
            let port = ports.next().expect("few nodes");
            PeerAddress::from(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        for (index, keys) in self.nodes.iter().enumerate() {
            let address = stay.contains(&index).then(&mut address);
            candidates.push(Candidate {
                dealing_seed: derived(DEALING_CONTEXT),
                ..Candidate::of(keys, address)
            });
        }
        for _ in 0..joining {
            candidates.push(Candidate {
                identity: genesis::identity(&derived(IDENTITY_CONTEXT)),
                query_seed: derived(QUERY_CONTEXT),
                dealing_seed: derived(DEALING_CONTEXT),
                share: None,
                address: Some(address()),
            });
        }
        hold(self, epoch, &candidates)
    }
}

/// All steps of all candidates.
fn hold(before: &Genesis, epoch: u64, candidates: &[Candidate]) -> Result<Genesis, CeremonyError> {
    let entries = candidates.iter().map(Candidate::entry).collect();
    let plan = Plan::next(&before.subnet, epoch, entries)?;
    let mut dealings: Vec<Dealing> = Vec::new();
    let (mut dealers, mut players) = (Vec::new(), Vec::new());
    for candidate in candidates {
        let roles = plan.roles(candidate)?;
        if roles.dealer.is_some() {
            dealings.extend(plan.deal(candidate)?);
            dealers.push(candidate);
        }
        if let Some(player) = roles.player {
            players.push((player, candidate));
        }
    }
    players.sort_by_key(|(player, _)| *player);
    let to = |player: usize| -> Vec<Dealing> {
        let own = dealings.iter().filter(|dealing| dealing.to == player);
        own.cloned().collect()
    };
    let acknowledgements: Vec<Acknowledgements> = players
        .iter()
        .map(|(player, candidate)| plan.acknowledge(candidate, &to(*player)))
        .collect::<Result<_, _>>()?;
    let logs: Vec<Log> = dealers
        .iter()
        .map(|candidate| plan.conclude(candidate, &acknowledgements))
        .collect::<Result<_, _>>()?;
    let mut nodes: Vec<NodeKeys> = Vec::new();
    let mut subnet = None;
    for (player, candidate) in &players {
        let (same, keys) = plan.finish(candidate, &to(*player), &logs)?;
        subnet = Some(same);
        nodes.extend(keys);
    }
    let subnet = subnet.expect("a plan has nodes");
    Ok(Genesis { subnet, nodes })
}
