//! What clients can check.
use crate::support::{call, certify, envelope, installation, open, root_key, step};
use bytes::Bytes;
use ic_certification::{Certificate, LookupResult};
use ic_principal::Principal;
use ic_transport_types::EnvelopeContent;
use lockstep_subnet::{
    ingress::Ingress,
    replica::{ReadError, Replica, SubmitError},
    state::canister_id,
    tree::paths::{PathError, Scope},
};

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

#[test]
fn a_certificate_for_another_root_halts_the_replica() {
    use lockstep_subnet::application::Application;
    let directory = tempfile::tempdir().expect("a directory");
    let replica = open(&directory.path().join("state"));
    step(&replica, vec![]);
    Application::certified(&replica, 1, [0; 32], [0; 48]);
    assert!(replica.halted().expect("it halts").contains("height 1"));
    assert_eq!(
        replica.submit(Scope::Canister(canister_id(0)), &Bytes::new()),
        Err(SubmitError::Halted)
    );
}
