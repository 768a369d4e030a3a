//! TLS with certificates made here.
use super::{http2::handshake, *};
use crate::TlsError;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A new certificate in files, and the certificate.
fn certificate(directory: &TempDir) -> (PathBuf, PathBuf, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let path = |name| directory.path().join(name);
    fs::write(path("certificate.pem"), cert.pem()).expect("it is written");
    fs::write(path("key.pem"), signing_key.serialize_pem()).expect("it is written");
    set_mode(&path("key.pem"), 0o600);
    (path("certificate.pem"), path("key.pem"), cert.der().clone())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

async fn connect(
    site: &Site,
    trusted: &CertificateDer<'static>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config))
        .connect(name, site.connect().await)
        .await
}

#[tokio::test]
async fn both_protocols_are_served_over_tls() {
    let directory = tempfile::tempdir().expect("a directory");
    let (chain, key, trusted) = certificate(&directory);
    let tls = Arc::new(Tls::open(&chain, &key).expect("they fit"));
    let site = Site::with(settings(), Some(tls)).await;
    let mut stream = connect(&site, &trusted, b"http/1.1")
        .await
        .expect("trusted");
    let request = b"GET /named/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it is taken");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it is closed in order");
    assert_answer(&answer, 200, "named");
    let stream = connect(&site, &trusted, b"h2").await.expect("trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, _ended) = handshake(stream).await;
    let answer = sender
        .send_request(http2::get("/named/a"))
        .await
        .expect("an answer");
    assert_eq!(http2::text(answer).await.1, "named\n");
    // Who speaks no TLS is dropped.
    let answer = site
        .exchange("GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert!(!answer.contains("HTTP/1.1"), "{answer}");
    assert_eq!(site.refused("handshake"), 1);
}

#[tokio::test]
async fn a_slow_handshake_is_dropped() {
    let directory = tempfile::tempdir().expect("a directory");
    let (chain, key, _) = certificate(&directory);
    let tls = Arc::new(Tls::open(&chain, &key).expect("they fit"));
    let settings = Settings {
        handshake_timeout: SOON,
        ..settings()
    };
    let site = Site::with(settings, Some(tls)).await;
    assert_eq!(all(&mut site.connect().await).await, "");
    // The beginning of a handshake.
    assert_eq!(site.exchange([22, 3, 1, 2]).await, "");
    assert_eq!(site.refused("handshake"), 2);
}

#[tokio::test]
async fn handshakes_count_as_requests() {
    let directory = tempfile::tempdir().expect("a directory");
    let (chain, key, _) = certificate(&directory);
    let tls = Arc::new(Tls::open(&chain, &key).expect("they fit"));
    let settings = Settings {
        requests_burst: std::num::NonZeroU32::MIN,
        requests_per_second: std::num::NonZeroU32::MIN,
        ..settings()
    };
    let site = Site::with(settings, Some(tls)).await;
    soon(async {
        while site.refused("rate") == 0 {
            drop(site.connect().await);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_certificate_is_served_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let (chain, key, first) = certificate(&directory);
    let tls = Arc::new(Tls::open(&chain, &key).expect("they fit"));
    let site = Site::with(settings(), Some(Arc::clone(&tls))).await;
    assert!(!tls.reload().expect("as it was"));
    connect(&site, &first, b"h2").await.expect("trusted");
    let (.., second) = certificate(&directory);
    // In case the file system tells times coarsely.
    let later = std::time::SystemTime::now() + Duration::from_secs(10);
    let touch = |path: &PathBuf| {
        let file = fs::File::options()
            .append(true)
            .open(path)
            .expect("it is there");
        file.set_modified(later).expect("it is ours");
    };
    touch(&chain);
    assert!(tls.reload().expect("they fit"));
    connect(&site, &first, b"h2")
        .await
        .expect_err("it is another");
    connect(&site, &second, b"h2").await.expect("trusted");
    set_mode(&key, 0o604);
    touch(&key);
    assert!(matches!(tls.reload(), Err(TlsError::Secret(_))));
    set_mode(&key, 0o600);
    fs::write(&chain, "nothing").expect("it is written");
    assert!(matches!(tls.reload(), Err(TlsError::Pem { .. })));
    connect(&site, &second, b"h2").await.expect("trusted");
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let other = tempfile::tempdir().expect("a directory");
    let (chain, key, _) = certificate(&directory);
    let (_, other_key, _) = certificate(&other);
    let absent = directory.path().join("absent");
    let text = |chain: &PathBuf, key: &PathBuf| {
        let error = Tls::open(chain, key).expect_err("of no use");
        error.to_string()
    };
    assert!(text(&absent, &key).starts_with("cannot read "));
    assert!(text(&key, &key).ends_with("key.pem holds no certificates in PEM form"));
    assert!(text(&chain, &absent).starts_with("cannot access key file: "));
    set_mode(&chain, 0o600);
    assert!(text(&chain, &chain).ends_with("certificate.pem holds no private key in PEM form"));
    let mismatch = text(&chain, &other_key);
    assert!(
        mismatch.contains("key.pem is not that of the first certificate in "),
        "{mismatch}"
    );
    set_mode(&key, 0o644);
    let exposed = text(&chain, &key);
    assert!(
        exposed.starts_with("everybody on this machine can read the secret key file: "),
        "{exposed}"
    );
}
