//! The canister that is called: `canisters/counter`, whose value says how many calls were executed.
use crate::process::{Subnet, until};
use anyhow::{Context as _, Result};
use candid::{Decode, Encode, Nat, Principal};
use ic_agent::{Agent, identity::BasicIdentity};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use std::{net::SocketAddr, time::Duration};

/// An id in the subnet's range, for a call that makes a canister.
const EFFECTIVE_ID: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
/// How long the value may take to be what is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that verifies everything, of the caller with this number.
///
/// # Errors
/// It cannot be made.
pub fn agent(gateway: SocketAddr, root_key: &[u8], caller: u8) -> Result<Agent> {
    let agent = Agent::builder()
        .with_url(format!("http://{gateway}"))
        .with_identity(BasicIdentity::from_raw_key(&[caller + 1; 32]))
        .with_verify_query_signatures(true)
        .build()?;
    agent.set_root_key(root_key.to_vec());
    Ok(agent)
}

/// The argument of `install_code` for a counter at 0.
#[must_use]
pub fn installation(id: Principal, wasm: &[u8]) -> Vec<u8> {
    let install = InstallCodeArgs {
        mode: CanisterInstallMode::Install,
        canister_id: id,
        wasm_module: wasm.to_vec(),
        arg: Encode!(&Nat::from(0_u8)).expect("a number is Candid"),
        sender_canister_version: None,
    };
    Encode!(&install).expect("the type has a Candid form")
}

/// Makes a canister of `wasm`, which need not be a counter: others take no argument.
///
/// # Errors
/// The subnet refuses.
pub async fn install(agent: &Agent, wasm: &[u8]) -> Result<Principal> {
    let management = Principal::management_canister();
    let reply = agent
        .update(&management, "provisional_create_canister_with_cycles")
        .with_effective_canister_id(Principal::from_slice(&EFFECTIVE_ID))
        .with_arg(Encode!(&ProvisionalCreateCanisterWithCyclesArgs::default())?)
        .call_and_wait()
        .await
        .context("making a canister")?;
    let id = Decode!(&reply, CanisterIdRecord)?.canister_id;
    agent
        .update(&management, "install_code")
        .with_effective_canister_id(id)
        .with_arg(installation(id, wasm))
        .call_and_wait()
        .await
        .context("installing a canister")?;
    Ok(id)
}

/// An installed counter.
#[derive(Debug, Clone)]
pub struct Counter {
    /// Its id.
    pub id: Principal,
    agent: Agent,
}

impl Counter {
    /// Installs `wasm`, and waits until every replica has it.
    ///
    /// # Errors
    /// The subnet refuses.
    pub async fn install(subnet: &Subnet, wasm: &[u8]) -> Result<Self> {
        let agent = |gateway| agent(gateway, &subnet.root_key, 0);
        let first = agent(subnet.gateways[0])?;
        let counter = Self {
            id: install(&first, wasm).await?,
            agent: first,
        };
        for gateway in &subnet.gateways {
            let there = Self {
                agent: agent(*gateway)?,
                ..counter.clone()
            };
            let answers = async || there.value().await.ok();
            until("a replica has the counter", answers).await?;
        }
        Ok(counter)
    }

    /// The argument of `increase` by one.
    #[must_use]
    pub fn one() -> Vec<u8> {
        Encode!(&Nat::from(1_u8)).expect("a number is Candid")
    }

    /// The value, from a query whose signature is verified.
    ///
    /// # Errors
    /// It is not answered.
    pub async fn value(&self) -> Result<u64> {
        let reply = self
            .agent
            .query(&self.id, "get")
            .with_arg(Encode!()?)
            .call()
            .await?;
        Ok(Decode!(&reply, Nat)?.0.try_into()?)
    }

    /// The value as soon as it is `expected` or more; the last one if it never is.
    ///
    /// # Errors
    /// It is not answered.
    pub async fn value_from(&self, expected: u64) -> Result<u64> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.value().await?;
            if value >= expected || tokio::time::Instant::now() > end {
                return Ok(value);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Verifies a certificate as the public agent does.
    ///
    /// # Errors
    /// It does not hold.
    pub fn verify(&self, certificate: &[u8]) -> Result<()> {
        let certificate = serde_cbor::from_slice(certificate)?;
        Ok(self.agent.verify(&certificate, self.id)?)
    }
}
