//! JSON for people, and the console, over HTTP.
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_gateway::{Gateway, Peers, Settings};
use lockstep_subnet::{
    application::{Application, FinalizedBlock, Payload},
    replica::{Replica, SystemClock},
    state::Genesis,
};
use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A replica that has executed two empty blocks, and its gateway.
async fn gateway(directory: &Path, peers: &[&str]) -> SocketAddr {
    let mut key = [0; 32];
    key[31] = 11;
    let key = ic_verify_bls_signature::PrivateKey::deserialize(&key).expect("eleven is a scalar");
    let node = ic_ed25519::PrivateKey::deserialize_raw_32(&[4; 32]).public_key();
    let genesis = Genesis::new(
        &key.public_key().serialize(),
        &[node.serialize_raw()],
        BTreeMap::new(),
    );
    let replica = Replica::open(
        &directory.join("state"),
        genesis.expect("valid keys"),
        [4; 32],
        Arc::new(Engine::new()),
        Arc::new(NoModels),
        Arc::new(SystemClock),
    );
    let replica = Arc::new(replica.expect("the store can be used"));
    for height in 1..=2 {
        let payload = Payload {
            time_ns: height,
            ..Payload::default()
        };
        let digest = [height as u8; 32];
        replica.execute(&FinalizedBlock {
            height,
            digest,
            payload,
        });
    }
    let list = Peers::default();
    for (index, url) in peers.iter().enumerate() {
        list.set(index, url);
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let never = std::future::pending();
    let gateway = Gateway::new(replica, Settings::default()).with_peers(list);
    tokio::spawn(async move { gateway.serve(listener, None, never).await });
    address
}

/// Status line, headers and body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut response = Vec::new();
    stream
        .read_to_end(&mut response)
        .await
        .expect("it answers and closes");
    String::from_utf8_lossy(&response).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_for_people() {
    let directory = tempfile::tempdir().expect("a directory");
    let peers = [
        "http://127.0.0.1:4943",
        "file:///etc/passwd",
        "https://other.example:1/path",
    ];
    let address = gateway(directory.path(), &peers).await;
    let network = get(address, "/_/lockstep/network").await;
    assert!(network.starts_with("HTTP/1.1 200"), "{network}");
    let listed = r#""replicas":["http://127.0.0.1:4943","https://other.example:1"]"#;
    assert!(network.contains(listed), "{network}");
    assert!(network.contains(r#""root_key":"308182"#), "{network}");

    let blocks = get(address, "/_/lockstep/blocks").await;
    assert!(
        blocks.contains(r#"[{"height":1,"#) && blocks.contains(r#"{"height":2,"#),
        "{blocks}"
    );
    let blocks = get(address, "/_/lockstep/blocks?after=1&limit=5").await;
    assert!(blocks.contains(r#"[{"height":2,"#), "{blocks}");
    for limit in ["0", "18446744073709551615"] {
        let blocks = get(address, &format!("/_/lockstep/blocks?limit={limit}")).await;
        assert!(blocks.starts_with("HTTP/1.1 200"), "{blocks}");
    }

    let canisters = get(address, "/_/lockstep/canisters?limit=0").await;
    let none = r#"{"height":2,"total":0,"canisters":[],"next":null}"#;
    assert!(canisters.ends_with(none), "{canisters}");
    for (path, status) in [
        ("/_/lockstep/blocks?after=-1", "400"),
        ("/_/lockstep/blocks?limit=many", "400"),
        ("/_/lockstep/canisters?after=nobody", "400"),
        ("/_/lockstep/canisters/nobody", "400"),
        ("/_/lockstep/canisters/aaaaa-aa", "404"),
        ("/_/lockstep/nothing", "404"),
    ] {
        let answer = get(address, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_console_is_served_with_a_strict_policy() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = gateway(directory.path(), &["http://127.0.0.1:4944"]).await;
    for path in ["/", "/console"] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 307"), "{answer}");
        assert!(answer.contains("location: /console/\r\n"), "{answer}");
    }
    let page = get(address, "/console/").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    for header in [
        "content-type: text/html; charset=utf-8\r\n",
        "cache-control: no-cache\r\n",
        "x-content-type-options: nosniff\r\n",
        "default-src 'none'; script-src 'self';",
        "connect-src 'self' http://127.0.0.1:4944\r\n",
    ] {
        assert!(page.contains(header), "{header}: {page}");
    }
    for path in [
        "/console/nothing.js",
        "/console/../Cargo.toml",
        "/console/%2e%2e/Cargo.toml",
    ] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}
