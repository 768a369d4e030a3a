//! Queries, each answered with the signature of a node.
use crate::{
    calls::Callers,
    http::{Connection, post},
    process::{Processor, Subnet},
    times::Times,
};
use anyhow::{Result, ensure};
use candid::{Encode, Principal};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinSet, time::Instant};

/// Queries that are signed before the measurement; sent again and again, as the interface allows.
const DIFFERENT: u64 = 64;

/// What is measured of queries.
#[derive(Debug, Clone, Serialize)]
pub struct Queries {
    /// Whether those who asked signed.
    pub signed: bool,
    /// Connections, with one query under way each.
    pub connections: usize,
    /// Answers a second.
    pub per_s: f64,
    /// From sending to the answer.
    pub times: Times,
    /// Processors that the subnet used.
    pub subnet_processors: f64,
    /// Processors that the load used.
    pub load_processors: f64,
}

/// Asks a counter for its value over so many connections, spread over all gateways, as fast as it answers.
///
/// # Errors
/// A query is not answered.
pub async fn run(
    subnet: &Subnet,
    counter: Principal,
    connections: usize,
    duration: Duration,
    signed: bool,
) -> Result<Queries> {
    let callers = Callers::new(32);
    let (path, argument) = (format!("/api/v3/canister/{counter}/query"), Encode!()?);
    let queries = (0..DIFFERENT)
        .map(|number| callers.query(number, counter, "get", &argument, signed))
        .map(|body| post(&path, &body));
    let queries: Arc<Vec<Vec<u8>>> = Arc::new(queries.collect());
    let (processor, own) = (subnet.processor()?, Processor::own()?);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let gateway = subnet.gateways[number % subnet.gateways.len()];
        let queries = Arc::clone(&queries);
        tasks.spawn(async move {
            let mut connection = Connection::open(gateway).await?;
            let mut times = Vec::new();
            for query in queries.iter().cycle().skip(number) {
                let sent = Instant::now();
                if sent - start > duration {
                    break;
                }
                let answer = connection.ask(query).await?;
                ensure!(answer.status == 200, "a query got {}", answer.status);
                times.push(sent.elapsed());
            }
            Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = tasks.join_next().await {
        times.extend(of_one??);
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Queries {
        signed,
        connections,
        per_s: times.len() as f64 / seconds,
        times: Times::of(times),
        subnet_processors: subnet.processor()?.since(&processor).seconds / seconds,
        load_processors: Processor::own()?.since(&own).seconds / seconds,
    })
}
