//! A client of the `llm` canister: what any user of the Internet Computer's agent would write.
//!
//! Verification is left on: the agent checks every certificate against the subnet's public key and
//! every query response against the nodes' keys.

use anyhow::{Context, Result, bail};
use candid::{CandidType, Decode, Encode, Principal};
use ic_agent::{Agent, Certificate, hash_tree::LookupResult};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};
use serde::Deserialize;
use std::time::Duration;

/// State of a job as the canister reports it.
#[derive(Clone, Debug, PartialEq, Eq, CandidType, Deserialize)]
pub(crate) enum Status {
    Running,
    Done,
    Failed(String),
}

/// Answer of `read`.
#[derive(Clone, Debug, CandidType, Deserialize)]
pub(crate) struct Reading {
    pub(crate) text: String,
    pub(crate) tokens: u32,
    pub(crate) status: Status,
}

/// Answer of `result`.
#[derive(Clone, Debug, CandidType, Deserialize)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: u32,
    pub(crate) digest: Vec<u8>,
}

#[derive(CandidType, Deserialize)]
enum Answered<T> {
    Ok(T),
    Err(String),
}

impl<T> Answered<T> {
    fn ok(self) -> Result<T> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Err(reason) => bail!("the canister refused: {reason}"),
        }
    }
}

/// A deployed `llm` canister.
#[derive(Debug)]
pub(crate) struct Llm {
    agent: Agent,
    pub(crate) canister: Principal,
}

#[derive(CandidType)]
struct LlmInit {
    model: String,
    max_tokens: u32,
}

/// An agent of an anonymous user that trusts the root key this network publishes.
pub(crate) async fn connect(url: &str) -> Result<Agent> {
    let agent = Agent::builder()
        .with_url(url)
        .with_verify_query_signatures(true)
        .build()
        .context("building the agent")?;
    agent
        .fetch_root_key()
        .await
        .context("fetching the root key")?;
    Ok(agent)
}

impl Llm {
    /// Creates a canister and installs `wasm` with a model.
    pub(crate) async fn install(
        agent: Agent,
        wasm: &[u8],
        model: &str,
        max_tokens: u32,
    ) -> Result<Self> {
        let management = Principal::management_canister();
        let create = Encode!(&ProvisionalCreateCanisterWithCyclesArgs::default())?;
        let reply = agent
            .update(&management, "provisional_create_canister_with_cycles")
            .with_effective_canister_id(Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]))
            .with_arg(create)
            .call_and_wait()
            .await
            .context("creating a canister")?;
        let canister = Decode!(&reply, CanisterIdRecord)?.canister_id;
        let install = InstallCodeArgs {
            mode: CanisterInstallMode::Install,
            canister_id: canister,
            wasm_module: wasm.to_vec(),
            arg: Encode!(&LlmInit {
                model: model.to_owned(),
                max_tokens
            })?,
            sender_canister_version: None,
        };
        agent
            .update(&management, "install_code")
            .with_effective_canister_id(canister)
            .with_arg(Encode!(&install)?)
            .call_and_wait()
            .await
            .context("installing the canister")?;
        Ok(Self { agent, canister })
    }

    /// Asks; returns the job's number.
    pub(crate) async fn ask(&self, prompt: &str) -> Result<u64> {
        let reply = self
            .agent
            .update(&self.canister, "ask")
            .with_arg(Encode!(&prompt)?)
            .call_and_wait()
            .await
            .context("asking")?;
        Decode!(&reply, Answered<u64>)?.ok()
    }

    /// The text so far, by query.
    pub(crate) async fn read(&self, job: u64) -> Result<Reading> {
        let reply = self
            .agent
            .query(&self.canister, "read")
            .with_arg(Encode!(&job)?)
            .call()
            .await
            .context("reading")?;
        Decode!(&reply, Answered<Reading>)?.ok()
    }

    /// Follows a job to its end; `hear` gets each new piece of text.
    pub(crate) async fn follow(&self, job: u64, mut hear: impl FnMut(&str)) -> Result<Reading> {
        let mut heard = 0;
        loop {
            let reading = self.read(job).await?;
            if let Some(piece) = reading.text.get(heard..).filter(|piece| !piece.is_empty()) {
                hear(piece);
                heard = reading.text.len();
            }
            match &reading.status {
                Status::Running => tokio::time::sleep(Duration::from_millis(100)).await,
                Status::Done => return Ok(reading),
                Status::Failed(reason) => bail!("the generation failed: {reason}"),
            }
        }
    }

    /// The final answer by an update call, with the certificate the agent has verified.
    pub(crate) async fn result(&self, job: u64) -> Result<(Answer, Certificate)> {
        let (reply, certificate) = self
            .agent
            .update(&self.canister, "result")
            .with_arg(Encode!(&job)?)
            .call()
            .and_wait()
            .await
            .context("fetching the result")?;
        Ok((Decode!(&reply, Answered<Answer>)?.ok()?, certificate))
    }

    /// The subnet's public key, DER.
    pub(crate) fn root_key(&self) -> Vec<u8> {
        self.agent.read_root_key()
    }
}

/// The time a certificate was made, nanoseconds since 1970.
pub(crate) fn certificate_time(certificate: &Certificate) -> Result<u64> {
    let LookupResult::Found(mut encoded) = certificate.tree.lookup_path([b"time"]) else {
        bail!("the certificate has no time");
    };
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((byte, rest)) = encoded.split_first() else {
            bail!("the certificate's time is cut short")
        };
        value |= u64::from(byte & 0x7f) << shift;
        encoded = rest;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("the certificate's time is too long")
}
