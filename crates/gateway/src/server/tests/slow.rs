//! Clients that take their time lose their connections.
use super::*;
use axum::body::{Body, to_bytes};
use tokio::net::tcp::OwnedReadHalf;

/// Sends `start` and then a byte every few milliseconds, for as long as anybody takes them.
async fn trickle(site: &Site, start: &str) -> OwnedReadHalf {
    let mut stream = site.connect().await;
    stream
        .write_all(start.as_bytes())
        .await
        .expect("it is taken");
    let (read, mut write) = stream.into_split();
    tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    read
}

async fn rest(mut stream: OwnedReadHalf) -> String {
    let mut bytes = Vec::new();
    let _ = soon(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_slow_header() {
    let site = Site::new(Settings {
        header_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    for start in ["GET /na", "GET /named/a HTTP/1.1\r\nhost: x\r\nlong: "] {
        assert_eq!(rest(trickle(&site, start).await).await, "");
    }
    assert_eq!(site.refused("slow_connection"), 2);
    // And one that says nothing, or only how it is going to speak.
    assert_eq!(all(&mut site.connect().await).await, "");
    assert_eq!(site.exchange("PRI * HTTP/2.0\r\n").await, "");
}

#[tokio::test]
async fn a_slow_header_after_a_request() {
    let site = Site::new(Settings {
        idle_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    let start = "GET /named/a HTTP/1.1\r\nhost: x\r\n\r\nGET /na";
    let answers = rest(trickle(&site, start).await).await;
    assert_eq!(answers.matches("HTTP/1.1").count(), 1, "{answers}");
    assert_answer(&answers, 200, "named");
    // A connection without another request is closed as well.
    let answer = site
        .exchange("GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    assert_answer(&answer, 200, "named");
}

#[tokio::test]
async fn a_slow_body() {
    for settings in [
        Settings {
            body_timeout: SOON,
            linger_timeout: SOON,
            ..settings()
        },
        // As slow as that all in all it would do, but not for long.
        Settings {
            body_part_timeout: SOON,
            linger_timeout: SOON,
            ..settings()
        },
    ] {
        let site = Site::new(settings).await;
        let start = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
        let answer = rest(trickle(&site, start).await).await;
        assert_answer(&answer, 408, "the request's body comes too slowly");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(site.refused("slow_body"), 1);
    }
}

#[tokio::test]
async fn a_body_that_takes_many_parts() {
    let site = Site::new(Settings {
        body_part_timeout: Duration::from_millis(1),
        // So that every part is in time.
        body_part_bytes: 0,
        ..settings()
    })
    .await;
    let mut stream = site.connect().await;
    let start =
        "POST /length HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 8\r\n\r\n";
    stream
        .write_all(start.as_bytes())
        .await
        .expect("it is taken");
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        stream.write_all(b"x").await.expect("it is taken");
    }
    assert_answer(&all(&mut stream).await, 200, "8\n");
}

#[tokio::test]
async fn an_answer_that_is_not_read() {
    let site = Site::new(Settings {
        request_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    let mut stream = site.connect().await;
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.expect("it is taken");
    until(|| site.refused("slow_connection") == 1).await;
    let answer = all(&mut stream).await;
    assert!(answer.len() < 8 * 1024 * 1024, "it was cut off");
}

#[tokio::test]
async fn an_answer_whose_stream_is_not_read_beside_one_that_is() {
    let site = Site::new(Settings {
        request_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    let (mut sender, ended) = http2::narrow(site.connect().await, 1).await;
    let unread = sender.send_request(http2::get("/large")).await;
    // Somebody who is busy all the time keeps no other's answer.
    tokio::spawn(async move {
        while let Ok(answer) = sender.send_request(http2::get("/named/a")).await {
            let _ = to_bytes(Body::new(answer.into_body()), usize::MAX).await;
        }
    });
    soon(ended).await.expect("the server ends it");
    assert_eq!(site.refused("slow_connection"), 1);
    drop(unread);
}

#[tokio::test]
async fn answers_that_are_not_read_have_a_largest_length_together() {
    let site = Site::new(Settings {
        limit_loopback: false,
        answers_bytes_max: 10 * 1024 * 1024,
        ..settings()
    })
    .await;
    let (mut sender, ended) = http2::narrow(site.connect().await, 1).await;
    let unread = sender.send_request(http2::get("/large")).await;
    assert_eq!(unread.as_ref().expect("an answer").status(), 200);
    let answer = site.get("/large").await;
    let reason = "too many bytes of answers are not read yet";
    assert_answer(&answer, 503, reason);
    assert_eq!(site.refused("answers_full"), 1);
    drop((unread, sender));
    soon(ended).await.expect("it ends");
    until(|| site.gateway.answers.taken() == 0).await;
    assert_answer(&site.get("/large").await, 200, "");
}

#[tokio::test]
async fn answers_to_one_address_have_a_largest_length() {
    let site = Site::new(Settings {
        answers_bytes_max: 8 * 1024 * 1024,
        ..settings()
    })
    .await;
    let reason = "too many bytes of answers to your address";
    assert_answer(&site.get("/large").await, 429, reason);
    assert_eq!(site.refused("address_answers"), 1);
    assert_answer(&site.get("/named/a").await, 200, "named");
}

#[tokio::test]
async fn a_request_that_never_ends() {
    let site = Site::new(Settings {
        request_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    assert_eq!(site.get("/hold").await, "");
    assert_eq!(site.refused("slow_connection"), 1);
}
