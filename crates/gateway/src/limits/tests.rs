use super::*;
use crate::settings::Settings;
use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};
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
    let around = |text| source(text).and_then(|source| source.around);
    assert_eq!(around("2001:db8::1"), around("2001:db8:0:1::1"));
    assert_ne!(around("2001:db8::1"), around("2001:db8:1::1"));
    assert_eq!(around("192.0.2.1"), None);
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
fn networks_of_one_client_have_four_times_the_rate() {
    let rates = Rates::new(&Settings {
        requests_per_second: number(10),
        requests_burst: number(2),
        ..Settings::default()
    });
    let now = Instant::now();
    let of = |network: u16| source(&format!("2001:db8:0:{network:x}::1")).expect("not loopback");
    for network in 0..4 {
        for _ in 0..2 {
            assert_eq!(rates.take(of(network), now), Ok(()));
        }
    }
    let wait = Duration::from_millis(25);
    assert_eq!(rates.take(of(4), now), Err(wait));
    // It was refused for its neighbours, and costs it nothing itself.
    for _ in 0..2 {
        assert_eq!(rates.take(of(4), now + 2 * wait), Ok(()));
    }
    let elsewhere = source("2001:db8:1::1").expect("not loopback");
    assert_eq!(rates.take(elsewhere, now), Ok(()));
}

#[test]
fn shares_are_counted_in_all_and_by_address() {
    let shares = Shares::new(4, 2);
    let one = Some(numbered(1));
    let first = shares.take(one, 1).expect("there is room");
    let mut second = shares.take(one, 1).expect("there is room");
    let refused = shares.take(one, 1).map(drop);
    assert_eq!(refused, Err(Full::OfOne));
    assert_eq!(second.grow(1), Err(Full::OfOne));
    drop(first);
    second.grow(1).expect("there is room again");
    let _without = shares.take(None, 2).expect("it has no bound of its own");
    let refused = shares.take(Some(numbered(2)), 1).map(drop);
    assert_eq!(refused, Err(Full::All));
    assert_eq!(shares.take(None, usize::MAX).map(drop), Err(Full::All));
    assert_eq!((shares.networks(), shares.taken()), (1, 4));
    drop(second);
    assert_eq!((shares.networks(), shares.taken()), (0, 2));
}

#[test]
fn networks_of_one_client_have_four_times_the_share() {
    let of = |network: u16| source(&format!("2001:db8:0:{network:x}::1"));
    let shares = Shares::new(100, 2);
    let mut taken: Vec<_> = (0..4).map(|network| shares.take(of(network), 2)).collect();
    assert!(taken.iter().all(Result::is_ok));
    assert_eq!(shares.take(of(0), 1).map(drop), Err(Full::OfOne));
    assert_eq!(shares.take(of(4), 1).map(drop), Err(Full::OfOne));
    shares.take(source("2001:db8:1::1"), 2).expect("another");
    taken.pop();
    shares.take(of(4), 2).expect("there is room again");
    // Where all that there is would be theirs otherwise they have half.
    let quarters = Shares::quarters(8);
    let _two = [0, 1].map(|network| quarters.take(of(network), 2).expect("a quarter"));
    assert_eq!(quarters.take(of(2), 1).map(drop), Err(Full::OfOne));
    assert_eq!(quarters.take(of(0), 1).map(drop), Err(Full::OfOne));
    quarters.take(Some(numbered(1)), 2).expect("another");
}

#[test]
fn addresses_without_shares_are_forgotten() {
    let shares = Shares::new(2_048, 64);
    for number in 0..=255 {
        shares.take(Some(numbered(number)), 1).expect("room");
    }
    assert_eq!((shares.networks(), shares.taken()), (0, 0));
}

#[tokio::test]
async fn so_much_computes_so_much_waits_and_the_rest_is_refused() {
    let work = Work::new(
        1,
        &Settings {
            computing_waiting_max: 1,
            // Nobody waits that long here.
            computing_wait_timeout: Duration::from_secs(3_600),
            ..Settings::default()
        },
    );
    let (release, held) = mpsc::channel::<()>();
    let (started, starting) = mpsc::channel();
    let first = tokio::spawn({
        let work = work.clone();
        async move {
            work.run(None, move || {
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
    let mut second = Box::pin(work.run(None, || 2));
    let pending = std::future::poll_fn(|context| {
        std::task::Poll::Ready(second.as_mut().poll(context).is_pending())
    });
    assert!(pending.await, "it waits");
    work.run(None, || 3).await.expect_err("there is no place");
    // Who gives up waiting makes room.
    drop(second);
    let mut fourth = Box::pin(work.run(None, || 4));
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
async fn those_who_wait_take_turns() {
    let settings = Settings {
        computing_waiting_max: 15,
        computing_wait_timeout: Duration::from_secs(3_600),
        ..Settings::default()
    };
    let work = Work::new(1, &settings);
    let done = Arc::new(Mutex::new(Vec::new()));
    let (release, held) = mpsc::channel::<()>();
    let (started, starting) = mpsc::channel();
    let mut tasks = vec![tokio::spawn({
        let work = work.clone();
        async move {
            let first = work.run(None, move || {
                started.send(()).expect("it is waited for");
                let _ = held.recv();
            });
            first.await.map_err(drop)
        }
    })];
    tokio::task::spawn_blocking(move || starting.recv())
        .await
        .expect("no panic")
        .expect("it starts");
    for (order, of) in [1, 1, 1, 1, 2, 3, 2].into_iter().enumerate() {
        let (work, done) = (work.clone(), Arc::clone(&done));
        let mut waiting = Box::pin(async move {
            let note = move || done.lock().expect("no panic").push((of, order));
            work.run(Some(numbered(of)), note).await.map_err(drop)
        });
        let pending = std::future::poll_fn(|context| {
            std::task::Poll::Ready(waiting.as_mut().poll(context).is_pending())
        });
        assert!(pending.await, "it waits");
        tasks.push(tokio::spawn(waiting));
    }
    // A quarter of the places is taken by one.
    let refused = work.run(Some(numbered(1)), || ()).await;
    assert!(refused.is_err(), "there is no place for that one");
    // Who has given up is passed over.
    let gives_up = tasks.remove(2);
    gives_up.abort();
    assert!(gives_up.await.is_err(), "it ended before its turn");
    drop(release);
    for task in tasks {
        task.await.expect("no panic").expect("it is done");
    }
    let done = done.lock().expect("no panic").clone();
    assert_eq!(done, [(1, 0), (2, 4), (3, 5), (2, 6), (1, 2), (1, 3)]);
}

#[tokio::test]
async fn work_does_not_wait_for_ever_and_a_panic_frees_its_place() {
    let work = Work::new(
        1,
        &Settings {
            computing_waiting_max: 1,
            computing_wait_timeout: Duration::from_millis(1),
            ..Settings::default()
        },
    );
    let (release, held) = mpsc::channel::<()>();
    let first = tokio::spawn({
        let work = work.clone();
        async move { work.run(None, move || held.recv()).await }
    });
    tokio::task::yield_now().await;
    work.run(None, || ()).await.expect_err("it waited too long");
    drop(release);
    assert!(
        first
            .await
            .expect("no panic")
            .expect("it was done")
            .is_err()
    );
    work.run(None, || panic!("as some work may"))
        .await
        .expect_err("it panicked");
    work.run(None, || ()).await.expect("the place is free");
}
