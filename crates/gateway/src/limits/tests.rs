use super::*;
use crate::{answer::Reason, settings::Settings};
use std::{num::NonZeroU32, sync::mpsc, time::Duration};
use tokio::time::Instant;

fn source(text: &str) -> Option<Source> {
    Source::of(text.parse().expect("an address"), false)
}

fn numbered(number: u8) -> Source {
    source(&format!("192.0.2.{number}")).expect("not loopback")
}

fn number(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).expect("above zero")
}

#[test]
fn sources_are_networks_and_loopback_is_none() {
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(source(loopback), None);
        let address = loopback.parse().expect("an address");
        assert!(Source::of(address, true).is_some());
    }
}

#[test]
fn a_bucket_holds_the_burst_and_fills_at_the_rate() {
    let rates = Rates::new(&Settings {
        requests_per_second: number(10),
        requests_burst: number(3),
        ..Settings::default()
    });
    let start = Instant::now();
    let after = |milliseconds| start + Duration::from_millis(milliseconds);
    for _ in 0..3 {
        assert_eq!(rates.take(numbered(1), start), Ok(()));
    }
    let wait = Duration::from_millis(100);
    assert_eq!(rates.take(numbered(1), start), Err(wait));
    // What is refused costs nothing, and others are not concerned.
    assert_eq!(rates.take(numbered(1), start), Err(wait));
    assert_eq!(rates.take(numbered(2), start), Ok(()));
    let rest = Duration::from_millis(1);
    assert_eq!(rates.take(numbered(1), after(99)), Err(rest));
    assert_eq!(rates.take(numbered(1), after(100)), Ok(()));
    assert_eq!(rates.take(numbered(1), after(100)), Err(wait));
    // It never holds more than the burst.
    for _ in 0..3 {
        assert_eq!(rates.take(numbered(1), after(60_000)), Ok(()));
    }
    assert_eq!(rates.take(numbered(1), after(60_000)), Err(wait));
}

#[test]
fn so_many_addresses_are_remembered_and_those_that_ask_are_not_forgotten() {
    let rates = Rates::new(&Settings {
        requests_per_second: number(1),
        requests_burst: number(2),
        addresses_max: 20,
        ..Settings::default()
    });
    let now = Instant::now();
    for _ in 0..2 {
        assert_eq!(rates.take(numbered(0), now), Ok(()));
    }
    for other in 1..=9 {
        assert_eq!(rates.take(numbered(other), now), Ok(()));
    }
    assert!(rates.take(numbered(0), now).is_err());
    for other in 10..=19 {
        assert_eq!(rates.take(numbered(other), now), Ok(()));
        assert!(rates.known() <= 20);
    }
    assert!(rates.take(numbered(0), now).is_err());
    for other in 20..=60 {
        assert_eq!(rates.take(numbered(other), now), Ok(()));
        assert!(rates.known() <= 20);
    }
    assert_eq!(rates.take(numbered(0), now), Ok(()));
}

#[test]
fn connections_are_counted_in_all_and_by_address() {
    let connections = Connections::new(&Settings {
        connections_max: 4,
        connections_per_address_max: 2,
        ..Settings::default()
    });
    let one = Some(numbered(1));
    let first = connections.admit(one).expect("there is room");
    let _second = connections.admit(one).expect("there is room");
    let refused = connections.admit(one).map(drop);
    assert_eq!(refused, Err(Reason::AddressConnections));
    drop(first);
    let _first = connections.admit(one).expect("there is room again");
    let without: Vec<_> = (0..2).map(|_| connections.admit(None)).collect();
    assert!(without.iter().all(Result::is_ok));
    let refused = connections.admit(Some(numbered(2))).map(drop);
    assert_eq!(refused, Err(Reason::Connections));
    assert_eq!(connections.addresses(), 1);
}

#[test]
fn addresses_without_connections_are_forgotten() {
    let connections = Connections::new(&Settings::default());
    for number in 0..=255 {
        connections
            .admit(Some(numbered(number)))
            .expect("there is room");
    }
    assert_eq!(connections.addresses(), 0);
}

#[tokio::test]
async fn so_much_computes_so_much_waits_and_the_rest_is_refused() {
    let work = Work::new(&Settings {
        computing_max: 1,
        computing_waiting_max: 1,
        // Nobody waits that long here.
        computing_wait_timeout: Duration::from_secs(3_600),
        ..Settings::default()
    });
    let (release, held) = mpsc::channel::<()>();
    let (started, starting) = mpsc::channel();
    let first = tokio::spawn({
        let work = work.clone();
        async move {
            work.run(move || {
                started.send(()).expect("it is waited for");
                held.recv()
            })
            .await
        }
    });
    tokio::task::spawn_blocking(move || starting.recv())
        .await
        .expect("no panic")
        .expect("it starts");
    let mut second = Box::pin(work.run(|| 2));
    let pending = std::future::poll_fn(|context| {
        std::task::Poll::Ready(second.as_mut().poll(context).is_pending())
    });
    assert!(pending.await, "it waits");
    work.run(|| 3).await.expect_err("there is no place");
    // Who gives up waiting makes room.
    drop(second);
    let mut fourth = Box::pin(work.run(|| 4));
    let pending = std::future::poll_fn(|context| {
        std::task::Poll::Ready(fourth.as_mut().poll(context).is_pending())
    });
    assert!(pending.await, "it waits");
    release.send(()).expect("it is waited for");
    assert_eq!(fourth.await.expect("its turn has come"), 4);
    let first = first.await.expect("no panic").expect("it was done");
    first.expect("it was released");
}

#[tokio::test]
async fn work_does_not_wait_for_ever_and_a_panic_frees_its_place() {
    let work = Work::new(&Settings {
        computing_max: 1,
        computing_waiting_max: 1,
        computing_wait_timeout: Duration::from_millis(1),
        ..Settings::default()
    });
    let (release, held) = mpsc::channel::<()>();
    let first = tokio::spawn({
        let work = work.clone();
        async move { work.run(move || held.recv()).await }
    });
    tokio::task::yield_now().await;
    work.run(|| ()).await.expect_err("it waited too long");
    drop(release);
    assert!(
        first
            .await
            .expect("no panic")
            .expect("it was done")
            .is_err()
    );
    work.run(|| panic!("as some work may"))
        .await
        .expect_err("it panicked");
    work.run(|| ()).await.expect("the place is free");
}
