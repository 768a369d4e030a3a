//! The interface's types beyond those of ICRC-1.
use book::{Account, icrc1::TransferError};
use candid::{CandidType, Deserialize, Nat, Principal};
use ic_cdk::call::{CallFailed, RejectCode};
use serde_bytes::ByteBuf;

#[derive(CandidType, Deserialize)]
pub(crate) struct InitArgs {
    pub(crate) development_balances: Vec<(Account, u128)>,
}

#[derive(CandidType, Deserialize)]
pub(crate) struct DepositArgs {
    pub(crate) to: Account,
    /// Taken for the interface's sake: deposits are not kept.
    #[serde(rename = "memo")]
    _memo: Option<ByteBuf>,
}

#[derive(CandidType)]
pub(crate) struct DepositResult {
    pub(crate) balance: u128,
    pub(crate) block_index: u128,
}

#[derive(CandidType, Deserialize)]
pub(crate) struct WithdrawArgs {
    pub(crate) amount: Nat,
    pub(crate) from_subaccount: Option<ByteBuf>,
    pub(crate) to: Principal,
    pub(crate) created_at_time: Option<u64>,
}

#[derive(CandidType, Deserialize)]
pub(crate) enum RejectionCode {
    NoError,
    CanisterError,
    SysTransient,
    DestinationInvalid,
    Unknown,
    SysFatal,
    CanisterReject,
}

#[derive(CandidType)]
pub(crate) enum WithdrawError {
    GenericError {
        error_code: u128,
        message: String,
    },
    TemporarilyUnavailable,
    FailedToWithdraw {
        fee_block: Option<u128>,
        rejection_code: RejectionCode,
        rejection_reason: String,
    },
    Duplicate {
        duplicate_of: u128,
    },
    BadFee {
        expected_fee: u128,
    },
    InvalidReceiver {
        receiver: Principal,
    },
    CreatedInFuture {
        ledger_time: u64,
    },
    TooOld,
    InsufficientFunds {
        balance: u128,
    },
}

#[derive(CandidType, Deserialize, Clone, Default)]
pub(crate) struct CanisterSettings {
    pub(crate) controllers: Option<Vec<Principal>>,
    compute_allocation: Option<Nat>,
    memory_allocation: Option<Nat>,
    freezing_threshold: Option<Nat>,
    reserved_cycles_limit: Option<Nat>,
}

#[derive(CandidType, Deserialize)]
pub(crate) enum SubnetSelection {
    Subnet { subnet: Principal },
    Filter { subnet_type: Option<String> },
}

#[derive(CandidType, Deserialize, Default)]
pub(crate) struct CreationArgs {
    pub(crate) settings: Option<CanisterSettings>,
    pub(crate) subnet_selection: Option<SubnetSelection>,
}

#[derive(CandidType, Deserialize)]
pub(crate) struct CreateCanisterArgs {
    pub(crate) from_subaccount: Option<ByteBuf>,
    pub(crate) created_at_time: Option<u64>,
    pub(crate) amount: Nat,
    pub(crate) creation_args: Option<CreationArgs>,
}

#[derive(CandidType)]
pub(crate) struct Created {
    pub(crate) block_id: u128,
    pub(crate) canister_id: Principal,
}

#[derive(CandidType)]
pub(crate) enum CreateCanisterError {
    InsufficientFunds {
        balance: u128,
    },
    TooOld,
    CreatedInFuture {
        ledger_time: u64,
    },
    TemporarilyUnavailable,
    Duplicate {
        duplicate_of: u128,
        canister_id: Option<Principal>,
    },
    FailedToCreate {
        fee_block: Option<u128>,
        refund_block: Option<u128>,
        error: String,
    },
    GenericError {
        error_code: u128,
        message: String,
    },
}

/// Why a call of this ledger failed.
pub(crate) struct Rejection {
    pub(crate) code: RejectionCode,
    pub(crate) reason: String,
}

impl From<CallFailed> for Rejection {
    fn from(failed: CallFailed) -> Self {
        let (code, reason) = match &failed {
            // Nothing was sent.
            CallFailed::InsufficientLiquidCycleBalance(_) | CallFailed::CallPerformFailed(_) => {
                (RejectionCode::SysTransient, failed.to_string())
            }
            CallFailed::CallRejected(rejected) => {
                let code = match rejected.reject_code() {
                    Ok(RejectCode::SysFatal) => RejectionCode::SysFatal,
                    Ok(RejectCode::SysTransient) => RejectionCode::SysTransient,
                    Ok(RejectCode::DestinationInvalid) => RejectionCode::DestinationInvalid,
                    Ok(RejectCode::CanisterReject) => RejectionCode::CanisterReject,
                    Ok(RejectCode::CanisterError) => RejectionCode::CanisterError,
                    _ => RejectionCode::Unknown,
                };
                (code, rejected.reject_message().to_owned())
            }
        };
        Self { code, reason }
    }
}

impl From<TransferError> for WithdrawError {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::BadFee { expected_fee } => Self::BadFee { expected_fee },
            TransferError::InsufficientFunds { balance } => Self::InsufficientFunds { balance },
            TransferError::TooOld => Self::TooOld,
            TransferError::CreatedInFuture { ledger_time } => Self::CreatedInFuture { ledger_time },
            TransferError::Duplicate { duplicate_of } => Self::Duplicate { duplicate_of },
            TransferError::TemporarilyUnavailable => Self::TemporarilyUnavailable,
            TransferError::GenericError {
                error_code,
                message,
            } => Self::GenericError {
                error_code,
                message,
            },
            TransferError::BadBurn { .. } => unreachable!("withdrawals have no least amount"),
        }
    }
}

impl From<WithdrawError> for CreateCanisterError {
    fn from(error: WithdrawError) -> Self {
        match error {
            WithdrawError::InsufficientFunds { balance } => Self::InsufficientFunds { balance },
            WithdrawError::TooOld => Self::TooOld,
            WithdrawError::CreatedInFuture { ledger_time } => Self::CreatedInFuture { ledger_time },
            WithdrawError::Duplicate { duplicate_of } => Self::Duplicate {
                duplicate_of,
                canister_id: None,
            },
            WithdrawError::TemporarilyUnavailable => Self::TemporarilyUnavailable,
            WithdrawError::GenericError {
                error_code,
                message,
            } => Self::GenericError {
                error_code,
                message,
            },
            WithdrawError::BadFee { .. }
            | WithdrawError::FailedToWithdraw { .. }
            | WithdrawError::InvalidReceiver { .. } => {
                unreachable!("creations name neither fee nor receiver")
            }
        }
    }
}
