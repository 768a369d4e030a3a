//! What clients can check.
use crate::support::{
    START_NS, call, certify, envelope, installation, open, open_stopped, root_key, signed_call,
    step,
};
use bytes::Bytes;
use ic_certification::{Certificate, LookupResult};
use ic_principal::Principal;
use ic_transport_types::{Delegation, Envelope, EnvelopeContent, SignedDelegation};
use lockstep_subnet::{
    ingress::{DelegationError, Ingress},
    replica::{ReadError, Replica, SubmitError},
    state::canister_id,
    tree::paths::{PathError, Scope},
};
use std::borrow::Cow;

fn read(
    replica: &Replica,
    canister: Principal,
    paths: &[&[&[u8]]],
) -> Result<Certificate, ReadError> {
    let paths = paths
        .iter()
        .map(|path| path.iter().map(|label| (*label).into()).collect())
        .collect();
    let content = EnvelopeContent::ReadState {
        ingress_expiry: 0,
        sender: Principal::anonymous(),
        paths,
    };
    let bytes = replica.read_state(Scope::Canister(canister), &envelope(content))?;
    Ok(serde_cbor::from_slice(&bytes).expect("a certificate"))
}

fn verify(certificate: &Certificate) {
    let message = [b"\x0Dic-state-root", &certificate.tree.digest()[..]].concat();
    let key = root_key().public_key().serialize();
    ic_verify_bls_signature::verify_bls_signature(&certificate.signature, &message, &key)
        .expect("it is signed");
}

#[test]
fn certificates_cover_answers_state_and_absence() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let increment = call(id, "increment", vec![], 1);
    step(&replica, vec![increment.clone()]);
    assert_eq!(read(&replica, id, &[]), Err(ReadError::NotReady));
    certify(&replica);
    let request = Ingress::decode(&increment).expect("a call").id;
    let certificate = read(
        &replica,
        id,
        &[
            &[b"request_status", &request[..]],
            &[b"lockstep"],
            &[b"request_status", &request[..]],
        ],
    );
    let certificate = certificate.expect("the paths may be read");
    verify(&certificate);
    let status = |name: &str| -> Vec<Vec<u8>> {
        vec![b"request_status".to_vec(), request.to_vec(), name.into()]
    };
    assert_eq!(
        certificate.tree.lookup_path(status("reply")),
        LookupResult::Found(&[1, 0, 0, 0])
    );
    let digest = replica.executed().state.digest();
    assert_eq!(
        certificate.tree.lookup_path(["lockstep", "state"]),
        LookupResult::Found(&digest)
    );
    assert!(matches!(
        certificate.tree.lookup_path(["time"]),
        LookupResult::Found(_)
    ));
    assert_eq!(
        certificate.tree.lookup_path(["subnet"]),
        LookupResult::Unknown
    );

    let absent =
        read(&replica, id, &[&[b"request_status", &[1; 32]]]).expect("the path may be read");
    verify(&absent);
    let path: [&[u8]; 3] = [b"request_status", &[1; 32], b"status"];
    assert_eq!(absent.tree.lookup_path(path), LookupResult::Absent);
}

#[test]
fn canisters_show_when_they_and_their_code_came() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    let [create, install] = <[Bytes; 2]>::try_from(calls).expect("two calls");
    let certified = || {
        certify(&replica);
        let canister =
            |leaf: &'static [u8]| -> Vec<&[u8]> { vec![b"canister", id.as_slice(), leaf] };
        let leaves = [
            b"canister_creation_timestamp".as_slice(),
            b"last_install_timestamp",
        ];
        let paths = leaves.map(canister);
        let time: &[&[u8]] = &[b"time"];
        let asked = [time, &paths[0], &paths[1]];
        let certificate = read(&replica, id, &asked).expect("the paths may be read");
        verify(&certificate);
        asked.map(|path| match certificate.tree.lookup_path(path) {
            LookupResult::Found(value) => Some(value.to_vec()),
            LookupResult::Absent => None,
            other => panic!("{other:?}"),
        })
    };
    step(&replica, vec![create]);
    let [created_at, created, installed] = certified();
    assert_eq!((&created, installed), (&created_at, None));
    step(&replica, vec![install]);
    let [installed_at, still, installed] = certified();
    assert_eq!((still, &installed), (created, &installed_at));
    assert!(installed_at.is_some() && installed_at != created_at);
    step(&replica, vec![]);
    let [later, _, still] = certified();
    assert_eq!(still, installed_at);
    assert!(later != still);
}

#[test]
fn there_are_no_boundary_nodes_to_be_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    step(&replica, vec![]);
    certify(&replica);
    let certificate = read(&replica, canister_id(0), &[&[b"api_boundary_nodes"]]);
    let certificate = certificate.expect("the path may be read");
    verify(&certificate);
    let found = certificate.tree.lookup_path(["api_boundary_nodes"]);
    assert_eq!(found, LookupResult::Absent);
}

#[test]
fn what_is_not_for_the_reader_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    certify(&replica);
    let refused = |canister, path: &[&[u8]]| {
        read(&replica, canister, &[path]).expect_err("it may not be read")
    };
    assert!(matches!(
        refused(id, &[b"canister", id.as_slice(), b"certified_data"]),
        ReadError::Path(PathError::Invalid { .. })
    ));
    assert!(matches!(
        refused(id, &[b"canister", id.as_slice()]),
        ReadError::Path(PathError::Invalid { .. })
    ));
    assert!(matches!(
        refused(id, &[b"request_status"]),
        ReadError::Path(PathError::Invalid { .. })
    ));
    let module_hash: &[&[u8]] = &[b"canister", id.as_slice(), b"module_hash"];
    assert!(matches!(
        refused(canister_id(8), module_hash),
        ReadError::Path(PathError::Forbidden { .. })
    ));
    assert!(read(&replica, id, &[module_hash]).is_ok());
}

/// Who may act for a sender for some canisters sees what became of calls to those.
#[test]
fn delegations_for_canisters_show_the_status_of_calls_to_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open_stopped(&directory.path().join("state"));
    let (id, calls) = installation(7);
    step(&replica, calls);
    let [sender, other] =
        [8, 9].map(|seed| ic_ed25519::PrivateKey::deserialize_raw_32(&[seed; 32]));
    let asked: Bytes = signed_call(&sender, id, START_NS + 5_000_000_000)
        .encode_bytes()
        .into();
    step(&replica, vec![asked.clone()]);
    certify(&replica);
    let request = Ingress::decode(&asked).expect("a call").id;
    let read = |targets: &[Principal]| {
        let public_key = sender.public_key().serialize_rfc8410_der();
        let content = EnvelopeContent::ReadState {
            ingress_expiry: START_NS + 1,
            sender: Principal::self_authenticating(&public_key),
            paths: vec![vec![(*b"request_status").into(), request.to_vec().into()]],
        };
        let delegation = Delegation {
            pubkey: other.public_key().serialize_rfc8410_der(),
            expiration: START_NS + 1,
            targets: Some(targets.to_vec()),
            permissions: None,
        };
        let signature = sender.sign_message(&delegation.signable()).to_vec();
        let message = content.to_request_id().signable();
        let envelope = Envelope {
            content: Cow::Owned(content),
            sender_pubkey: Some(public_key),
            sender_sig: Some(other.sign_message(&message).to_vec()),
            sender_delegation: Some(vec![SignedDelegation {
                delegation,
                signature,
            }]),
        };
        replica.read_state(Scope::Canister(id), &envelope.encode_bytes())
    };
    assert!(read(&[canister_id(8), id]).is_ok());
    let canister = id;
    assert_eq!(
        read(&[canister_id(8)]),
        Err(PathError::Delegation(DelegationError::NotATarget { canister }).into())
    );
}

#[test]
fn a_certificate_for_another_root_stops_the_replica() {
    use lockstep_subnet::application::Application;
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    step(&replica, vec![]);
    Application::certified(&replica, 1, [0; 32], [0; 48]);
    assert!(replica.divergence().expect("it stops").contains("height 1"));
    assert_eq!(
        replica.submit(Scope::Canister(canister_id(0)), &Bytes::new()),
        Err(SubmitError::Halted)
    );
}
