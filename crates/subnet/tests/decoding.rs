//! Memory that decoding a request takes: little more than its bytes, whatever they declare.
#![allow(unsafe_code, reason = "an allocator that counts")]

use ciborium::Value;
use lockstep_subnet::ingress::{
    DELEGATIONS_MAX, LABELS_MAX, MESSAGE_BYTES_MAX, PATHS_MAX, Request, TARGETS_MAX,
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

/// What this thread has allocated, and the most that it had at a time.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(allocated: usize, freed: usize) {
    let now = (NOW.get() + allocated).saturating_sub(freed);
    NOW.set(now);
    MOST.set(MOST.get().max(now));
}

// SAFETY: every request goes to the system's allocator as it is; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the pointer is the system's, as all that were given out.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether bytes are a request, and the most memory that finding out took.
fn decode(bytes: &[u8]) -> (bool, usize) {
    NOW.set(0);
    MOST.set(0);
    let is_request = Request::decode(bytes).is_ok();
    (is_request, MOST.get())
}

fn text(value: &str) -> Value {
    value.into()
}

fn bytes(count: usize) -> Value {
    Value::Bytes(vec![1; count])
}

/// The envelope of a read or a call with one field replaced or added, in the content or beside it.
fn request(kind: &str, field: &str, value: Value) -> Vec<u8> {
    let mut content = vec![
        (text("request_type"), text(kind)),
        (text("sender"), bytes(29)),
        (text("ingress_expiry"), u64::MAX.into()),
    ];
    if kind == "read_state" {
        content.push((text("paths"), Value::Array(vec![])));
    } else {
        content.push((text("canister_id"), bytes(10)));
        content.push((text("method_name"), text("m")));
        content.push((text("arg"), bytes(0)));
    }
    let beside = field.starts_with("sender_");
    let mut envelope = Vec::new();
    if beside {
        envelope.push((text(field), value));
    } else {
        content.retain(|(key, _)| key.as_text() != Some(field));
        content.push((text(field), value));
    }
    envelope.push((text("content"), Value::Map(content)));
    let mut bytes = Vec::new();
    ciborium::into_writer(&Value::Map(envelope), &mut bytes).expect("a vector takes every byte");
    bytes
}

fn delegations(count: usize, targets: usize) -> Value {
    let delegation = Value::Map(vec![
        (text("pubkey"), bytes(44)),
        (text("expiration"), 1.into()),
        (text("targets"), Value::Array(vec![bytes(0); targets])),
    ]);
    let signed = Value::Map(vec![
        (text("delegation"), delegation),
        (text("signature"), bytes(64)),
    ]);
    Value::Array(vec![signed; count])
}

fn paths(count: usize, labels: usize) -> Value {
    Value::Array(vec![Value::Array(vec![bytes(0); labels]); count])
}

/// What lists of the longest length take beside their bytes: 127,000 labels of one byte each.
const LISTS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What decoding takes for an envelope without long lists.
const SMALL_BYTES_MAX: usize = 16 * 1024;

#[test]
fn long_strings_take_a_small_multiple() {
    let half = MESSAGE_BYTES_MAX / 2;
    for (kind, field, value) in [
        ("call", "arg", bytes(half)),
        // Numbers are bytes as well, for other decoders too.
        ("call", "arg", Value::Array(vec![0.into(); half])),
        ("call", "method_name", Value::Text("m".repeat(half))),
        ("call", "sender_sig", bytes(half)),
        ("query", "sender_pubkey", bytes(half)),
    ] {
        let encoded = request(kind, field, value);
        let (is_request, most) = decode(&encoded);
        assert!(is_request, "{field}");
        assert!(
            most <= 3 * encoded.len() + SMALL_BYTES_MAX,
            "{field}: {most}"
        );
    }
}

#[test]
fn the_longest_lists_take_so_much() {
    for (kind, field, value) in [
        ("read_state", "paths", paths(PATHS_MAX, LABELS_MAX)),
        (
            "call",
            "sender_delegation",
            delegations(DELEGATIONS_MAX, TARGETS_MAX),
        ),
    ] {
        let (is_request, most) = decode(&request(kind, field, value));
        assert!(is_request && most <= LISTS_BYTES_MAX, "{field}: {most}");
    }
}

#[test]
fn longer_lists_are_refused_before_they_take_more() {
    for (kind, field, value) in [
        ("read_state", "paths", paths(MESSAGE_BYTES_MAX / 2, 0)),
        ("read_state", "paths", paths(1, MESSAGE_BYTES_MAX / 2)),
        (
            "call",
            "sender_delegation",
            delegations(1, MESSAGE_BYTES_MAX / 2),
        ),
        ("call", "sender_delegation", delegations(5_000, 1)),
    ] {
        let encoded = request(kind, field, value);
        let (is_request, most) = decode(&encoded);
        assert!(!is_request && most <= 3 * encoded.len(), "{field}: {most}");
    }
}

#[test]
fn nothing_is_taken_for_a_length_that_is_only_declared() {
    let complete = request("read_state", "paths", paths(1, 1));
    // Every head of CBOR is replaced by each kind with the greatest length.
    for at in 0..complete.len() {
        for major in [0x5b, 0x7b, 0x9b, 0xbb] {
            for length in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 31] {
                let mut changed = complete[..at].to_vec();
                changed.push(major);
                changed.extend_from_slice(&length.to_be_bytes());
                changed.extend_from_slice(&complete[at..]);
                let (is_request, most) = decode(&changed);
                assert!(!is_request && most <= SMALL_BYTES_MAX, "{at}: {most}");
            }
        }
    }
}
