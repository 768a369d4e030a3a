//! The JavaScript agent.
use crate::support::{Up, clients, counter, succeed};

/// What `testing/clients/agent/check.mjs` checks, in its order.
const CHECKS: &[&str] = &[
    "query verified by the nodes' keys",
    "query whose signature is forged",
    "update verified by the certificate",
    "certificate of another network",
    "method that does not exist",
    "argument that is none",
    "state of a canister",
    "state of the subnet",
    "query at the subnet's address",
    "path that nobody may read",
    "key: Ed25519",
    "key: ECDSA on P-256",
    "key: ECDSA on secp256k1",
    "key: passkey",
    "key: none",
    "delegation from: Ed25519",
    "delegation from: ECDSA on P-256",
    "delegation from: ECDSA on secp256k1",
    "delegation from: passkey",
    "delegation for another canister",
    "delegation for queries alone",
    "delegation that is over",
    "ledger's records, variants and options",
];

#[test]
fn the_javascript_agent_verifies_what_a_network_answers() {
    let (Some(clients), Some(counter)) = (clients(), counter()) else {
        return;
    };
    let network = Up::start(&[]);
    let printed = succeed(clients.agent("check.mjs").arg(&network.url).arg(counter));
    let held: Vec<&str> = printed
        .lines()
        .filter_map(|line| line.strip_prefix("ok "))
        .collect();
    assert_eq!(held, CHECKS, "{printed}");
}
