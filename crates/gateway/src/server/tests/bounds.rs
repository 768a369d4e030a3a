//! Each bound, crossed by one.
use super::*;
use std::num::NonZeroU32;

const GET: &str = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";

/// Connections that have been accepted, since they are answered.
async fn accepted(site: &Site, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = site.connect().await;
        stream
            .write_all(b"GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("it is taken");
        assert_answer(&one(&mut stream).await, 200, "named");
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_later_there_is_room() {
    for (settings, reason) in [
        (
            Settings {
                connections_max: 2,
                ..settings()
            },
            "connections",
        ),
        (
            Settings {
                connections_per_address_max: 2,
                ..settings()
            },
            "address_connections",
        ),
    ] {
        let site = Site::new(settings).await;
        let mut streams = accepted(&site, 2).await;
        let answer = all(&mut site.connect().await).await;
        assert_answer(&answer, 503, "retry-after: 1\r\n");
        assert!(
            answer.ends_with("\r\n\r\ntoo many connections\n"),
            "{answer}"
        );
        assert_eq!(site.refused(reason), 1);
        streams.pop();
        site.until_served().await;
    }
}

#[tokio::test]
async fn loopback_has_no_bounds_of_its_own_unless_they_are_set() {
    let site = Site::new(Settings {
        limit_loopback: false,
        connections_per_address_max: 1,
        requests_burst: NonZeroU32::MIN,
        requests_per_second: NonZeroU32::MIN,
        ..settings()
    })
    .await;
    let _streams = accepted(&site, 3).await;
    assert_answer(&site.get("/named/a").await, 200, "named");
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits() {
    let site = Site::new(Settings {
        requests_burst: NonZeroU32::new(2).expect("two"),
        requests_per_second: NonZeroU32::MIN,
        ..settings()
    })
    .await;
    let get = "GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /named/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let refused = soon(async {
        loop {
            let answers = site.exchange(format!("{get}{get}{last}")).await;
            if let Some(at) = answers.find("HTTP/1.1 429 ") {
                break answers[at..].to_owned();
            }
        }
    })
    .await;
    assert_answer(&refused, 429, "retry-after: 1\r\n");
    assert!(
        refused.contains("too many requests from your address"),
        "{refused}"
    );
    // Pages see it too.
    assert!(
        refused.contains("access-control-allow-origin: *"),
        "{refused}"
    );
    assert!(site.refused("rate") >= 1);
    site.until_served().await;
}

#[tokio::test]
async fn overload_is_refused_and_ends() {
    let site = Site::new(Settings {
        limit_loopback: false,
        computing_max: 1,
        computing_waiting_max: 1,
        ..settings()
    })
    .await;
    let work = "GET /work HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut streams = Vec::new();
    for count in 1..=2 {
        let mut stream = site.connect().await;
        stream
            .write_all(work.as_bytes())
            .await
            .expect("it is taken");
        site.until_under_way(count).await;
        streams.push(stream);
    }
    let answer = site.get("/work").await;
    assert_answer(&answer, 503, "retry-after: 1\r\n");
    assert!(answer.contains("too many requests to work on"), "{answer}");
    assert_eq!(site.refused("overload"), 1);
    // Nothing else is concerned, queries neither.
    let query = site.gateway.queries.run(None, || 7).await;
    assert_eq!(query.expect("there is room"), 7);
    assert_answer(&site.get("/named/a").await, 200, "named");
    site.released.add_permits(3);
    for stream in &mut streams {
        assert_answer(&all(stream).await, 200, "worked");
    }
    assert_answer(&site.get("/work").await, 200, "worked");
}

#[tokio::test]
async fn bodies_have_a_largest_length_declared_or_not() {
    let site = Site::new(Settings {
        body_bytes_max: 10,
        ..settings()
    })
    .await;
    let chunked = |chunks: &[&str]| {
        let chunks = chunks
            .iter()
            .map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len()));
        let chunks: String = chunks.collect();
        format!(
            "POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"
        )
    };
    assert_answer(
        &site.exchange(post_of("/length", "0123456789")).await,
        200,
        "10\n",
    );
    assert_answer(
        &site.exchange(chunked(&["01234", "56789"])).await,
        200,
        "10\n",
    );
    // The header alone is enough.
    let declared = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 11\r\n\r\n";
    let reason = "the request's body is too large: the limit is 10 bytes\n";
    assert_answer(&site.exchange(declared).await, 413, reason);
    assert_answer(
        &site.exchange(chunked(&["01234", "56789", "0"])).await,
        413,
        reason,
    );
    // Who sends all of it before reading sees the answer.
    let long = "0".repeat(200_000);
    assert_answer(&site.exchange(post_of("/length", &long)).await, 413, reason);
    assert_answer(&site.exchange(chunked(&[&long, &long])).await, 413, reason);
    assert_eq!(site.refused("body_too_large"), 4);
}

/// What the headers of [`post_of`] take of the room for requests.
const HEADERS: usize = "hostx".len() + "connectionclose".len() + "content-length8".len() + 3 * 32;

#[tokio::test]
async fn requests_have_a_largest_length_together() {
    let site = Site::new(Settings {
        limit_loopback: false,
        bodies_bytes_max: 2 * HEADERS + 10,
        ..settings()
    })
    .await;
    let mut first = site.connect().await;
    let half =
        "POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n012345";
    first.write_all(half.as_bytes()).await.expect("it is taken");
    until(|| site.gateway.bodies.taken() == HEADERS + 6).await;
    let answer = site.exchange(post_of("/length", "01234")).await;
    assert_answer(&answer, 503, "too many bytes of requests are under way");
    assert_eq!(site.refused("bodies_full"), 1);
    assert_answer(&site.exchange(post_of("/length", "0123")).await, 200, "4\n");
    // Headers count as well.
    let long = "x".repeat(HEADERS);
    let header = format!("GET /named/a HTTP/1.1\r\nconnection: close\r\nhost: {long}\r\n\r\n");
    assert_answer(&site.exchange(header).await, 503, "too many bytes");
    first.write_all(b"67").await.expect("it is taken");
    assert_answer(&all(&mut first).await, 200, "8\n");
    until(|| site.gateway.bodies.taken() == 0).await;
}

#[tokio::test]
async fn requests_of_one_address_have_a_largest_length() {
    let site = Site::new(Settings {
        bodies_bytes_max: 4 * (HEADERS + 4),
        ..settings()
    })
    .await;
    assert_answer(&site.exchange(post_of("/length", "0123")).await, 200, "4\n");
    let answer = site.exchange(post_of("/length", "01234")).await;
    assert_answer(&answer, 429, "too many bytes of requests from your address");
    assert_eq!(site.refused("address_bodies"), 1);
}

#[tokio::test]
async fn a_request_takes_no_room_when_its_bytes_are_gone() {
    let site = Site::new(settings()).await;
    let mut stream = site.connect().await;
    let request = post_of("/forget", "0123");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is taken");
    site.until_under_way(1).await;
    until(|| site.gateway.bodies.taken() == 0).await;
    site.released.add_permits(1);
    assert_answer(&all(&mut stream).await, 200, "held");
}

#[tokio::test]
async fn headers_have_a_largest_length() {
    let site = Site::new(settings()).await;
    let with = |length: usize| {
        let value = "x".repeat(length);
        site.exchange(format!(
            "GET /named/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\nlong: {value}\r\n\r\n"
        ))
    };
    assert_answer(&with(20_000).await, 200, "named");
    assert_answer(&with(200_000).await, 431, "");
    let many: String = (0..500).map(|number| format!("h{number}: x\r\n")).collect();
    let many = format!("GET /named/a HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    assert_answer(&site.exchange(many).await, 431, "");
}

#[tokio::test]
async fn what_is_no_request_ends_the_connection() {
    let site = Site::new(settings()).await;
    for garbage in [
        "nothing\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: nothing\r\n\r\n",
    ] {
        assert_answer(&site.exchange(garbage).await, 400, "");
    }
    let broken = "POST /length HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n";
    assert_answer(&site.exchange(broken).await, 400, "");
    assert_eq!(site.refused("broken_body"), 1);
    let get = "GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n";
    // Requests before it are answered.
    let answers = site.exchange(format!("{get}{get}garbage\r\n\r\n")).await;
    let statuses: Vec<_> = answers.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 3, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 400 ").count(), 1, "{answers}");
    // A preface of HTTP/2 with anything after it.
    let answer = site
        .exchange(format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{GET}{GET}"))
        .await;
    assert!(!answer.contains("named"), "{answer}");
    assert_answer(&site.get("/named/a").await, 200, "named");
}
