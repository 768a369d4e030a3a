//! Messages under way between users, canisters and the management canister.
use crate::ingress::Ingress;
use bytes::Bytes;
use ic_principal::Principal;
use lockstep_canister::engine::{CallerInfo, Cycles, Rejection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A message that waits for execution.
#[derive(Debug, Clone)]
pub enum Message {
    /// A user's call.
    Ingress(Ingress),
    /// A canister's call.
    Request(Request),
    /// The answer to a canister's call.
    Response(Response),
}

/// A canister's call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Who calls.
    pub sender: Principal,
    /// The sender's name of the call.
    pub callback: u64,
    /// Who is called.
    pub receiver: Principal,
    /// The method.
    pub method: String,
    /// Its argument.
    #[serde(with = "serde_bytes")]
    pub argument: Vec<u8>,
    /// Cycles that come with it.
    pub cycles: Cycles,
    /// When the sender stops waiting, nanoseconds since 1970; 0: never.
    pub deadline_ns: u64,
}

/// The answer to a canister's call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Who called.
    pub receiver: Principal,
    /// Their name of the call.
    pub callback: u64,
    /// The reply or the rejection.
    pub result: CallResult,
    /// Cycles of the call that were not accepted.
    pub refund: Cycles,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallResult {
    /// Replied.
    Reply(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Rejected.
    Reject(Rejection),
}

impl CallResult {
    /// Bytes that its transmission is charged for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Reply(reply) => reply.len() as u64,
            Self::Reject(rejection) => rejection.message.len() as u64,
        }
    }
}

impl Message {
    /// Whose turn it is.
    #[must_use]
    pub fn receiver(&self) -> &Principal {
        match self {
            Self::Ingress(call) => &call.canister,
            Self::Request(request) => &request.receiver,
            Self::Response(response) => &response.receiver,
        }
    }

    /// Bytes that it takes while it waits: of its method's name and argument, or of the answer.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Ingress(call) => call.bytes.len() as u64,
            Self::Request(request) => (request.method.len() + request.argument.len()) as u64,
            Self::Response(response) => response.result.bytes(),
        }
    }

    /// The user's call, if it is one.
    #[must_use]
    pub fn ingress(&self) -> Option<&Ingress> {
        match self {
            Self::Ingress(call) => Some(call),
            _ => None,
        }
    }
}

/// What is written of a message: of a user's call, its envelope.
#[derive(Serialize, Deserialize)]
enum Written {
    Ingress(#[serde(with = "serde_bytes")] Vec<u8>),
    Request(Request),
    Response(Response),
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let written = match self {
            Self::Ingress(call) => Written::Ingress(call.bytes.to_vec()),
            Self::Request(request) => Written::Request(request.clone()),
            Self::Response(response) => Written::Response(response.clone()),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Written::deserialize(deserializer)? {
            Written::Ingress(bytes) => Self::Ingress(
                Ingress::decode(&Bytes::from(bytes)).map_err(serde::de::Error::custom)?,
            ),
            Written::Request(request) => Self::Request(request),
            Written::Response(response) => Self::Response(response),
        })
    }
}

/// Who is owed an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A user.
    User {
        /// The call's id.
        id: [u8; 32],
        /// Who sent it.
        sender: Principal,
        /// What canisters are told of them.
        info: Option<CallerInfo>,
    },
    /// A canister.
    Canister {
        /// Which one.
        sender: Principal,
        /// Its name of the call.
        callback: u64,
        /// When it stops waiting, nanoseconds since 1970; 0: never.
        deadline_ns: u64,
    },
    /// Nobody: a timer, a heartbeat or the like.
    System,
}

impl Origin {
    /// The caller that messages of the call context see.
    #[must_use]
    pub fn caller(&self) -> Principal {
        match self {
            Self::User { sender, .. } | Self::Canister { sender, .. } => *sender,
            Self::System => Principal::management_canister(),
        }
    }

    /// What messages of the call context are told of the caller.
    #[must_use]
    pub fn caller_info(&self) -> Option<CallerInfo> {
        match self {
            Self::User { info, .. } => info.clone(),
            _ => None,
        }
    }

    /// When the caller stops waiting; 0: never.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        match self {
            Self::Canister { deadline_ns, .. } => *deadline_ns,
            _ => 0,
        }
    }
}
