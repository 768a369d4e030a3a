//! The canisters that clients of the Internet Computer expect at fixed ids: the two ledgers and the minting canister.
//!
//! # Design
//! They are canisters like others, created and installed by ordinary calls of the anonymous principal when a development
//! network starts for the first time, and upgraded when a newer binary carries other code. That principal gets tokens and
//! cycles out of nothing: everybody can speak for it, so on such a network everybody has them. It also controls these
//! canisters.
//!
//! # Errors
//! A canister that cannot be installed fails the start of the network: clients would fail later, and say less.
use crate::{client, embedded};
use anyhow::{Context, Result};
use candid::{CandidType, Decode, Encode, Nat, Principal};
use ic_agent::{Agent, AgentError};
use ic_management_canister_types::{
    CanisterIdRecord, CanisterInstallMode, InstallCodeArgs, ProvisionalCreateCanisterWithCyclesArgs,
};

/// Tokens that the anonymous principal has: a billion ICP.
const DEVELOPMENT_E8S: u64 = 100_000_000_000_000_000;
/// Cycles that it has: a trillion times a trillion.
const DEVELOPMENT_CYCLES: u128 = 1_000_000_000_000_000_000_000_000;
/// Cycles that each of these canisters has for its own work.
const OWN_CYCLES: u128 = 1_000_000_000_000_000_000;
/// Of a transfer of ICP.
const ICP_FEE_E8S: u64 = 10_000;
/// What an ICP is worth, in ten-thousandths of an XDR.
const XDR_PERMYRIAD_PER_ICP: u64 = 40_000;
/// The Internet Computer's governance canister, which mints ICP there. Here nobody speaks for it.
const MINTING: Principal = Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);

/// A canister to be installed.
struct Builtin {
    name: &'static str,
    id: Principal,
    wasm: &'static [u8],
    argument: Vec<u8>,
    cycles: u128,
}

#[derive(CandidType)]
struct Account {
    owner: Principal,
    subaccount: Option<Vec<u8>>,
}

#[derive(CandidType)]
struct Tokens {
    e8s: u64,
}

#[derive(CandidType)]
struct IcpLedgerInit {
    fee: Tokens,
    minting_account: Account,
    development_balances: Vec<(Account, Tokens)>,
}

#[derive(CandidType)]
struct CyclesLedgerInit {
    development_balances: Vec<(Account, Nat)>,
}

#[derive(CandidType)]
struct CyclesMintingInit {
    development_xdr_permyriad_per_icp: u64,
}

/// An account of a principal without subaccount.
fn account(owner: Principal) -> Account {
    Account {
        owner,
        subaccount: None,
    }
}

/// The canister of the Internet Computer with an index.
fn canister(index: u64) -> Principal {
    let mut bytes = [1; 10];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    Principal::from_slice(&bytes)
}

fn all() -> Result<[Builtin; 3]> {
    let anonymous = Principal::anonymous();
    let icp = IcpLedgerInit {
        fee: Tokens { e8s: ICP_FEE_E8S },
        minting_account: account(MINTING),
        development_balances: vec![(
            account(anonymous),
            Tokens {
                e8s: DEVELOPMENT_E8S,
            },
        )],
    };
    let cycles = CyclesLedgerInit {
        development_balances: vec![(account(anonymous), DEVELOPMENT_CYCLES.into())],
    };
    let minting = CyclesMintingInit {
        development_xdr_permyriad_per_icp: XDR_PERMYRIAD_PER_ICP,
    };
    Ok([
        Builtin {
            name: "ICP ledger",
            id: canister(2),
            wasm: embedded::ICP_LEDGER_WASM,
            argument: Encode!(&icp)?,
            cycles: OWN_CYCLES,
        },
        Builtin {
            name: "cycles-minting canister",
            id: canister(4),
            wasm: embedded::CYCLES_MINTING_WASM,
            argument: Encode!(&minting)?,
            cycles: OWN_CYCLES,
        },
        Builtin {
            name: "cycles ledger",
            id: canister(0x0210_0002),
            wasm: embedded::CYCLES_LEDGER_WASM,
            argument: Encode!(&cycles)?,
            cycles: DEVELOPMENT_CYCLES + OWN_CYCLES,
        },
    ])
}

/// Installs what is missing on the network that is served at `url`.
pub(crate) async fn install(url: &str) -> Result<()> {
    let agent = client::connect(url).await?;
    let [first, second, third] = all()?;
    // Side by side: they wait for the same blocks.
    tokio::try_join!(
        first.provide(&agent),
        second.provide(&agent),
        third.provide(&agent),
    )?;
    Ok(())
}

impl Builtin {
    async fn provide(&self, agent: &Agent) -> Result<()> {
        let provided = async {
            match self.module_hash(agent).await? {
                Some(hash) if hash == sha256(self.wasm) => Ok(()),
                Some(_) => {
                    self.install_code(agent, CanisterInstallMode::Upgrade(None), &[])
                        .await
                }
                None => {
                    // One that was created by a start which ended before it had code is taken as it is.
                    if !self.exists(agent).await? {
                        self.create(agent).await?;
                    }
                    self.install_code(agent, CanisterInstallMode::Install, &self.argument)
                        .await
                }
            }
        };
        provided
            .await
            .with_context(|| format!("installing the {}", self.name))
    }

    async fn module_hash(&self, agent: &Agent) -> Result<Option<Vec<u8>>> {
        present(agent.read_state_canister_module_hash(self.id).await)
    }

    async fn exists(&self, agent: &Agent) -> Result<bool> {
        let controllers = agent.read_state_canister_controllers(self.id).await;
        Ok(present(controllers)?.is_some())
    }

    async fn create(&self, agent: &Agent) -> Result<()> {
        let arguments = ProvisionalCreateCanisterWithCyclesArgs {
            amount: Some(self.cycles.into()),
            specified_id: Some(self.id),
            ..Default::default()
        };
        let reply = self
            .manage(
                agent,
                "provisional_create_canister_with_cycles",
                Encode!(&arguments)?,
            )
            .await?;
        let created = Decode!(&reply, CanisterIdRecord)?.canister_id;
        anyhow::ensure!(created == self.id, "it got another id: {created}");
        Ok(())
    }

    async fn install_code(
        &self,
        agent: &Agent,
        mode: CanisterInstallMode,
        argument: &[u8],
    ) -> Result<()> {
        let arguments = InstallCodeArgs {
            mode,
            canister_id: self.id,
            wasm_module: self.wasm.to_vec(),
            arg: argument.to_vec(),
            sender_canister_version: None,
        };
        self.manage(agent, "install_code", Encode!(&arguments)?)
            .await?;
        Ok(())
    }

    async fn manage(&self, agent: &Agent, method: &str, argument: Vec<u8>) -> Result<Vec<u8>> {
        let reply = agent
            .update(&Principal::management_canister(), method)
            .with_effective_canister_id(self.id)
            .with_arg(argument)
            .call_and_wait()
            .await?;
        Ok(reply)
    }
}

/// What is at a path of the state; nothing, if the state shows that nothing is.
fn present<T>(read: Result<T, AgentError>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(AgentError::LookupPathAbsent(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).to_vec()
}
