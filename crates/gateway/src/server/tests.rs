//! The server over real sockets, with a replica behind it and routes that do what a test says.
mod bounds;
mod http2;
mod observed;
mod shutdown;
mod slow;
mod tls;

use crate::{Gateway, Settings, Tls, answer::Refusal, limits::Client};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    routing::{get, post},
};
use ic_verify_bls_signature::PrivateKey;
use lockstep_canister::{engine::Engine, models::NoModels};
use lockstep_subnet::{
    application::{Application, FinalizedBlock},
    replica::{Replica, SystemClock},
    state::Genesis,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot},
    task::JoinHandle,
};

/// Longer than any test runs.
const NEVER: Duration = Duration::from_secs(3_600);
const SOON: Duration = Duration::from_millis(50);

fn subnet_key() -> PrivateKey {
    let mut key = [0; 32];
    key[31] = 11;
    PrivateKey::deserialize(&key).expect("eleven is a scalar")
}

fn replica(directory: &TempDir) -> Arc<Replica> {
    let node = ic_ed25519::PrivateKey::deserialize_raw_32(&[4; 32]).public_key();
    let key = subnet_key().public_key().serialize();
    let genesis = Genesis::new(&key, &[node.serialize_raw()], BTreeMap::new());
    let replica = Replica::open(
        &directory.path().join("state"),
        genesis.expect("valid keys"),
        [4; 32],
        Arc::new(Engine::new()),
        Arc::new(NoModels),
        Arc::new(SystemClock),
    );
    Arc::new(replica.expect("the store can be used"))
}

/// Executes and certifies a block.
async fn certify_one(replica: &Arc<Replica>) {
    let parent_ns = replica.executed().state.time_ns;
    let block = FinalizedBlock {
        height: replica.executed_height() + 1,
        digest: [0; 32],
        payload: replica.propose(parent_ns).await,
    };
    let root = replica.execute(&block);
    let message = [b"\x0Dic-state-root", &root[..]].concat();
    let signature = subnet_key().sign(&message).serialize();
    Application::certified(replica.as_ref(), block.height, root, signature);
}

/// Settings under which nothing ends that a test does not end, and loopback is like other addresses.
fn settings() -> Settings {
    Settings {
        limit_loopback: true,
        handshake_timeout: NEVER,
        header_timeout: NEVER,
        idle_timeout: NEVER,
        body_timeout: NEVER,
        body_part_timeout: NEVER,
        request_timeout: NEVER,
        drain_timeout: NEVER,
        linger_timeout: NEVER,
        computing_wait_timeout: NEVER,
        ..Settings::default()
    }
}

/// A server that runs.
struct Site {
    gateway: Gateway,
    address: SocketAddr,
    /// What requests to `/hold` and `/work` wait for, one permit each.
    released: Arc<Semaphore>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
    _directory: TempDir,
}

impl Site {
    async fn new(settings: Settings) -> Self {
        Self::with(settings, None).await
    }

    async fn with(settings: Settings, tls: Option<Arc<Tls>>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let gateway = Gateway::new(replica(&directory), settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let released = Arc::new(Semaphore::new(0));
        let (stop, stopped) = oneshot::channel();
        let server = gateway.server(router(&gateway, &released), tls);
        let server = tokio::spawn(server.run(listener, async {
            stopped.await.expect("a site is stopped or aborted");
        }));
        Self {
            gateway,
            address,
            released,
            stop: Some(stop),
            server,
            _directory: directory,
        }
    }

    fn stop(&mut self) {
        let stop = self.stop.take().expect("it is stopped once");
        stop.send(()).expect("it runs");
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// Sends bytes on a new connection and reads until the server closes it.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.expect("it is taken");
        all(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        self.exchange(request).await
    }

    /// How many the server has refused for a reason.
    fn refused(&self, reason: &str) -> u64 {
        let text = self.gateway.metrics.text().expect("it can be written");
        let start = format!("lockstep_http_refused_total{{reason=\"{reason}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(&start));
        value.map_or(0, |value| value.parse().expect("a count"))
    }

    /// Waits until as many requests are under way.
    async fn until_under_way(&self, count: u64) {
        let line = format!("lockstep_http_requests_under_way {count}\n");
        until(|| self.gateway.metrics.text().expect("text").contains(&line)).await;
    }

    /// Waits until a request is answered.
    async fn until_served(&self) {
        let served = async { while !self.get("/named/a").await.starts_with("HTTP/1.1 200") {} };
        soon(served).await;
    }

    /// Waits until nobody listens.
    async fn until_deaf(&self) {
        soon(async { while TcpStream::connect(self.address).await.is_ok() {} }).await;
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
        // Whatever still holds a thread.
        self.released.close();
    }
}

fn router(gateway: &Gateway, released: &Arc<Semaphore>) -> Router {
    let hold = {
        let released = Arc::clone(released);
        || async move {
            if let Ok(permit) = released.acquire().await {
                permit.forget();
            }
            "held\n"
        }
    };
    let work = {
        let released = Arc::clone(released);
        |State(gateway): State<Gateway>, client: Client| async move {
            let runtime = tokio::runtime::Handle::current();
            let work = move || {
                if let Ok(permit) = runtime.block_on(released.acquire()) {
                    permit.forget();
                }
            };
            gateway.work.run(client.source, work).await?;
            Ok::<_, Refusal>("worked\n")
        }
    };
    let large = || async { vec![0_u8; 8 * 1024 * 1024] };
    let router = Router::new()
        .route(
            "/length",
            post(|body: Bytes| async move { body.len().to_string() + "\n" }),
        )
        .route("/hold", get(hold.clone()))
        // The body is gone before the answer comes.
        .route("/forget", post(|_: Bytes| hold()))
        .route("/work", get(work))
        .route("/large", get(large))
        .route("/named/{name}", get(|| async { "named\n" }));
    gateway.bounded(router.with_state(gateway.clone()))
}

/// What comes until the end of a stream, however that ends.
async fn all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer with a content-length, from a connection that stays.
async fn one(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let byte = soon(stream.read_u8()).await;
        bytes.push(byte.expect("the connection stays"));
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(bytes).expect("a header");
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a number"));
    let mut body = vec![0; length];
    soon(stream.read_exact(&mut body)).await.expect("a body");
    head + &String::from_utf8_lossy(&body)
}

/// What has to come some time: a test that waits in vain fails.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("it comes within a minute")
}

/// Waits until something holds.
async fn until(holds: impl Fn() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn post_of(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[track_caller]
fn assert_answer(answer: &str, status: u16, contains: &str) {
    let start = format!("HTTP/1.1 {status} ");
    assert!(
        answer.starts_with(&start) && answer.contains(contains),
        "{status} and {contains:?} in: {answer}"
    );
}

/// Text that a subscriber writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
