//! Takes in calls from clients.
use super::{Replica, lock};
use crate::{
    execution::{
        INSPECT_INSTRUCTIONS, environment,
        management::{self, ingress_target},
        no_code, running_canister,
    },
    ingress::{Ingress, IngressError, RequestId},
    mempool::NoRoom,
    state::{Reject, ReplicatedState},
    tree::paths::Scope,
};
use bytes::Bytes;
use ic_principal::Principal;
use lockstep_canister::engine::{Call, Environment};

/// Why a call was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It breaks a rule of the interface.
    #[error("the call is not valid")]
    Invalid(#[from] IngressError),
    /// It was sent to the address of another canister.
    #[error("the call is for {canister}, which the address does not name")]
    OtherAddress {
        /// The canister or the method's target.
        canister: Principal,
    },
    /// It would be refused when executed, or its canister does not accept it.
    #[error("the call is rejected")]
    Rejected(#[from] Reject),
    /// Too many calls wait.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The subnet keeps the answers of as many calls as it can.
    #[error("too many calls were made within the last minutes; try again later")]
    HistoryFull,
    /// The replica has halted.
    #[error("this replica has halted")]
    Halted,
}

impl Replica {
    /// Takes in a signed call sent to `address`, passes it on to the other replicas, and returns
    /// its id. A call that is known already is taken in again without effect.
    ///
    /// # Errors
    /// [`SubmitError`]; the call has then no effect.
    pub fn submit(&self, address: Scope, envelope: &Bytes) -> Result<RequestId, SubmitError> {
        if self.is_out_of_step() {
            return Err(SubmitError::Halted);
        }
        let call = Ingress::check(envelope, &self.genesis.root_key, self.clock.now_ns())?;
        self.check_address(address, &call)?;
        let executed = self.executed();
        let (id, bytes, target) = (call.id, call.bytes.clone(), target(&call));
        if self.is_known(&call) {
            return Ok(id);
        }
        if executed.state.history.is_full() {
            return Err(SubmitError::HistoryFull);
        }
        lock(&self.mempool).check_room(&call.sender, &target, bytes.len())?;
        self.inspect(&executed.state, &call)?;
        self.keep(call, target)?;
        if let Some(gossip) = self.gossip.get() {
            gossip(bytes);
        }
        Ok(id)
    }

    /// Whether a call was taken in, or waits and is no worse than this one.
    fn is_known(&self, call: &Ingress) -> bool {
        let waits = lock(&self.mempool)
            .get(&call.id)
            .is_some_and(|known| known.authority_until_ns >= call.authority_until_ns);
        waits || self.executed.borrow().state.history.get(&call.id).is_some()
    }

    /// Lets an authenticated call wait, if it was not executed meanwhile.
    fn keep(&self, call: Ingress, target: Principal) -> Result<(), NoRoom> {
        // No height is executed as long as the pool is locked.
        let mut mempool = lock(&self.mempool);
        if self.executed.borrow().state.history.get(&call.id).is_none() {
            mempool.insert(call, target)?;
            self.arrivals.send_replace(());
        }
        Ok(())
    }

    /// Takes in a call that a peer has passed on. One that is of no use is dropped: the peer has told its client
    /// already.
    pub(super) fn take_gossip(&self, message: &Bytes) {
        // What costs little comes first.
        let Ok(call) = Ingress::decode(message) else {
            return;
        };
        let executed = self.executed();
        let is_known = executed.state.history.get(&call.id).is_some()
            || lock(&self.mempool)
                .get(&call.id)
                .is_some_and(|known| known.bytes == call.bytes);
        let target = target(&call);
        if is_known
            || executed.state.history.is_full()
            || lock(&self.mempool)
                .check_room(&call.sender, &target, message.len())
                .is_err()
        {
            return;
        }
        let checked = Ingress::check(message, &self.genesis.root_key, self.clock.now_ns());
        if let Ok(call) = checked {
            let _ = self.keep(call, target);
        }
    }

    fn check_address(&self, address: Scope, call: &Ingress) -> Result<(), SubmitError> {
        let target = if call.canister == Principal::management_canister() {
            ingress_target(&call.method, &call.argument)?
        } else {
            Some(call.canister)
        };
        match (address, target) {
            (Scope::Canister(_), None) => Ok(()),
            (Scope::Subnet(subnet), None) if subnet == self.genesis.subnet_id => Ok(()),
            (Scope::Canister(address), Some(target)) if address == target => Ok(()),
            (_, target) => Err(SubmitError::OtherAddress {
                canister: target.unwrap_or(call.canister),
            }),
        }
    }

    /// Asks the canister whether it takes the call; the management canister takes those that are not
    /// bound to be refused. Not replicated: it spares the subnet work and
    /// protects nothing.
    fn inspect(&self, state: &ReplicatedState, call: &Ingress) -> Result<(), Reject> {
        if call.canister == Principal::management_canister() {
            return management::inspect(state, &call.sender, &call.method, &call.argument);
        }
        let canister = running_canister(state, &call.canister)?;
        if canister.state.installed.is_none() {
            return Err(no_code(&call.canister));
        }
        let message = Call {
            caller_info: call.caller_info.clone(),
            ..Call::new(call.inspection(), call.sender, call.argument.clone())
        };
        let environment = Environment {
            frozen_cycles: canister.state.frozen_cycles(state.genesis.prices()),
            ..environment(state, &state.sessions, INSPECT_INSTRUCTIONS)
        };
        let (_, effects) = self
            .engine
            .execute(&canister.state, &message, &environment)
            .result?;
        if effects.accepted {
            Ok(())
        } else {
            Err(Reject::new(
                406,
                format!("Canister {} rejected the message", call.canister),
            ))
        }
    }
}

/// The canister that a call is about: its receiver or, if it is for the management canister, what that is asked
/// about.
fn target(call: &Ingress) -> Principal {
    if call.canister != Principal::management_canister() {
        return call.canister;
    }
    let target = ingress_target(&call.method, &call.argument);
    target.ok().flatten().unwrap_or(call.canister)
}
