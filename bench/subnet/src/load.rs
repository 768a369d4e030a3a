//! Calls at an offered rate, each answered with a certificate.
//!
//! # Design
//! Call `k` is due at `k` divided by the rate, whatever became of those before it: a subnet that is slow is not
//! offered less. Its time runs from when it was due. There are only so many connections, on each of which one call is
//! under way; that calls are then sent late shows in their times.
use crate::{
    calls::Callers,
    counter::Counter,
    http::{Answer, Connection, get, post},
    process::{Processor, Subnet},
    times::{Times, ms},
};
use anyhow::{Context as _, Result, ensure};
use candid::Principal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

/// Of so many certificates one is verified, after the measurement.
const VERIFIED_PART: usize = 100;
/// How long a connection pauses after it failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How many calls, how fast.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Calls a second.
    pub rate: f64,
    /// For how long they are sent.
    pub duration: Duration,
    /// Connections, spread over all gateways.
    pub connections: usize,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its certificate came with the answer.
    Certified,
    /// It was taken in; its certificate did not come in time.
    Accepted,
    /// The gateway or the replica had no room.
    Refused,
    /// The connection failed, so that nobody knows.
    Lost,
}

/// A call that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// When it was due, since the start.
    pub due: Duration,
    /// When it was answered, since the start.
    pub done: Duration,
    /// How.
    pub outcome: Outcome,
    /// The gateway it went to.
    pub gateway: usize,
}

/// All calls of an offer.
#[derive(Debug, Default)]
pub struct Load {
    /// Those that were sent.
    pub sent: Vec<Sent>,
    /// Some of the certificates.
    pub certificates: Vec<Vec<u8>>,
}

/// What an answer to a synchronous call says.
#[derive(Deserialize)]
struct CallAnswer {
    status: String,
    #[serde(default, with = "serde_bytes")]
    certificate: Vec<u8>,
}

/// What is measured of an offer.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Calls a second that were due.
    pub offered_per_s: f64,
    /// Calls that were sent.
    pub sent: usize,
    /// Calls that were taken in.
    pub accepted: usize,
    /// By how much the counter grew.
    pub executed: u64,
    /// Calls whose certificate came.
    pub certified: usize,
    /// Calls that were turned away.
    pub refused: usize,
    /// Calls whose connection failed.
    pub lost: usize,
    /// From the start to the last answer, seconds.
    pub seconds: f64,
    /// Certified calls a second of that.
    pub certified_per_s: f64,
    /// From when a call was due to its certificate.
    pub times: Times,
    /// Blocks that were executed.
    pub blocks: u64,
    /// Processors that the subnet used.
    pub subnet_processors: f64,
    /// Processors that the load used.
    pub load_processors: f64,
    /// Processor time of the subnet's threads, milliseconds per certified call.
    pub threads_ms_per_call: std::collections::BTreeMap<String, f64>,
    /// Certificates that were verified.
    pub verified: usize,
    /// What the public agent takes for one of them, milliseconds.
    pub verification_ms: f64,
}

/// Signs calls that add one each.
#[must_use]
pub fn increments(counter: Principal, count: usize) -> Vec<Vec<u8>> {
    let callers = Callers::new(32);
    let (path, argument) = (format!("/api/v4/canister/{counter}/call"), Counter::one());
    let calls = (0..count as u64)
        .map(|number| post(&path, &callers.call(number, counter, "increase", &argument)));
    calls.collect()
}

/// Sends calls as an offer says, each to its gateway.
pub async fn send(gateways: &[SocketAddr], offer: Offer, calls: Vec<Vec<u8>>) -> Load {
    let calls = Arc::new(calls);
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..offer.connections {
        let gateway = number % gateways.len();
        let sender = Sender {
            address: gateways[gateway],
            gateway,
            rate: offer.rate,
            start,
            calls: Arc::clone(&calls),
            next: Arc::clone(&next),
        };
        tasks.spawn(sender.work());
    }
    let mut all = Load::default();
    while let Some(load) = tasks.join_next().await {
        let load = load.expect("a sender does not panic");
        all.sent.extend(load.sent);
        all.certificates.extend(load.certificates);
    }
    all.sent.sort_by_key(|sent| sent.due);
    all
}

struct Sender {
    address: SocketAddr,
    gateway: usize,
    rate: f64,
    start: Instant,
    calls: Arc<Vec<Vec<u8>>>,
    next: Arc<AtomicUsize>,
}

impl Sender {
    async fn work(self) -> Load {
        let mut load = Load::default();
        let mut connection = None;
        loop {
            if connection.is_none() {
                connection = Connection::open(self.address).await.ok();
            }
            let Some(open) = &mut connection else {
                // Somebody else sends what is due, if there is anybody.
                if self.next.load(Relaxed) >= self.calls.len() {
                    return load;
                }
                sleep(PAUSE).await;
                continue;
            };
            let number = self.next.fetch_add(1, Relaxed);
            let Some(call) = self.calls.get(number) else {
                return load;
            };
            let due = Duration::from_secs_f64(number as f64 / self.rate);
            sleep_until(self.start + due).await;
            let (outcome, certificate) = match open.ask(call).await {
                Ok(answer) => read(answer),
                Err(_) => {
                    connection = None;
                    (Outcome::Lost, None)
                }
            };
            load.sent.push(Sent {
                due,
                done: self.start.elapsed(),
                outcome,
                gateway: self.gateway,
            });
            let is_looked_at = number.is_multiple_of(VERIFIED_PART);
            load.certificates
                .extend(certificate.filter(|_| is_looked_at));
        }
    }
}

fn read(answer: Answer) -> (Outcome, Option<Vec<u8>>) {
    match answer.status {
        200 => match serde_cbor::from_slice::<CallAnswer>(&answer.body) {
            Ok(body) if body.status == "replied" => (Outcome::Certified, Some(body.certificate)),
            _ => (Outcome::Refused, None),
        },
        202 => (Outcome::Accepted, None),
        _ => (Outcome::Refused, None),
    }
}

/// Offers calls to a counter, and counts what becomes of them.
///
/// # Errors
/// The subnet does not answer, counts other calls than were accepted, or gives a certificate that does not hold.
pub async fn step(subnet: &Subnet, counter: &Counter, offer: Offer) -> Result<Step> {
    let count = (offer.rate * offer.duration.as_secs_f64()) as usize;
    let calls = increments(counter.id, count);
    let before = counter.value().await?;
    let height = height(subnet.gateways[0]).await?;
    let (processor, own) = (subnet.processor()?, Processor::own()?);
    let load = send(&subnet.gateways, offer, calls).await;
    let own = Processor::own()?.since(&own);
    let processor = subnet.processor()?.since(&processor);
    let blocks = self::height(subnet.gateways[0]).await? - height;
    let with = |outcome| move |sent: &&Sent| sent.outcome == outcome;
    let number = |outcome| load.sent.iter().filter(with(outcome)).count();
    let certified = number(Outcome::Certified);
    let lost = number(Outcome::Lost);
    let accepted = certified + number(Outcome::Accepted);
    let executed = counter.value_from(before + accepted as u64).await? - before;
    ensure!(
        (accepted..=accepted + lost).contains(&usize::try_from(executed)?),
        "{accepted} calls were accepted and {lost} lost, {executed} executed"
    );
    let verification = Instant::now();
    for certificate in &load.certificates {
        counter.verify(certificate)?;
    }
    let verification = verification.elapsed();
    let end = load.sent.iter().map(|sent| sent.done).max();
    let seconds = end.context("nothing was sent")?.as_secs_f64();
    let times = load.sent.iter().filter(with(Outcome::Certified));
    let per_call = 1e3 / certified.max(1) as f64;
    let threads = processor.threads.iter();
    Ok(Step {
        offered_per_s: offer.rate,
        sent: load.sent.len(),
        accepted,
        executed,
        certified,
        refused: number(Outcome::Refused),
        lost,
        seconds,
        certified_per_s: certified as f64 / seconds,
        times: Times::of(times.map(|sent| sent.done - sent.due).collect()),
        blocks,
        subnet_processors: processor.seconds / seconds,
        load_processors: own.seconds / seconds,
        threads_ms_per_call: threads
            .map(|(name, seconds)| (name.clone(), seconds * per_call))
            .collect(),
        verified: load.certificates.len(),
        verification_ms: ms(verification) / load.certificates.len().max(1) as f64,
    })
}

/// The height that a replica has executed.
///
/// # Errors
/// It does not answer.
pub async fn height(gateway: SocketAddr) -> Result<u64> {
    let mut connection = Connection::open(gateway).await?;
    let answer = connection.ask(&get("/_/lockstep/status")).await?;
    let status: Value = serde_json::from_slice(&answer.body)?;
    status["executed_height"].as_u64().context("no height")
}
