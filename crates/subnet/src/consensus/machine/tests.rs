use super::*;
use crate::{
    application::{FinalizedBlock, Height, Payload, Proposal},
    consensus::{
        genesis::{Genesis, PeerAddress},
        loopback::on_free_ports,
    },
};
use bytes::Bytes;
use std::{future, net::Ipv4Addr};

/// Executes nothing: these tests are about the start of a node.
struct Nothing;

impl Application for Nothing {
    fn propose(&self, parent_time_ns: u64) -> Proposal<'_> {
        Box::pin(future::ready(Payload {
            time_ns: parent_time_ns + 1,
            ..Payload::default()
        }))
    }

    fn verify(&self, _: u64, _: &Payload) -> bool {
        true
    }

    fn execute(&self, _: &FinalizedBlock) -> [u8; 32] {
        [0; 32]
    }

    fn executed_height(&self) -> Height {
        0
    }

    fn root(&self, _: Height) -> Option<[u8; 32]> {
        None
    }

    fn epochs(&self) -> Arc<crate::state::Epochs> {
        Arc::default()
    }

    fn protocol_version(&self) -> u64 {
        1
    }

    fn wanted_beacons(&self) -> Vec<Height> {
        Vec::new()
    }

    fn certified(&self, _: Height, _: [u8; 32], _: [u8; 48]) {}

    fn gossip(&self, _: Bytes) {}
}

/// Node 0 of four, alone.
fn config(storage: &Path) -> MachineConfig {
    let Genesis { subnet, mut nodes } = Genesis::deal(4, &[3; 32]).unwrap();
    let subnet = on_free_ports(subnet).unwrap();
    MachineConfig {
        listen: subnet.addresses()[0].socket().unwrap(),
        genesis: Installed {
            subnet: Arc::new(subnet),
            keys: Some(nodes.remove(0)),
        },
        later: Vec::new(),
        upgrade_to: None,
        storage: storage.to_owned(),
        application: Arc::new(Nothing),
    }
}

#[test]
fn a_directory_has_one_node_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let machine = Machine::start(config(directory.path())).unwrap();
    assert!(machine.is_running());
    assert!(matches!(
        Machine::start(config(directory.path())),
        Err(MachineError::InUse { path }) if path == directory.path()
    ));
    machine.stop().unwrap();
    Machine::start(config(directory.path()))
        .unwrap()
        .stop()
        .unwrap();
}

#[test]
fn a_taken_port_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let listen = taken.local_addr().unwrap();
    let started = Machine::start(MachineConfig {
        listen,
        ..config(directory.path())
    });
    assert!(matches!(started, Err(MachineError::Listen { address, .. }) if address == listen));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let started = Machine::start(config(&file));
    assert!(matches!(started, Err(MachineError::Directory { path, .. }) if path == file));
}

#[test]
fn keys_and_addresses_must_be_those_of_the_subnet() {
    let directory = tempfile::tempdir().unwrap();
    let other = Genesis::deal(4, &[4; 32]).unwrap();
    let keys = Some(other.nodes[0].clone());
    let mut foreign = config(directory.path());
    foreign.genesis.keys.clone_from(&keys);
    assert!(matches!(
        Machine::start(foreign),
        Err(MachineError::Keys(InstallError::UnknownIdentity {
            epoch: 0
        }))
    ));
    let mut none = config(directory.path());
    none.genesis.keys = None;
    assert!(matches!(
        Machine::start(none),
        Err(MachineError::Keys(InstallError::NoKeys))
    ));
    let subnet = Arc::new(other.subnet);
    let placeless = MachineConfig {
        genesis: Installed { subnet, keys },
        ..config(directory.path())
    };
    assert!(matches!(
        Machine::start(placeless),
        Err(MachineError::NoAddresses)
    ));
}

#[test]
fn names_are_looked_up_when_a_node_connects() {
    let address: PeerAddress = "localhost:4900".parse().unwrap();
    assert_eq!(address.socket(), None);
    assert_eq!(address.peer().ingress().port(), 4_900);
}
