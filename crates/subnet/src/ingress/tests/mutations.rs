//! Envelopes of every kind of request and key, changed in every way that comes to mind: none panics, and none that is
//! taken says anything else in its sender's name.
use super::*;
use ciborium::Value;
use std::{io::Write as _, sync::LazyLock};

/// What signs.
#[derive(Debug, Clone, Copy)]
enum Signer {
    Anonymous,
    Ed25519,
    Secp256k1,
    P256,
    Passkey,
    Canister,
    Delegate,
}

const SIGNERS: [Signer; 7] = [
    Signer::Anonymous,
    Signer::Ed25519,
    Signer::Secp256k1,
    Signer::P256,
    Signer::Passkey,
    Signer::Canister,
    Signer::Delegate,
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Call,
    Query,
    ReadState,
}

const KINDS: [Kind; 3] = [Kind::Call, Kind::Query, Kind::ReadState];

fn content_of(kind: Kind, sender: Principal) -> EnvelopeContent {
    let ingress_expiry = NOW_NS + 1;
    let canister_id = Principal::management_canister();
    match kind {
        Kind::Call => content(sender, ingress_expiry, Some(vec![1; 8])),
        Kind::Query => EnvelopeContent::Query {
            ingress_expiry,
            sender,
            canister_id,
            method_name: "list".into(),
            arg: vec![5; 9],
            nonce: None,
            sender_info: None,
        },
        Kind::ReadState => EnvelopeContent::ReadState {
            ingress_expiry,
            sender,
            paths: vec![
                vec!["time".into()],
                vec!["canister".into(), vec![7; 10].into()],
            ],
        },
    }
}

/// A valid envelope.
fn envelope(kind: Kind, signer: Signer) -> Envelope<'static> {
    type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;
    let ed25519 = |seed| {
        let key = ic_ed25519::PrivateKey::deserialize_raw_32(&[seed; 32]);
        let public = key.public_key().serialize_rfc8410_der();
        let sign: Sign = Box::new(move |message| key.sign_message(message).to_vec());
        (public, sign)
    };
    let (public, sign) = match signer {
        Signer::Anonymous => {
            return Envelope {
                content: Cow::Owned(content_of(kind, Principal::anonymous())),
                sender_pubkey: None,
                sender_sig: None,
                sender_delegation: None,
            };
        }
        Signer::Ed25519 | Signer::Delegate => ed25519(7),
        Signer::Secp256k1 => {
            let key = ic_secp256k1::PrivateKey::generate_from_seed(b"seed");
            let public = key.public_key().serialize_der();
            let sign: Sign = Box::new(move |message| key.sign_message_with_ecdsa(message).to_vec());
            (public, sign)
        }
        Signer::P256 => {
            let key = ic_secp256r1::PrivateKey::generate_insecure_key_for_testing(1);
            let public = key.public_key().serialize_der();
            let sign: Sign = Box::new(move |message| key.sign_message(message).to_vec());
            (public, sign)
        }
        Signer::Passkey => {
            let key = Authenticator::Es256;
            let sign: Sign = Box::new(move |message| key.sign(message));
            (key.public_key(), sign)
        }
        Signer::Canister => {
            let key = Canister::default();
            let public = key.public_key();
            let sign: Sign = Box::new(move |message| key.sign(message));
            (public, sign)
        }
    };
    let mut content = content_of(kind, Principal::self_authenticating(&public));
    if let EnvelopeContent::Call { sender_info, .. } | EnvelopeContent::Query { sender_info, .. } =
        &mut content
        && matches!(signer, Signer::Canister)
    {
        let info = vec![6; 5];
        *sender_info = Some(SenderInfo {
            sig: sign(&[b"\x0Eic-sender-info", &info[..]].concat()),
            info,
            signer: Canister::default().canister.as_slice().to_vec(),
        });
    }
    let message = content.to_request_id().signable();
    let (sender_sig, sender_delegation) = if matches!(signer, Signer::Delegate) {
        let (other, other_sign) = ed25519(8);
        let delegation = Delegation {
            pubkey: other,
            expiration: NOW_NS + 3,
            targets: Some(vec![Principal::management_canister()]),
            permissions: Some(DelegationPermissions::All),
        };
        let signature = sign(&delegation.signable());
        let chain = vec![SignedDelegation {
            delegation,
            signature,
        }];
        (other_sign(&message), Some(chain))
    } else {
        (sign(&message), None)
    };
    Envelope {
        content: Cow::Owned(content),
        sender_pubkey: Some(public),
        sender_sig: Some(sender_sig),
        sender_delegation,
    }
}

/// All valid envelopes, with their ids.
static ORIGINALS: LazyLock<Vec<(Vec<u8>, RequestId)>> = LazyLock::new(|| {
    let pairs = KINDS
        .iter()
        .flat_map(|kind| SIGNERS.map(|signer| (*kind, signer)));
    pairs
        .map(|(kind, signer)| {
            let bytes = envelope(kind, signer).encode_bytes();
            let request = Request::decode(&bytes).expect("it is valid");
            let authority = request.authenticate(&ROOT_KEY, NOW_NS);
            authority.expect("it is signed");
            (bytes, request.id())
        })
        .collect()
});

static ROOT_KEY: LazyLock<Vec<u8>> = LazyLock::new(root_key);

/// Whether bytes are a request that is authenticated. If it is, it says what the one with `id` says, or speaks for
/// nobody.
#[track_caller]
fn is_taken(bytes: &[u8], id: RequestId) -> bool {
    let Ok(request) = Request::decode(bytes) else {
        return false;
    };
    let taken = request.authenticate(&ROOT_KEY, NOW_NS).is_ok();
    assert!(
        !taken || request.id() == id || *request.content().sender() == Principal::anonymous(),
        "another request in the sender's name: {}",
        hex::encode(bytes)
    );
    taken
}

fn to_bytes(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a vector takes every byte");
    bytes
}

fn value(bytes: &[u8]) -> Value {
    ciborium::from_reader(&bytes[3..]).expect("CBOR")
}

/// Every value that `change` makes of a part of `whole`, in place of that part.
fn with_each_part_changed(whole: &Value, change: &dyn Fn(&Value) -> Vec<Value>) -> Vec<Value> {
    let mut all = change(whole);
    match whole {
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                for changed in with_each_part_changed(element, change) {
                    let mut elements = elements.clone();
                    elements[index] = changed;
                    all.push(Value::Array(elements));
                }
            }
        }
        Value::Map(entries) => {
            for (index, (key, element)) in entries.iter().enumerate() {
                for changed in with_each_part_changed(element, change) {
                    let mut entries = entries.clone();
                    entries[index] = (key.clone(), changed);
                    all.push(Value::Map(entries));
                }
            }
        }
        _ => {}
    }
    all
}

#[test]
fn every_bit_counts() {
    for (original, id) in ORIGINALS.iter() {
        for bit in 0..original.len() * 8 {
            let mut bytes = original.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            is_taken(&bytes, *id);
        }
    }
}

#[test]
fn every_byte_is_needed_and_none_may_follow() {
    for (original, id) in ORIGINALS.iter() {
        for length in 0..original.len() {
            assert!(Request::decode(&original[..length]).is_err());
            // And without one in the middle.
            let bytes = [&original[..length], &original[length + 1..]].concat();
            is_taken(&bytes, *id);
        }
        for more in [0x00, 0x80, 0xa0, 0xf6, 0xff] {
            assert!(Request::decode(&[&original[..], &[more]].concat()).is_err());
        }
    }
}

#[test]
fn keys_twice_and_keys_that_nobody_knows_are_refused() {
    for (original, _) in ORIGINALS.iter() {
        let whole = value(original);
        let twice = with_each_part_changed(&whole, &|part| {
            let Value::Map(entries) = part else {
                return Vec::new();
            };
            let mut all = Vec::new();
            for entry in entries
                .iter()
                .cloned()
                .chain([("unknown".into(), 1.into())])
            {
                let mut entries = entries.clone();
                entries.push(entry);
                all.push(Value::Map(entries));
            }
            all
        });
        // A map in a map, with three fields at least.
        assert!(twice.len() > 5, "{whole:?}");
        for changed in twice {
            assert!(Request::decode(&to_bytes(&changed)).is_err(), "{changed:?}");
        }
    }
}

#[test]
fn other_values_of_any_part_are_no_other_request() {
    let others = |part: &Value| {
        let mut deep = part.clone();
        for _ in 0..600 {
            deep = Value::Array(vec![deep]);
        }
        let mut tagged = part.clone();
        for tag in 0..600 {
            tagged = Value::Tag(tag, tagged.into());
        }
        vec![
            Value::Null,
            Value::Bool(true),
            Value::Float(0.5),
            Value::from(0),
            Value::from(u64::MAX),
            Value::from(-1),
            Value::Text("x".repeat(5_000)),
            Value::Bytes(vec![0; 5_000]),
            Value::Array(vec![part.clone()]),
            Value::Map(vec![(part.clone(), part.clone())]),
            Value::Tag(2, Value::Bytes(vec![255; 16]).into()),
            deep,
            tagged,
        ]
    };
    for (original, id) in ORIGINALS.iter() {
        for changed in with_each_part_changed(&value(original), &others) {
            is_taken(&to_bytes(&changed), *id);
        }
    }
}

#[test]
fn padding_has_a_limit_wherever_it_is() {
    let bytes = envelope(Kind::Call, Signer::Delegate).encode_bytes();
    let id = Request::decode(&bytes).expect("it is valid").id();
    let tagged = |count: u64| {
        with_each_part_changed(&value(&bytes), &|part| {
            // Tags take nine bytes each.
            let tags = (0..count).map(|tag| u64::MAX - tag);
            vec![tags.fold(part.clone(), |part, tag| Value::Tag(tag, part.into()))]
        })
    };
    // Some are in order, wherever tags may stand.
    let taken = tagged(3)
        .iter()
        .filter(|part| is_taken(&to_bytes(part), id))
        .count();
    assert!(taken > 8);
    for padded in tagged(200) {
        assert!(Request::decode(&to_bytes(&padded)).is_err());
    }
    // Segments of a byte string, most of them empty.
    let argument = [&b"\x63arg\x46DIDL\0\0"[..]].concat();
    let at = bytes
        .windows(argument.len())
        .position(|window| window == argument);
    let at = at.expect("it is there") + 4;
    let segmented = |count: usize| {
        let mut changed = bytes[..at].to_vec();
        changed.push(0x5f);
        changed.extend(std::iter::repeat_n(0x40, count));
        changed.extend_from_slice(&bytes[at..at + 7]);
        changed.push(0xff);
        changed.extend_from_slice(&bytes[at + 7..]);
        changed
    };
    assert!(is_taken(&segmented(1_000), id));
    let error = Request::decode(&segmented(2_000)).expect_err("too much padding");
    let text = "the request is not a CBOR envelope: padding: 2002 bytes, the limit is 1024";
    assert_eq!(error.to_string(), text);
}

#[test]
fn maps_and_lists_without_a_length_say_the_same() {
    for (original, id) in ORIGINALS.iter() {
        let mut bytes = Vec::new();
        without_lengths(&value(original), &mut bytes);
        assert!(is_taken(&bytes, *id));
        // Without the last break, and with one more.
        assert!(Request::decode(&bytes[..bytes.len() - 1]).is_err());
        bytes.push(0xff);
        assert!(Request::decode(&bytes).is_err());
    }
}

/// Writes a value whose lists and maps end where a break says so.
fn without_lengths(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Array(elements) => {
            bytes.push(0x9f);
            elements
                .iter()
                .for_each(|element| without_lengths(element, bytes));
            bytes.push(0xff);
        }
        Value::Map(entries) => {
            bytes.push(0xbf);
            for (key, element) in entries {
                without_lengths(key, bytes);
                without_lengths(element, bytes);
            }
            bytes.push(0xff);
        }
        leaf => bytes
            .write_all(&to_bytes(leaf))
            .expect("a vector takes every byte"),
    }
}

#[test]
fn lists_have_a_longest_length() {
    let delegate = value(&envelope(Kind::Call, Signer::Delegate).encode_bytes());
    let read = value(&envelope(Kind::ReadState, Signer::Anonymous).encode_bytes());
    let with_list = |whole: &Value, name: &str, element: Value, count: usize| {
        let list = Value::Array(vec![element; count]);
        let mut changed = with_each_part_changed(whole, &|part| {
            let Value::Map(entries) = part else {
                return Vec::new();
            };
            let mut entries = entries.clone();
            let named = entries
                .iter_mut()
                .find(|(key, _)| key.as_text() == Some(name));
            let Some((_, old)) = named else {
                return Vec::new();
            };
            *old = list.clone();
            vec![Value::Map(entries)]
        });
        Request::decode(&to_bytes(&changed.pop().expect("there is one"))).map(drop)
    };
    let link = delegate.as_map().and_then(|entries| {
        let chain = entries
            .iter()
            .find(|(key, _)| key.as_text() == Some("sender_delegation"));
        chain?.1.as_array()?.first().cloned()
    });
    let path = |labels| Value::Array(vec![Value::Bytes(vec![]); labels]);
    for (whole, name, element, max) in [
        (
            &delegate,
            "sender_delegation",
            link.expect("a link"),
            DELEGATIONS_MAX,
        ),
        (&delegate, "targets", Value::Bytes(vec![]), TARGETS_MAX),
        (&read, "paths", path(1), PATHS_MAX),
        (&read, "paths", path(LABELS_MAX), 1),
    ] {
        assert_eq!(
            with_list(whole, name, element.clone(), max),
            Ok(()),
            "{name}"
        );
        if max > 1 {
            let reason = format!("Semantic(None, \"a list of more than {max}\")");
            let error = IngressError::Malformed { reason };
            assert_eq!(
                with_list(whole, name, element, max + 1),
                Err(error),
                "{name}"
            );
        }
    }
    assert!(with_list(&read, "paths", path(LABELS_MAX + 1), 1).is_err());
}

#[test]
fn reasons_are_short_whatever_they_quote() {
    let mut request = value(&envelope(Kind::Call, Signer::Anonymous).encode_bytes());
    let content = &mut request.as_map_mut().expect("a map")[0].1;
    for (key, value) in content.as_map_mut().expect("a map") {
        if key.as_text() == Some("request_type") {
            *value = Value::Text("é".repeat(100_000));
        }
    }
    let Err(IngressError::Malformed { reason }) = Request::decode(&to_bytes(&request)) else {
        panic!("there is no such type");
    };
    assert!(
        reason.starts_with("unknown request_type: é") && reason.len() <= 256,
        "{reason}"
    );
}

proptest! {
    #[test]
    fn no_edits_make_another_request(
        which in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..8),
    ) {
        let (original, id) = which.get(&ORIGINALS);
        let mut bytes = original.clone();
        for (at, value, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = value,
                1 => bytes.insert(at, value),
                _ => drop(bytes.remove(at)),
            }
        }
        is_taken(&bytes, *id);
    }

    #[test]
    fn no_parts_of_two_requests_make_a_third(
        which in any::<[prop::sample::Index; 2]>(),
        at in any::<[prop::sample::Index; 2]>(),
    ) {
        let [(first, id), (second, other)] = which.map(|which| which.get(&ORIGINALS));
        let bytes = [&first[..at[0].index(first.len())], &second[at[1].index(second.len())..]].concat();
        if let Ok(request) = Request::decode(&bytes) && request.id() == *other {
            return Ok(());
        }
        is_taken(&bytes, *id);
    }
}
