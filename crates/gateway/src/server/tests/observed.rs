//! What operators see: metrics, logs, health.
use super::*;
use axum::extract::Request;
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent};
use lockstep_subnet::replica::Clock;
use std::{collections::BTreeMap, future::Future, pin::Pin};
use tower_service::Service;

/// The metrics, by name and labels. Panics at a line that is not of the format.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let text = text.strip_suffix("# EOF\n").expect("the end is marked");
    let mut values = BTreeMap::new();
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let kind = words.next().expect("a word");
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
            assert!(words.next().is_some_and(is_name), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let (bare, labels) = name.split_once('{').unwrap_or((name, "}"));
        assert!(is_name(bare) && labels.ends_with('}'), "{line}");
        let value = value.parse().expect("a number");
        assert!(
            values.insert(name.to_owned(), value).is_none(),
            "twice: {line}"
        );
    }
    values
}

/// Asks a router without a connection.
async fn ask(router: Router, path: &str) -> (u16, String) {
    let request = Request::get(path).body(axum::body::Body::empty());
    answered(router, request.expect("a request")).await
}

async fn answered(mut router: Router, request: Request) -> (u16, String) {
    let answer = router.call(request).await.expect("an answer");
    let status = answer.status().as_u16();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .expect("a body");
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn metrics_are_served_apart_and_name_no_canister() {
    let site = Site::new(settings()).await;
    certify_one(&site.gateway.replica).await;
    for _ in 0..3 {
        assert_answer(
            &site.get("/named/rrkah-fqaaa-aaaaa-aaaaq-cai").await,
            200,
            "named",
        );
    }
    assert_answer(&site.get("/absent").await, 404, "");
    assert_answer(&site.get("/metrics").await, 404, "");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let gateway = site.gateway.clone();
    let operators = tokio::spawn(async move {
        gateway
            .serve_metrics(listener, std::future::pending())
            .await;
    });
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("it is taken");
    let answer = all(&mut stream).await;
    assert_answer(
        &answer,
        200,
        "content-type: application/openmetrics-text; version=1.0.0",
    );
    operators.abort();
    let (_, text) = answer.split_once("\r\n\r\n").expect("a body");
    assert!(!text.contains("rrkah"), "{text}");
    let values = parse(text);
    for (name, value) in [
        ("lockstep_executed_height", 1.0),
        ("lockstep_certified_height", 1.0),
        ("lockstep_canisters", 0.0),
        ("lockstep_calls_waiting", 0.0),
        ("lockstep_halted", 0.0),
        ("lockstep_blocks_executed_total", 1.0),
        ("lockstep_calls_executed_total", 0.0),
        (
            "lockstep_http_requests_total{route=\"/named/{name}\",class=\"2xx\"}",
            3.0,
        ),
        (
            "lockstep_http_requests_total{route=\"other\",class=\"4xx\"}",
            2.0,
        ),
        (
            "lockstep_http_request_duration_seconds_count{route=\"/named/{name}\"}",
            3.0,
        ),
        (
            "lockstep_http_request_duration_seconds_bucket{le=\"+Inf\",route=\"other\"}",
            2.0,
        ),
        ("lockstep_http_connections_accepted_total", 6.0),
        ("lockstep_http_requests_under_way", 1.0),
    ] {
        assert_eq!(values.get(name), Some(&value), "{name} in {text}");
    }
    for name in [
        "lockstep_process_resident_memory_bytes",
        "lockstep_process_cpu_seconds_total",
        "lockstep_process_open_files",
    ] {
        let value = values.get(name).copied();
        assert_eq!(
            value.is_some_and(|value| value >= 0.0),
            cfg!(target_os = "linux"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn metrics_are_public_if_that_is_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        public_metrics: true,
        ..settings()
    };
    let gateway = Gateway::new(replica(&directory), settings);
    gateway.set_finalized(|| 7);
    let (status, text) = ask(gateway.router(), "/metrics").await;
    assert_eq!(status, 200);
    assert_eq!(parse(&text)["lockstep_finalized_height"], 7.0);
}

/// A clock that a test sets.
struct Set(Mutex<u64>);

impl Clock for Set {
    fn now_ns(&self) -> u64 {
        *self.0.lock().expect("no panic")
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_replica_is_ready_with_a_recent_certified_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = replica(&directory);
    let clock = Arc::new(Set(Mutex::new(0)));
    let gateway = Gateway {
        clock: Arc::clone(&clock) as _,
        ..Gateway::new(Arc::clone(&replica), settings())
    };
    let health = async || {
        assert_eq!(
            ask(gateway.router(), "/health").await,
            (200, "live\n".into())
        );
        let ready = ask(gateway.router(), "/ready").await;
        let (_, status) = ask(gateway.router(), "/api/v2/status").await;
        let words = [
            "healthy",
            "waiting_for_certified_state",
            "certified_state_behind",
        ];
        let word = words.into_iter().find(|word| status.contains(word));
        (ready, word.expect("one of them"))
    };
    let none = "nothing has been certified since the start\n".to_owned();
    assert_eq!(health().await, ((503, none), "waiting_for_certified_state"));
    certify_one(&replica).await;
    let time_ns = replica.executed().state.time_ns;
    let behind_max_ns = 30_000_000_000;
    for (age_ns, ready) in [(0, true), (behind_max_ns, true), (behind_max_ns + 1, false)] {
        *clock.0.lock().expect("no panic") = time_ns + age_ns;
        let expected = if ready {
            ((200, "ready\n".to_owned()), "healthy")
        } else {
            let text = "the certified state is 30 s old\n".to_owned();
            ((503, text), "certified_state_behind")
        };
        assert_eq!(health().await, expected);
    }
}

#[tokio::test]
async fn the_console_is_for_the_machine_itself_unless_that_is_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::new(replica(&directory), settings());
    let public = Gateway {
        settings: Arc::new(Settings {
            public_console: true,
            ..settings()
        }),
        ..gateway.clone()
    };
    let from = async |gateway: &Gateway, address: &str, path: &str| {
        let mut request = Request::get(path)
            .body(axum::body::Body::empty())
            .expect("a request");
        let address = address.parse().expect("an address");
        request.extensions_mut().insert(Client::of(address, false));
        answered(gateway.router(), request).await.0
    };
    for (path, found) in [
        ("/", 307),
        ("/console/", 200),
        ("/_/lockstep/canisters", 200),
        ("/_/lockstep/canisters/aaaaa-aa", 404),
    ] {
        for local in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(from(&gateway, local, path).await, found, "{path}");
        }
        for remote in ["192.0.2.1", "2001:db8::1", "0.0.0.0"] {
            assert_eq!(from(&gateway, remote, path).await, 403, "{path}");
            assert_eq!(from(&public, remote, path).await, found, "{path}");
        }
        assert_eq!(ask(gateway.router(), path).await.0, 403, "{path}");
    }
    for path in ["/_/lockstep/status", "/_/lockstep/blocks", "/health"] {
        assert_eq!(from(&gateway, "192.0.2.1", path).await, 200, "{path}");
    }
}

#[tokio::test]
async fn a_replica_that_catches_up_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = Settings {
        public_metrics: true,
        ..settings()
    };
    let gateway = Gateway::new(replica(&directory), settings).catching_up();
    certify_one(&gateway.replica).await;
    let later = ["/api/v2/status", "/", "/_/lockstep/blocks", "/absent"];
    for path in later {
        let (status, text) = ask(gateway.router(), path).await;
        assert_eq!(status, 503, "{path}");
        assert!(text.starts_with("this replica has not caught up"), "{text}");
    }
    let ready = ask(gateway.router(), "/ready").await;
    assert_eq!(ready, (503, "the replica catches up\n".into()));
    for path in ["/health", "/_/lockstep/status", "/metrics"] {
        assert_eq!(ask(gateway.router(), path).await.0, 200, "{path}");
    }
    let (_, text) = ask(gateway.router(), "/metrics").await;
    let name = "lockstep_http_refused_total{reason=\"not_ready\"}";
    assert_eq!(parse(&text)[name], later.len() as f64);
    let waiting = Gateway {
        settings: Arc::new(Settings {
            ready_wait: NEVER,
            ..Settings::clone(&gateway.settings)
        }),
        ..gateway.clone()
    };
    let waiting = tokio::spawn(async move { ask(waiting.router(), "/api/v2/status").await.0 });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    // Listeners share it.
    gateway.clone().set_ready(true);
    assert_eq!(soon(waiting).await.expect("no panic"), 200);
    assert_eq!(ask(gateway.router(), "/ready").await.0, 200);
    assert_eq!(ask(gateway.router(), "/api/v2/status").await.0, 200);
}

/// A request without a signature, as anybody may send it.
fn anonymous(content: EnvelopeContent) -> Vec<u8> {
    let content = std::borrow::Cow::Owned(content);
    Envelope {
        content,
        sender_pubkey: None,
        sender_sig: None,
        sender_delegation: None,
    }
    .encode_bytes()
}

#[tokio::test]
async fn a_replica_with_another_state_answers_nothing_and_that_is_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let replica = replica(&directory);
    let gateway = Gateway::new(Arc::clone(&replica), settings());
    certify_one(&replica).await;
    let sender = Principal::anonymous();
    let ingress_expiry = SystemClock.now_ns() + 60_000_000_000;
    let reading = anonymous(EnvelopeContent::ReadState {
        ingress_expiry,
        sender,
        paths: vec![],
    });
    let query = anonymous(EnvelopeContent::Query {
        ingress_expiry,
        sender,
        canister_id: sender,
        method_name: "read".into(),
        arg: vec![],
        nonce: None,
        sender_info: None,
    });
    let id = sender.to_text();
    let send = async |kind: &str, body: &[u8]| {
        let path = format!("/api/v3/canister/{id}/{kind}");
        let request = Request::post(path).body(body.to_vec().into());
        answered(gateway.router(), request.expect("a request"))
            .await
            .0
    };
    assert_eq!(send("read_state", &reading).await, 200);
    assert_eq!(send("query", &query).await, 200);
    // The subnet certifies what this replica does not have.
    let other = [7; 32];
    let message = [b"\x0Dic-state-root", &other[..]].concat();
    let signature = subnet_key().sign(&message).serialize();
    let block = FinalizedBlock {
        height: 2,
        digest: [0; 32],
        payload: replica.propose(replica.executed().state.time_ns).await,
    };
    replica.execute(&block);
    Application::certified(replica.as_ref(), 2, other, signature);
    assert!(replica.divergence().is_some());
    assert_eq!(send("read_state", &reading).await, 503);
    assert_eq!(send("query", &query).await, 503);
    let text = gateway.metrics.text().expect("text");
    let name = "lockstep_http_refused_total{reason=\"halted\"}";
    assert_eq!(parse(&text)[name], 2.0);
}

#[tokio::test]
async fn requests_are_logged_without_what_they_say() {
    let site = Site::new(Settings {
        body_bytes_max: 10,
        ..settings()
    })
    .await;
    let written = Written::default();
    let subscriber = tracing_subscriber::fmt().json().with_writer({
        let written = written.clone();
        move || written.clone()
    });
    let logging = tracing::subscriber::set_default(subscriber.finish());
    assert_answer(
        &site.exchange(post_of("/length", "secret")).await,
        200,
        "6\n",
    );
    let long = site.exchange(post_of("/length", "secret secret")).await;
    assert_answer(&long, 413, "x-request-id: 1\r\n");
    site.get("/named/secret?secret").await;
    drop(logging);
    let text = String::from_utf8(written.0.lock().expect("no panic").clone()).expect("text");
    assert!(!text.contains("secret"), "{text}");
    let fields = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let fields = &line["fields"];
        (
            fields["request"].as_u64(),
            fields["method"].as_str().map(str::to_owned),
            fields["route"].as_str().map(str::to_owned),
            fields["status"].as_u64(),
            fields["bytes_in"].as_u64(),
            fields["bytes_out"].as_u64(),
            fields["refused"].as_str().map(str::to_owned),
            fields["duration_us"].is_u64(),
        )
    };
    let line =
        |number, method: &str, route: &str, status, bytes_in, bytes_out, refused: Option<&str>| {
            (
                Some(number),
                Some(method.to_owned()),
                Some(route.to_owned()),
                Some(status),
                Some(bytes_in),
                Some(bytes_out),
                refused.map(str::to_owned),
                true,
            )
        };
    let expected = [
        line(0, "POST", "/length", 200, 6, 2, None),
        line(1, "POST", "/length", 413, 13, 55, Some("body_too_large")),
        line(2, "GET", "/named/{name}", 200, 0, 6, None),
    ];
    let told: Vec<_> = text
        .lines()
        .filter(|line| line.contains("answered"))
        .map(fields)
        .collect();
    assert_eq!(told, expected, "{text}");
}

#[tokio::test]
async fn pages_of_any_origin_may_send_requests() {
    let site = Site::new(settings()).await;
    let preflight = "OPTIONS /api/v3/canister/aaaaa-aa/call HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
        origin: https://example.org\r\naccess-control-request-method: POST\r\n\
        access-control-request-headers: content-type\r\n\r\n";
    let answer = site.exchange(preflight).await;
    assert_answer(&answer, 204, "access-control-allow-origin: *\r\n");
    assert!(
        answer.contains("access-control-allow-methods: GET, POST, OPTIONS\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("access-control-allow-headers: *\r\n"),
        "{answer}"
    );
    let answer = site.get("/named/a").await;
    assert_answer(&answer, 200, "access-control-allow-origin: *\r\n");
}
