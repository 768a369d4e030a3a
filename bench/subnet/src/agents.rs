//! What clients see that verify every certificate, one call after the other.
use crate::{
    counter::{Counter, agent},
    process::Subnet,
    times::Times,
};
use anyhow::Result;
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Lets so many agents of the public library call the counter for some time, spread over all gateways: the time from
/// signing a call to its verified answer.
///
/// # Errors
/// A call is not answered, or its certificate does not hold.
pub async fn updates(
    subnet: &Subnet,
    counter: &Counter,
    agents: u8,
    duration: Duration,
) -> Result<Times> {
    let mut tasks = JoinSet::new();
    for number in 0..agents {
        let gateway = subnet.gateways[usize::from(number) % subnet.gateways.len()];
        let agent = agent(gateway, &subnet.root_key, number)?;
        let canister = counter.id;
        tasks.spawn(async move {
            let mut times = Vec::new();
            let end = Instant::now() + duration;
            while Instant::now() < end {
                let start = Instant::now();
                let call = agent.update(&canister, "increase").with_arg(Counter::one());
                call.call_and_wait().await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::new();
    while let Some(of_one) = tasks.join_next().await {
        times.extend(of_one??);
    }
    Ok(Times::of(times))
}
