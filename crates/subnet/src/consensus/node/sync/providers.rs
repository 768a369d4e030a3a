//! Whom a transfer asks for which parts.
//!
//! # Invariants
//! A part is asked of one peer at a time. Who sent what is wrong or was late too often is not asked again in the same
//! transfer, whatever it offers: two peers that never answer would otherwise be asked for the last part in turn, without
//! end, and those that have it never.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

/// Requests that a peer has at a time.
pub(super) const REQUESTS_PER_PEER: usize = 4;
/// After so much time a request is made again, to another peer if there is one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests without an answer in between after which a peer is not asked any more.
const LATE_MAX: u32 = 4;

/// What a peer was asked.
#[derive(Default)]
pub(super) struct Provider {
    pub(super) requests: BTreeMap<u32, SystemTime>,
    late: u32,
}

/// The peers of a transfer.
pub(super) struct Providers<P> {
    asked: BTreeMap<P, Provider>,
    refused: BTreeSet<P>,
}

impl<P: Clone + Ord> Providers<P> {
    pub(super) fn new(peers: impl Iterator<Item = P>) -> Self {
        Self {
            asked: peers.map(|peer| (peer, Provider::default())).collect(),
            refused: BTreeSet::new(),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&P, &mut Provider)> {
        self.asked.iter_mut()
    }

    /// The parts that somebody is asked for.
    pub(super) fn requested(&self) -> BTreeSet<u32> {
        let providers = self.asked.values();
        providers
            .flat_map(|provider| provider.requests.keys().copied())
            .collect()
    }

    /// A peer has the checkpoint.
    pub(super) fn join(&mut self, peer: P) {
        if !self.refused.contains(&peer) {
            self.asked.entry(peer).or_default();
        }
    }

    /// Whether a peer was asked for a part, which it is not any more.
    pub(super) fn answered(&mut self, peer: &P, index: u32) -> bool {
        let Some(provider) = self.asked.get_mut(peer) else {
            return false;
        };
        let was_asked = provider.requests.remove(&index).is_some();
        if was_asked {
            provider.late = 0;
        }
        was_asked
    }

    /// A peer does not have the checkpoint any more.
    pub(super) fn leave(&mut self, peer: &P) {
        self.asked.remove(peer);
    }

    /// A peer sent what is wrong.
    pub(super) fn refuse(&mut self, peer: P) {
        self.asked.remove(&peer);
        self.refused.insert(peer);
    }

    pub(super) fn forget_late_requests(&mut self, now: SystemTime) {
        let refused = &mut self.refused;
        self.asked.retain(|peer, provider| {
            let before = provider.requests.len();
            provider.requests.retain(|_, at| {
                now.duration_since(*at)
                    .is_ok_and(|age| age < REQUEST_TIMEOUT)
            });
            provider.late += (before - provider.requests.len()) as u32;
            let stays = provider.late < LATE_MAX;
            if !stays {
                refused.insert(peer.clone());
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(providers: &mut Providers<u8>, peer: u8, indices: &[u32], at: SystemTime) {
        let (_, provider) = providers
            .iter_mut()
            .find(|(known, _)| **known == peer)
            .expect("it is a provider");
        provider
            .requests
            .extend(indices.iter().map(|index| (*index, at)));
    }

    #[test]
    fn who_never_answers_is_not_asked_again_however_often_it_offers() {
        let start = SystemTime::UNIX_EPOCH;
        let mut providers = Providers::new([1, 2].into_iter());
        ask(&mut providers, 1, &[7, 8, 9], start);
        ask(&mut providers, 2, &[10], start);
        providers.forget_late_requests(start + REQUEST_TIMEOUT / 2);
        assert_eq!(providers.requested(), [7, 8, 9, 10].into());
        assert!(providers.answered(&2, 10) && !providers.answered(&2, 10));
        // Three are late, then a fourth.
        let later = start + REQUEST_TIMEOUT;
        providers.forget_late_requests(later);
        assert_eq!((providers.requested(), providers.count()), ([].into(), 2));
        ask(&mut providers, 1, &[7], later);
        providers.forget_late_requests(later + REQUEST_TIMEOUT);
        for _ in 0..2 {
            assert_eq!(providers.count(), 1);
            assert!(!providers.answered(&1, 7));
            providers.join(1);
        }
    }

    #[test]
    fn an_answer_makes_up_for_late_ones_and_who_lied_is_not_asked() {
        let mut now = SystemTime::UNIX_EPOCH;
        let mut providers = Providers::new([1, 2].into_iter());
        for _ in 0..4 {
            ask(&mut providers, 1, &[1, 2, 3], now);
            now += REQUEST_TIMEOUT;
            ask(&mut providers, 1, &[4], now);
            providers.forget_late_requests(now);
            assert!(providers.answered(&1, 4));
        }
        providers.refuse(1);
        providers.join(1);
        assert_eq!(providers.count(), 1);
        // Who does not have it may have it later.
        providers.leave(&2);
        assert_eq!(providers.count(), 0);
        providers.join(2);
        assert_eq!(providers.count(), 1);
    }
}
