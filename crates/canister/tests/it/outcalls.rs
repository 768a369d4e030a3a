//! The price of HTTP outcalls by what they use, for memories of both widths.
use crate::support::{Canister, ENGINE, caller, text};
use candid::{CandidType, Reserved};
use lockstep_canister::{
    engine::{Call, EntryPoint, Execution, Response},
    prices::{Committee, Outcall, OutcallType, Prices},
};

fn usage(outcall_type: Option<OutcallType>) -> Outcall {
    Outcall {
        request_bytes: 100,
        http_roundtrip_time_ms: 2_000,
        raw_response_bytes: 1_000,
        transformed_response_bytes: 2_000,
        transform_instructions: 26,
        outcall_type,
    }
}

/// Asks what an outcall costs that is described so.
fn ask(pointer: &str, description: &[u8]) -> Execution {
    let data: String = description
        .iter()
        .map(|byte| format!("\\{byte:02x}"))
        .collect();
    let memory = if pointer == "i64" { "i64 1" } else { "1" };
    let size = description.len();
    let canister = Canister::new(&format!(
        r#"(module
            (import "ic0" "cost_http_request_v2" (func $cost (param {pointer} {pointer} {pointer})))
            (import "ic0" "msg_reply_data_append" (func $append (param {pointer} {pointer})))
            (import "ic0" "msg_reply" (func $reply))
            (memory {memory})
            (data ({pointer}.const 0) "{data}")
            (func (export "canister_update go")
                (call $cost ({pointer}.const 0) ({pointer}.const {size}) ({pointer}.const 16384))
                (call $append ({pointer}.const 16384) ({pointer}.const 16))
                (call $reply)))"#
    ));
    let mut environment = canister.environment();
    environment.prices = Prices::new(13);
    let call = Call::new(EntryPoint::Update("go".into()), caller(), Vec::new());
    ENGINE.execute(&canister.state, &call, &environment)
}

#[test]
fn outcalls_cost_what_they_use() {
    let committee = Committee {
        min_responses: 2,
        max_responses: 3,
        total_requests: 3,
    };
    let cases = [
        (None, 74_348_183),
        (Some(OutcallType::FullyReplicated(Reserved)), 74_348_183),
        (Some(OutcallType::NonReplicated(Reserved)), 50_843_002),
        (Some(OutcallType::Flexible(Some(committee))), 101_132_076),
        (Some(OutcallType::Flexible(None)), 343_988_996),
    ];
    for (outcall_type, cost) in cases {
        let outcall = usage(outcall_type);
        assert_eq!(Prices::new(13).http_outcall(&outcall), cost);
        let description = candid::encode_one(&outcall).unwrap();
        for pointer in ["i32", "i64"] {
            let (response, _) = ask(pointer, &description).result.unwrap();
            let expected = Response::Reply(cost.to_le_bytes().to_vec());
            assert_eq!(response, expected, "{outcall:?}");
        }
    }
}

/// As canisters describe outcalls that know of no kinds of them.
#[derive(CandidType)]
struct Short {
    request_bytes: u64,
    http_roundtrip_time_ms: u64,
    raw_response_bytes: u64,
    transformed_response_bytes: u64,
    transform_instructions: u64,
}

#[test]
fn what_is_no_outcall_has_no_price() {
    let short = Short {
        request_bytes: 100,
        http_roundtrip_time_ms: 2_000,
        raw_response_bytes: 1_000,
        transformed_response_bytes: 2_000,
        transform_instructions: 26,
    };
    let short = candid::encode_one(&short).unwrap();
    let (response, _) = ask("i32", &short).result.unwrap();
    assert_eq!(
        response,
        Response::Reply(74_348_183_u128.to_le_bytes().to_vec())
    );

    let long = vec![0; 1_025];
    let text_of_number = candid::encode_one("one hundred bytes").unwrap();
    let no_candid = "Canister violated contract: ic0.cost_http_request_v2: \
                     the description of an outcall is not what the interface says, in Candid";
    let too_long = "Canister violated contract: ic0.cost_http_request_v2: \
                    the description of an outcall has more than 1024 bytes: 1025";
    let cases = [
        (&b""[..], no_candid),
        (b"DIDL", no_candid),
        (&short[..short.len() - 1], no_candid),
        (&text_of_number, no_candid),
        (&long, too_long),
    ];
    for (description, expected) in cases {
        for pointer in ["i32", "i64"] {
            let error = ask(pointer, description).result.unwrap_err();
            assert_eq!((error.code, text(&error)), (504, expected));
        }
    }
}
