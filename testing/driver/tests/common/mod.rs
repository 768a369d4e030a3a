//! What the tests of both matrix products need.
use candid::CandidType;
use ic_principal::Principal;
use lockstep_driver::Subnet;

/// Numbers that look random: SplitMix64.
pub(crate) fn noise(seed: u64, count: usize) -> impl Iterator<Item = u64> {
    (1..=count as u64).map(move |index| {
        let mut z = (seed << 32).wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// A canister whose `compute` answers the same to everybody.
pub(crate) fn parrot(subnet: &mut Subnet, reply: &impl CandidType) -> Principal {
    let reply = candid::encode_one(reply).unwrap();
    let data: String = reply.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module
            (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
            (import "ic0" "msg_reply" (func $reply))
            (memory 1)
            (data (i32.const 0) "{data}")
            (func (export "canister_update compute")
                (call $append (i32.const 0) (i32.const {}))
                (call $reply)))"#,
        reply.len()
    );
    let canister = subnet.create_canister();
    let module = wat::parse_str(text).unwrap();
    subnet.install(canister, &module, b"").unwrap();
    canister
}
