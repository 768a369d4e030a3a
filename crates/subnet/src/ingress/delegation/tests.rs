use super::*;
use ic_ed25519::PrivateKey;
use ic_transport_types::Delegation;

const NOW_NS: u64 = 1_000;

fn key(number: u8) -> PrivateKey {
    PrivateKey::deserialize_raw_32(&[number; 32])
}

fn der(number: u8) -> Vec<u8> {
    key(number).public_key().serialize_rfc8410_der()
}

fn canister(number: u8) -> Principal {
    Principal::from_slice(&[number, 1, 1])
}

/// A delegation from a key to another with something changed before it is signed.
fn link(from: u8, to: u8, change: impl FnOnce(&mut Delegation)) -> SignedDelegation {
    let mut delegation = Delegation {
        pubkey: der(to),
        expiration: NOW_NS,
        targets: None,
        permissions: None,
    };
    change(&mut delegation);
    let signature = key(from).sign_message(&delegation.signable()).to_vec();
    SignedDelegation {
        delegation,
        signature,
    }
}

fn plain(from: u8, to: u8) -> SignedDelegation {
    link(from, to, |_| {})
}

fn follow_from_1(chain: &[SignedDelegation]) -> Result<(Vec<u8>, Authority), DelegationError> {
    let sender = der(1);
    let at = At {
        root_key: &[],
        now_ns: NOW_NS,
    };
    let (key, authority) = follow(&sender, chain, at)?;
    Ok((key.to_vec(), authority))
}

#[test]
fn the_last_key_signs_for_the_first() {
    let (key, authority) = follow_from_1(&[]).expect("no chain");
    assert_eq!((key, authority), (der(1), Authority::default()));
    let later = |delegation: &mut Delegation| delegation.expiration = NOW_NS + 5;
    let (key, authority) = follow_from_1(&[link(1, 2, later), plain(2, 3)]).expect("a chain");
    assert_eq!((key, authority.until_ns), (der(3), NOW_NS));
    let most: Vec<_> = (1..21).map(|from| plain(from, from + 1)).collect();
    assert_eq!(follow_from_1(&most).expect("a long chain").0, der(21));
}

#[test]
fn chains_are_checked_link_by_link() {
    let most: Vec<_> = (1..22).map(|from| plain(from, from + 1)).collect();
    assert_eq!(
        follow_from_1(&most),
        Err(DelegationError::TooMany { count: 21 })
    );
    for chain in [
        vec![plain(1, 2), plain(2, 1)],
        vec![plain(1, 2), plain(2, 3), plain(3, 2)],
    ] {
        let index = chain.len() - 1;
        assert_eq!(follow_from_1(&chain), Err(DelegationError::Cycle { index }));
    }
    let early = |delegation: &mut Delegation| delegation.expiration = NOW_NS - 1;
    let expired = DelegationError::Expired {
        index: 1,
        expiration_ns: NOW_NS - 1,
        now_ns: NOW_NS,
    };
    assert_eq!(
        follow_from_1(&[plain(1, 2), link(2, 3, early)]),
        Err(expired)
    );
    // By another key, and for another content.
    let mut changed = plain(2, 3);
    changed.delegation.expiration += 1;
    for second in [plain(4, 3), changed] {
        let result = follow_from_1(&[plain(1, 2), second]);
        assert!(
            matches!(result, Err(DelegationError::Signature { index: 1, .. })),
            "{result:?}"
        );
    }
}

#[test]
fn a_chain_allows_what_all_of_its_links_allow() {
    let to = |numbers: &[u8]| {
        let targets = numbers.iter().copied().map(canister).collect();
        move |delegation: &mut Delegation| delegation.targets = Some(targets)
    };
    let chain = [
        link(1, 2, to(&[1, 2])),
        plain(2, 3),
        link(3, 4, to(&[2, 3])),
    ];
    let (_, authority) = follow_from_1(&chain).expect("a chain");
    authority.check_target(&canister(2)).expect("in both");
    for other in [1, 3, 4] {
        let canister = canister(other);
        assert_eq!(
            authority.check_target(&canister),
            Err(DelegationError::NotATarget { canister })
        );
    }
    authority.check_call().expect("nothing says otherwise");
    let many = |delegation: &mut Delegation| {
        delegation.targets = Some(vec![canister(1); TARGETS_MAX + 1]);
    };
    let (index, count) = (0, TARGETS_MAX + 1);
    assert_eq!(
        follow_from_1(&[link(1, 2, many)]),
        Err(DelegationError::TooManyTargets { index, count })
    );
    let queries = |delegation: &mut Delegation| {
        delegation.permissions = Some(DelegationPermissions::Queries);
    };
    let all = |delegation: &mut Delegation| {
        delegation.permissions = Some(DelegationPermissions::All);
    };
    let (_, authority) = follow_from_1(&[link(1, 2, queries), link(2, 3, all)]).expect("a chain");
    assert_eq!(authority.check_call(), Err(DelegationError::OnlyQueries));
    let (_, authority) = follow_from_1(&[link(1, 2, all)]).expect("a chain");
    authority.check_call().expect("all");
}
