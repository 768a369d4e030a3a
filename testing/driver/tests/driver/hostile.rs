//! Canisters and users that do their worst: their calls end with the right error, no cycle is made or lost, and
//! whoever has nothing to do with them is as before.
mod callbacks;
mod cycles;
mod floods;
mod sizes;
mod tasks;

use crate::support::{anonymous, run, slow, wasm};
use candid::Nat;
use ic_management_canister_types::ProvisionalTopUpCanisterArgs;
use ic_principal::Principal;
use lockstep_canister::{engine::Cycles, prices::Prices};
use lockstep_driver::{Reject, Subnet};
use lockstep_hostile::{Step, encode};
use lockstep_subnet::state::Ledger;

/// Canisters that do as they are told, and nothing from themselves: without heartbeat, which would cost cycles in
/// every block. Behind them one that nobody calls.
fn install(subnet: &mut Subnet, count: usize) -> Option<Vec<Principal>> {
    let wasm = tame()?;
    let mut create = |wasm: &[u8]| {
        let id = subnet.create_canister();
        subnet.install(id, wasm, b"").expect("it is valid");
        id
    };
    let mut ids: Vec<_> = (0..count).map(|_| create(&wasm)).collect();
    let bystander = wat::parse_str(r#"(module (memory 1) (data (i32.const 0) "as it was"))"#);
    ids.push(create(&bystander.expect("the text is a module")));
    Some(ids)
}

/// The module, whose heartbeat has another name.
fn tame() -> Option<Vec<u8>> {
    let (name, other) = (b"canister_heartbeat", b"another__heartbeat");
    let mut wasm = wasm()?.to_vec();
    let place = wasm.windows(name.len()).position(|bytes| bytes == name);
    let place = place.expect("it has one");
    wasm[place..place + name.len()].copy_from_slice(other);
    Some(wasm)
}

fn subnet(count: usize) -> Option<(Subnet, Vec<Principal>)> {
    let mut subnet = Subnet::new();
    let ids = install(&mut subnet, count)?;
    Some((subnet, ids))
}

/// As [`subnet`], on which every canister has one message per block.
fn slow_subnet(count: usize) -> Option<(Subnet, Vec<Principal>)> {
    let mut subnet = slow();
    let ids = install(&mut subnet, count)?;
    Some((subnet, ids))
}

/// What must stay as it is: a canister that nobody calls, and the number of all cycles.
struct Witness {
    canister: Principal,
    digest: [u8; 32],
    ledger: Ledger,
    all_cycles: Cycles,
}

impl Witness {
    fn new(subnet: &Subnet, canister: Principal) -> Self {
        let found = subnet.canister(canister).expect("it exists");
        Self {
            canister,
            digest: found.state.digest(),
            ledger: found.ledger.clone(),
            all_cycles: subnet.all_cycles(),
        }
    }

    #[track_caller]
    fn check(&self, subnet: &Subnet) {
        let found = subnet.canister(self.canister).expect("it exists");
        assert_eq!(found.state.digest(), self.digest);
        assert_eq!(found.ledger, self.ledger);
        assert_eq!(subnet.all_cycles(), self.all_cycles);
    }
}

fn prices(subnet: &Subnet) -> Prices {
    subnet.state().genesis.prices()
}

fn frozen(subnet: &Subnet, id: Principal) -> Cycles {
    let canister = subnet.canister(id).expect("it exists");
    canister.state.frozen_cycles(prices(subnet))
}

/// What the canister has seen and done, as one number.
fn sum(subnet: &Subnet, id: Principal) -> Vec<u8> {
    let program = encode(&[Step::ReplySum]);
    let reply = subnet.query(id, anonymous(), "read", &program);
    reply.expect("it replies")
}

/// Gives a canister cycles until it has so many, of which the message that brings them takes its fee.
fn fill(subnet: &mut Subnet, id: Principal, target: Cycles) {
    let method = "provisional_top_up_canister";
    let fee = |amount: Cycles| {
        let arguments = ProvisionalTopUpCanisterArgs {
            canister_id: id,
            amount: Nat::from(amount),
        };
        let argument = candid::encode_one(&arguments).expect("it has a Candid form");
        prices(subnet).ingress((method.len() + argument.len()) as u64)
    };
    let before = subnet.cycles(id);
    let missing = target.checked_sub(before).expect("it has less");
    // The fee depends on the length of the amount.
    let amount = missing + fee(missing).min(before);
    let amount = missing + fee(amount).min(before);
    subnet.add_cycles(id, amount).expect("it is filled");
    assert_eq!(subnet.cycles(id), target);
}

/// The rejection of a canister to which so many cycles are missing.
fn out_of_cycles(id: Principal, missing: Cycles) -> (u16, String) {
    let text = format!(
        "Canister {id} is out of cycles: please top up the canister with at least {missing} additional cycles"
    );
    (207, text)
}

fn told(reject: Reject) -> (u16, String) {
    (reject.error_code, reject.message)
}

/// As [`run`], with the rejection's code and text.
fn outcome(subnet: &mut Subnet, id: Principal, program: &[Step]) -> Result<Vec<u8>, (u16, String)> {
    run(subnet, id, program).map_err(told)
}

/// The rejection of an update that never answers.
fn silent(id: Principal) -> (u16, String) {
    let text = format!("Error from Canister {id}: Canister did not produce a response");
    (506, text)
}
