//! Calls and queries, signed before they are sent.
use candid::Principal;
use ic_ed25519::PrivateKey;
use ic_transport_types::{Envelope, EnvelopeContent};
use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// How long a request is good for.
const EXPIRY: Duration = Duration::from_secs(240);

/// Somebody who signs.
#[derive(Debug)]
struct Caller {
    key: PrivateKey,
    public_key: Vec<u8>,
    principal: Principal,
}

/// Those who sign, in turn: a replica lets one sender have a part of the room only.
#[derive(Debug)]
pub struct Callers {
    callers: Vec<Caller>,
    expiry_ns: u64,
    /// In each nonce, so that two runs do not make the same calls.
    series: u64,
}

impl Callers {
    /// So many, whose keys are functions of their number. What they sign is good for four minutes from now.
    #[must_use]
    pub fn new(count: u8) -> Self {
        let callers = (0..count).map(|number| {
            let key = PrivateKey::deserialize_raw_32(&[number + 1; 32]);
            let public_key = key.public_key().serialize_rfc8410_der();
            Caller {
                principal: Principal::self_authenticating(&public_key),
                key,
                public_key,
            }
        });
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            callers: callers.collect(),
            expiry_ns: ns(now + EXPIRY),
            series: ns(now),
        }
    }

    /// The envelope of call `number`.
    #[must_use]
    pub fn call(&self, number: u64, canister: Principal, method: &str, argument: &[u8]) -> Vec<u8> {
        let caller = self.caller(number);
        let nonce = [self.series.to_be_bytes(), number.to_be_bytes()].concat();
        caller.sign(EnvelopeContent::Call {
            nonce: Some(nonce),
            ingress_expiry: self.expiry_ns,
            sender: caller.principal,
            canister_id: canister,
            method_name: method.to_owned(),
            arg: argument.to_vec(),
            sender_info: None,
        })
    }

    /// The envelope of a query, signed or anonymous.
    #[must_use]
    pub fn query(
        &self,
        number: u64,
        canister: Principal,
        method: &str,
        argument: &[u8],
        signed: bool,
    ) -> Vec<u8> {
        let caller = self.caller(number);
        let content = EnvelopeContent::Query {
            ingress_expiry: self.expiry_ns,
            sender: if signed {
                caller.principal
            } else {
                Principal::anonymous()
            },
            canister_id: canister,
            method_name: method.to_owned(),
            arg: argument.to_vec(),
            nonce: None,
            sender_info: None,
        };
        if signed {
            caller.sign(content)
        } else {
            encode(content, None)
        }
    }

    fn caller(&self, number: u64) -> &Caller {
        let count = self.callers.len() as u64;
        &self.callers[(number % count) as usize]
    }
}

impl Caller {
    fn sign(&self, content: EnvelopeContent) -> Vec<u8> {
        let message = content.to_request_id().signable();
        let signature = self.key.sign_message(&message);
        encode(content, Some((&self.public_key, &signature)))
    }
}

fn encode(content: EnvelopeContent, signed: Option<(&[u8], &[u8])>) -> Vec<u8> {
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: signed.map(|(key, _)| key.to_vec()),
        sender_sig: signed.map(|(_, signature)| signature.to_vec()),
        sender_delegation: None,
    }
    .encode_bytes()
}
