//! Clients that take their time lose their connections.
use super::*;
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
    let _ = stream.read_to_end(&mut bytes).await;
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
    let site = Site::new(Settings {
        body_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    let start = "POST /length HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n";
    let answer = rest(trickle(&site, start).await).await;
    assert_answer(&answer, 408, "the request's body did not come within");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert_eq!(site.refused("slow_body"), 1);
}

#[tokio::test]
async fn an_answer_that_is_not_read() {
    let site = Site::new(Settings {
        idle_timeout: SOON,
        linger_timeout: SOON,
        ..settings()
    })
    .await;
    let mut stream = site.connect().await;
    let request = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.expect("it is taken");
    while site.refused("slow_connection") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = all(&mut stream).await;
    assert!(answer.len() < 8 * 1024 * 1024, "it was cut off");
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
