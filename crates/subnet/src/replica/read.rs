//! Answers clients from the last certified state.
use super::{Certified, Replica};
use crate::{
    execution::{self, UserQuery, management},
    ingress::{IngressError, Request, RequestId, caller_info},
    state::Reject,
    tree::{
        paths::{PathError, Scope, check},
        state::self_described_cbor,
    },
};
use ic_certification::Certificate;
use ic_principal::Principal;
use ic_transport_types::{
    EnvelopeContent, NodeSignature, QueryResponse, RejectCode, RejectResponse, ReplyResponse,
};

/// Why a read was not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It breaks a rule of the interface.
    #[error("the request is not valid")]
    Invalid(#[from] IngressError),
    /// It asks for what it may not see.
    #[error("the paths cannot be read")]
    Path(#[from] PathError),
    /// It was sent to the address of another canister or subnet.
    #[error("the request is for {target}, which the address does not name")]
    OtherAddress {
        /// Whom it is for.
        target: Principal,
    },
    /// Nothing has been certified since the replica started.
    #[error("this replica has no certified state yet; try again soon")]
    NotReady,
    /// The replica has halted: what it has may not be what the subnet has.
    #[error("this replica has halted")]
    Halted,
}

impl Certified {
    /// The certificate, in CBOR, that shows the time and `paths`.
    #[must_use]
    pub fn certificate(&self, paths: &[Vec<Vec<u8>>]) -> Vec<u8> {
        let time = [b"time".to_vec()];
        let mut paths: Vec<&[Vec<u8>]> = paths.iter().map(Vec::as_slice).collect();
        paths.push(&time);
        let tree = self.executed.tree.witness(&paths);
        self_described_cbor(&Certificate {
            tree,
            signature: self.signature.to_vec(),
            delegation: None,
        })
    }

    /// The certificate that shows what became of a call.
    #[must_use]
    pub fn call_certificate(&self, id: &RequestId) -> Vec<u8> {
        self.certificate(&[vec![b"request_status".to_vec(), id.to_vec()]])
    }
}

impl Replica {
    /// Answers a `read_state` request: the certificate in CBOR.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with the request.
    pub fn read_state(&self, address: Scope, envelope: &[u8]) -> Result<Vec<u8>, ReadError> {
        let request = Request::decode(envelope)?;
        let authority = request.authenticate(&self.genesis.root_key, self.clock.now_ns())?;
        let EnvelopeContent::ReadState { sender, paths, .. } = request.content() else {
            return Err(request.wrong_type("read_state").into());
        };
        self.check_subnet(address)?;
        let certified = self.readable()?;
        let paths: Vec<Vec<Vec<u8>>> = paths
            .iter()
            .map(|path| path.iter().map(|label| label.as_bytes().to_vec()).collect())
            .collect();
        let state = &certified.executed.state;
        check(state, sender, &authority, address, &paths)?;
        Ok(certified.certificate(&paths))
    }

    /// Answers a query: the signed response in CBOR.
    ///
    /// # Errors
    /// [`ReadError`] says what is wrong with the request; what goes wrong in the canister is a
    /// response.
    pub fn query(&self, address: Scope, envelope: &[u8]) -> Result<Vec<u8>, ReadError> {
        let request = Request::decode(envelope)?;
        request.authenticate(&self.genesis.root_key, self.clock.now_ns())?;
        let EnvelopeContent::Query {
            sender,
            canister_id,
            method_name,
            arg,
            sender_info,
            ..
        } = request.content()
        else {
            return Err(request.wrong_type("query").into());
        };
        self.check_subnet(address)?;
        let certified = self.readable()?;
        let result = if *canister_id == Principal::management_canister() {
            let target = management::query_target(method_name, arg);
            if let Ok(Some(target)) = target
                && address != Scope::Canister(target)
            {
                return Err(ReadError::OtherAddress { target });
            }
            target.and_then(|_| {
                management::query(&certified.executed.state, sender, method_name, arg)
            })
        } else {
            if address != Scope::Canister(*canister_id) {
                return Err(ReadError::OtherAddress {
                    target: *canister_id,
                });
            }
            let asked = UserQuery {
                canister: canister_id,
                sender,
                sender_info: sender_info.clone().and_then(caller_info),
                method: method_name,
                argument: arg,
                certificate: None,
            };
            self.run_query(&certified, asked)
        };
        self.counters.add_query();
        Ok(self.sign(result, request.id(), certified.executed.state.time_ns))
    }

    /// Waits until a certified state holds the answer to a call, and returns that state: it makes the certificate
    /// ([`Certified::call_certificate`]), which takes time.
    pub async fn answered(&self, id: RequestId) -> Certified {
        let mut height = self.certified_height().saturating_sub(1);
        loop {
            let certified = self.certified_after(height).await;
            if certified
                .executed
                .state
                .history
                .get(&id)
                .is_some_and(|answer| answer.is_final())
            {
                return certified;
            }
            height = certified.height();
        }
    }

    /// The state that clients are answered from.
    fn readable(&self) -> Result<Certified, ReadError> {
        if self.is_out_of_step() {
            return Err(ReadError::Halted);
        }
        self.certified().ok_or(ReadError::NotReady)
    }

    fn check_subnet(&self, address: Scope) -> Result<(), ReadError> {
        match address {
            Scope::Subnet(target) if target != self.genesis.subnet_id => {
                Err(ReadError::OtherAddress { target })
            }
            _ => Ok(()),
        }
    }

    fn run_query(&self, certified: &Certified, asked: UserQuery<'_>) -> Result<Vec<u8>, Reject> {
        let state = &certified.executed.state;
        let data = [
            b"canister".to_vec(),
            asked.canister.as_slice().to_vec(),
            b"certified_data".to_vec(),
        ];
        let certificate = certified.certificate(&[data.to_vec()]);
        let asked = UserQuery {
            certificate: Some(&certificate),
            ..asked
        };
        execution::query(state, &self.engine, asked).0
    }

    fn sign(&self, result: Result<Vec<u8>, Reject>, id: RequestId, timestamp: u64) -> Vec<u8> {
        let mut response = match result {
            Ok(arg) => QueryResponse::Replied {
                reply: ReplyResponse { arg },
                signatures: Vec::new(),
            },
            Err(reject) => QueryResponse::Rejected {
                reject: reject_response(&reject),
                signatures: Vec::new(),
            },
        };
        let signature = self
            .node_key
            .sign_message(&response.signable(id, timestamp))
            .to_vec();
        let (QueryResponse::Replied { signatures, .. }
        | QueryResponse::Rejected { signatures, .. }) = &mut response;
        signatures.push(NodeSignature {
            timestamp,
            signature,
            identity: self.node_id,
        });
        self_described_cbor(&response)
    }
}

/// A rejection as the HTTP interface writes it.
#[must_use]
pub fn reject_response(reject: &Reject) -> RejectResponse {
    RejectResponse {
        reject_code: RejectCode::try_from(u64::from(reject.reject_code()))
            .unwrap_or(RejectCode::CanisterError),
        reject_message: reject.message.clone(),
        error_code: Some(format!("IC{:04}", reject.error_code)),
    }
}
