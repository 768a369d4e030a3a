use super::{files::node_path, *};
use commonware_codec::Encode as _;
use commonware_cryptography::bls12381::primitives::ops::threshold;
use commonware_parallel::Sequential;
use std::collections::BTreeMap;

const SEED: [u8; 32] = [7; 32];

#[test]
fn a_seed_deals_the_same_keys_and_another_seed_others() {
    let first = Genesis::deal(4, &SEED).unwrap();
    let again = Genesis::deal(4, &SEED).unwrap();
    let other = Genesis::deal(4, &[8; 32]).unwrap();
    assert_eq!(first.subnet, again.subnet);
    assert_eq!(
        first.nodes[2].query_signing_seed(),
        again.nodes[2].query_signing_seed()
    );
    assert_ne!(first.subnet.public_key(), other.subnet.public_key());
}

/// A frozen value: a changed derivation would silently change every seeded subnet's key.
#[test]
fn the_derivation_is_frozen() {
    let genesis = Genesis::deal(4, &SEED).unwrap();
    assert_eq!(
        blake3::hash(&genesis.subnet.public_key()).to_hex().as_str(),
        "221f53a8e121fca5b334b17ca121418eecd7b3dd316d79cad56a40d9da1a780e"
    );
    assert_eq!(
        blake3::hash(&genesis.nodes[0].query_signing_seed())
            .to_hex()
            .as_str(),
        "3d1673fe8423f9813efea290e16045c6dfeaf3e8dd70628dae0c7f5c5e4d9a38"
    );
}

#[test]
fn every_quorum_signs_what_the_internet_computer_verifies() {
    for node_count in [1, 4, 7] {
        let genesis = Genesis::deal(node_count, &SEED).unwrap();
        let required = genesis.subnet.sharing().required() as usize;
        let root = [3; 32];
        let sign = |node: &NodeKeys| {
            threshold::sign_message::<IcVariant>(node.share(), b"ic-state-root", &root)
        };
        let message = [b"\x0Dic-state-root".as_slice(), &root].concat();
        for first in 0..=node_count as usize - required {
            let partials: Vec<_> = genesis.nodes[first..first + required]
                .iter()
                .map(sign)
                .collect();
            let signature = threshold::recover::<IcVariant, _>(
                genesis.subnet.sharing(),
                partials.iter(),
                &Sequential,
            )
            .unwrap()
            .encode();
            ic_verify_bls_signature::verify_bls_signature(
                &signature,
                &message,
                &genesis.subnet.public_key(),
            )
            .unwrap();
        }
    }
}

#[test]
fn keys_survive_the_disk_and_secrets_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let written = Genesis::deal(4, &SEED).unwrap();
    written.write(directory.path()).unwrap();
    let read = Genesis::read(directory.path()).unwrap();
    assert_eq!(read.subnet, written.subnet);
    for (read, written) in read.nodes.iter().zip(&written.nodes) {
        assert_eq!(read.identity().encode(), written.identity().encode());
        assert_eq!(read.share().encode(), written.share().encode());
        assert_eq!(read.query_signing_seed(), written.query_signing_seed());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(node_path(directory.path(), 0))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn files_of_another_subnet_or_damaged_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert!(matches!(Subnet::read(path), Err(GenesisError::File { .. })));
    Genesis::deal(4, &SEED).unwrap().write(path).unwrap();
    let subnet = Subnet::read(path).unwrap();
    assert!(matches!(
        NodeKeys::read(path, &subnet, 4),
        Err(GenesisError::File { .. })
    ));

    let other = tempfile::tempdir().unwrap();
    Genesis::deal(4, &[9; 32])
        .unwrap()
        .write(other.path())
        .unwrap();
    let foreign = NodeKeys::read(other.path(), &subnet, 0);
    assert!(matches!(foreign, Err(GenesisError::Malformed { .. })));

    fs::copy(node_path(path, 1), node_path(path, 0)).unwrap();
    let swapped = NodeKeys::read(path, &subnet, 0);
    assert!(matches!(swapped, Err(GenesisError::Malformed { .. })));

    // Whose keys they are, the file says, not its name.
    let renamed = NodeKeys::read_file(&node_path(path, 0), &subnet).unwrap();
    assert_eq!(renamed.index(), 1);
}

#[test]
fn a_changed_subnet_file_is_refused_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(SUBNET_FILE);
    let addresses = [
        "10.0.0.1:4900",
        "[::1]:4900",
        "node.example:4900",
        "10.0.0.4:4900",
    ];
    let addresses = addresses.map(|address| address.parse().unwrap());
    let models = BTreeMap::from([("small".to_owned(), [5; 32])]);
    let mut genesis = Genesis::deal(4, &SEED).unwrap();
    let subnet = genesis.subnet.with_addresses(addresses.to_vec()).unwrap();
    genesis.subnet = subnet.with_models(models);
    genesis.write(directory.path()).unwrap();
    assert_eq!(Subnet::read(directory.path()).unwrap(), genesis.subnet);

    let text = fs::read_to_string(&path).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in {text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        Subnet::read_file(&path).unwrap_err().to_string()
    };
    let version = "\"version\": 3";
    assert!(changed(version, "\"version\": 2").contains("an earlier lockstep wrote it"));
    assert!(changed(version, "\"version\": 4").contains("a later lockstep wrote it"));
    assert!(changed(version, "\"edition\": 3").contains("it has no version"));
    assert!(changed("\"models\"", "\"model\"").contains("unknown field `model`"));
    assert!(changed("10.0.0.4:4900", "10.0.0.1:4900").contains("as many different addresses"));
    assert!(changed("10.0.0.4:4900", "0.0.0.0:4900").contains("not an address"));
    assert!(changed("\"public_key\": \"", "\"public_key\": \"00").contains("public key"));
    let other = Genesis::deal(4, &[8; 32]).unwrap().subnet;
    let identity = |subnet: &Subnet, index| hex::encode(subnet.node_identity(index).unwrap());
    let (first, second) = (identity(&genesis.subnet, 0), identity(&genesis.subnet, 1));
    assert!(changed(&first, &second).contains("a node appears twice"));
    let last = "f".repeat(64);
    assert!(changed(&first, &last).contains("malformed"));
    assert_ne!(identity(&other, 0), first);
}

#[test]
fn only_an_address_that_can_be_connected_to_is_one() {
    for text in [
        "10.1.2.3:80",
        "[fe80::1]:4900",
        "a.example:1",
        "localhost:4900",
    ] {
        let address: PeerAddress = text.parse().unwrap();
        assert_eq!(address.to_string(), text);
    }
    let bad = [
        "",
        ":",
        "10.1.2.3",
        "10.1.2.3:0",
        "0.0.0.0:4900",
        "[::]:4900",
        "10.1.2:4900",
        "host:",
        "host:65536",
        ":4900",
        "a b:4900",
        "fe80::1:4900x",
        "http://host:80",
    ];
    for text in bad {
        assert!(text.parse::<PeerAddress>().is_err(), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn secrets_that_everybody_can_read_are_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let genesis = Genesis::deal(1, &SEED).unwrap();
    genesis.write(directory.path()).unwrap();
    let path = node_path(directory.path(), 0);
    let read = |mode| {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        NodeKeys::read_file(&path, &genesis.subnet)
    };
    assert!(read(0o440).is_ok());
    assert!(matches!(read(0o644), Err(GenesisError::Exposed { .. })));
}

#[test]
fn debug_output_holds_no_secret() {
    let genesis = Genesis::deal(1, &SEED).unwrap();
    let text = format!("{genesis:?}");
    let keys = &genesis.nodes[0];
    let secrets = [
        keys.identity().encode(),
        keys.share().encode(),
        bytes::Bytes::copy_from_slice(&keys.query_signing_seed()),
    ];
    for secret in secrets {
        let numbers = format!("{:?}", secret.to_vec());
        assert!(!text.contains(&hex::encode(&secret)) && !text.contains(&numbers));
    }
}

#[test]
fn a_subnet_has_at_least_one_node_and_not_too_many() {
    for node_count in [0, NODE_COUNT_MAX + 1] {
        assert!(matches!(
            Genesis::deal(node_count, &SEED),
            Err(GenesisError::NodeCount { .. })
        ));
    }
}
