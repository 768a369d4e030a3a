//! `lockstep node` behind a certificate: who trusts its authority is served, who speaks no TLS is not, and files that are
//! of no use are named before anything starts.
#![cfg(unix)]

mod support;

use ic_agent::{Agent, export::Principal, identity::BasicIdentity};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use insta::assert_snapshot;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};
use support::{json, lockstep, report};
use tempfile::TempDir;

/// An id in the subnet's range, for a call that makes a canister.
const EFFECTIVE_ID: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
/// Counts its updates in one byte.
const CANISTER: &str = r#"(module
    (import "ic0" "msg_reply" (func $reply))
    (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
    (memory 1)
    (func $get (call $append (i32.const 0) (i32.const 1)) (call $reply))
    (func (export "canister_query get") (call $get))
    (func (export "canister_update increase")
        (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
        (call $get)))"#;

/// A subnet of one node in `genesis/`, a certificate of an authority of its own in `certificate.pem` and `key.pem`.
struct Site {
    directory: TempDir,
    /// The authority's certificate, PEM.
    authority: String,
    root_key: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Taken and given back: nothing connects to it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = port.local_addr().unwrap().to_string();
        drop(port);
        let genesis =
            json(inside(directory.path()).args(["genesis", "--json", "--nodes", &address]));
        let root_key = hex::decode(genesis["root_key"].as_str().unwrap()).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap().pem();
        let site = Self {
            directory,
            authority,
            root_key,
        };
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        site.write("certificate.pem", &certificate.pem(), 0o644);
        site.write("key.pem", &key.serialize_pem(), 0o600);
        site
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn node(&self, arguments: &[&str]) -> Command {
        let mut command = inside(self.directory.path());
        command.args([
            "node",
            "--genesis",
            "genesis",
            "--keys",
            "genesis/node-0.json",
        ]);
        command.args([
            "--directory",
            "state",
            "--http",
            "127.0.0.1:0",
            "--threads",
            "1",
        ]);
        command.args(arguments);
        command
    }

    fn refusal(&self, certificate: &str, key: &str) -> String {
        let report = report(&mut self.node(&["--tls-certificate", certificate, "--tls-key", key]));
        assert!(!self.directory.path().join("state").exists(), "{report}");
        report
    }
}

/// A command that runs in `directory`, so that messages have no paths of their own.
fn inside(directory: &Path) -> Command {
    let mut command = lockstep(&directory.join("data"));
    command.current_dir(directory);
    command
}

/// A process that does not outlive the test.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // One that has ended is only waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn create(agent: &Agent) -> Principal {
    let management = Principal::management_canister();
    let reply = agent
        .update(&management, "provisional_create_canister_with_cycles")
        .with_effective_canister_id(Principal::from_slice(&EFFECTIVE_ID))
        .with_arg(candid::encode_one(ProvisionalCreateCanisterWithCyclesArgs::default()).unwrap())
        .call_and_wait()
        .await
        .unwrap();
    let canister = candid::decode_one::<CanisterIdRecord>(&reply)
        .unwrap()
        .canister_id;
    let install = InstallCodeArgs {
        mode: CanisterInstallMode::Install,
        canister_id: canister,
        wasm_module: wat::parse_str(CANISTER).unwrap(),
        arg: Vec::new(),
        sender_canister_version: None,
    };
    agent
        .update(&management, "install_code")
        .with_effective_canister_id(canister)
        .with_arg(candid::encode_one(install).unwrap())
        .call_and_wait()
        .await
        .unwrap();
    canister
}

#[tokio::test]
async fn clients_that_trust_its_authority_are_served() {
    let site = Site::new();
    let certificate = [
        "--json",
        "--tls-certificate",
        "certificate.pem",
        "--tls-key",
        "key.pem",
    ];
    let mut child = site
        .node(&certificate)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let _process = Guarded(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap();
    let url = ready["url"].as_str().unwrap();
    let address = url.strip_prefix("https://").unwrap();

    let agent = |authorities: Vec<reqwest::Certificate>| {
        let http = reqwest::Client::builder()
            .tls_certs_only(authorities)
            .build()
            .unwrap();
        let agent = Agent::builder()
            .with_url(url)
            .with_http_client(http)
            .with_identity(BasicIdentity::from_raw_key(&[1; 32]))
            .with_max_tcp_error_retries(0)
            .build()
            .unwrap();
        agent.set_root_key(site.root_key.clone());
        agent
    };
    let authority = reqwest::Certificate::from_pem(site.authority.as_bytes()).unwrap();
    let trusting = agent(vec![authority]);
    let canister = create(&trusting).await;
    // The agent verifies the certificate of the update, and the signature of the query.
    let update = trusting.update(&canister, "increase").call_and_wait().await;
    assert_eq!(update.unwrap(), [1]);
    let query = trusting.query(&canister, "get").call().await;
    assert_eq!(query.unwrap(), [1]);

    let other = Site::new();
    let other = reqwest::Certificate::from_pem(other.authority.as_bytes()).unwrap();
    let error = agent(vec![other]).status().await.unwrap_err();
    let error = format!("{error:?}");
    assert!(error.contains("InvalidCertificate"), "{error}");

    // Who speaks no TLS gets no HTTP.
    let mut plain = TcpStream::connect(address).unwrap();
    let request = "GET /api/v2/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    plain.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A reset says as much as the end.
    let _ = plain.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("HTTP"), "{answer}");
}

#[test]
fn files_that_are_of_no_use_are_named_before_anything_starts() {
    let site = Site::new();
    let other = Site::new();
    let read = |site: &Site, name| fs::read_to_string(site.directory.path().join(name)).unwrap();
    site.write("other.pem", &read(&other, "key.pem"), 0o600);
    site.write("exposed.pem", &read(&site, "key.pem"), 0o644);
    site.write("empty.pem", "", 0o600);
    let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    site.write("broken.pem", certificate, 0o644);
    assert_snapshot!(site.refusal("nowhere.pem", "key.pem"), @r"
    exit code: 1
    error: cannot read nowhere.pem: No such file or directory (os error 2)
    ");
    assert_snapshot!(site.refusal("empty.pem", "key.pem"), @r"
    exit code: 1
    error: empty.pem holds no certificates in PEM form
    ");
    assert_snapshot!(site.refusal("key.pem", "key.pem"), @r"
    exit code: 1
    error: key.pem holds no certificates in PEM form
    ");
    let broken = site.refusal("broken.pem", "key.pem");
    let expected = "exit code: 1\nerror: certificate and key cannot be used: ";
    assert!(broken.starts_with(expected), "{broken}");
    assert_snapshot!(site.refusal("certificate.pem", "nowhere.pem"), @r"
    exit code: 1
    error: cannot access key file: nowhere.pem: No such file or directory (os error 2)
    ");
    assert_snapshot!(site.refusal("certificate.pem", "empty.pem"), @r"
    exit code: 1
    error: empty.pem holds no private key in PEM form
    ");
    assert_snapshot!(site.refusal("certificate.pem", "other.pem"), @r"
    exit code: 1
    error: the key in other.pem is not that of the first certificate in certificate.pem
    ");
    assert_snapshot!(site.refusal("certificate.pem", "exposed.pem"), @r"
    exit code: 1
    error: everybody on this machine can read the secret key file: exposed.pem
    ");
    let alone = report(&mut site.node(&["--tls-key", "key.pem"]));
    assert!(alone.starts_with("exit code: 2\n"), "{alone}");
    assert!(alone.contains("--tls-certificate <FILE>"), "{alone}");
}
