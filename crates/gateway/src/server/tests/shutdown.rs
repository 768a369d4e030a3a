//! How a server stops.
use super::*;

async fn holding(site: &Site) -> TcpStream {
    let mut stream = site.connect().await;
    let request = b"GET /hold HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.expect("it is taken");
    site.until_under_way(1).await;
    stream
}

#[tokio::test]
async fn what_is_under_way_is_finished_and_nothing_is_begun() {
    let mut site = Site::new(settings()).await;
    let mut idle = site.connect().await;
    let request = b"GET /named/a HTTP/1.1\r\nhost: x\r\n\r\n";
    idle.write_all(request).await.expect("it is taken");
    assert_answer(&one(&mut idle).await, 200, "named");
    let mut busy = holding(&site).await;
    site.stop();
    assert_eq!(all(&mut idle).await, "", "an idle connection is closed");
    drop(idle);
    site.until_deaf().await;
    assert!(!site.server.is_finished());
    site.released.add_permits(1);
    let answer = all(&mut busy).await;
    assert_answer(&answer, 200, "held");
    drop(busy);
    soon(&mut site.server).await.expect("it ends");
}

#[tokio::test]
async fn what_takes_too_long_is_dropped() {
    let mut site = Site::new(Settings {
        drain_timeout: SOON,
        ..settings()
    })
    .await;
    let mut busy = holding(&site).await;
    site.stop();
    soon(&mut site.server).await.expect("it ends");
    assert_eq!(all(&mut busy).await, "");
}
