//! What calls cost.
use super::{import, letters::ANY_AND_START};
use crate::{
    host::{Host, Imports, Pointer, enter, read, violated, write},
    prices::Outcall,
};
use candid::DecoderConfig;
use wasmtime::Caller;

/// Most bytes of the description of an outcall.
const OUTCALL_BYTES_MAX: u64 = 1_024;
/// What of it may be passed over; see [`DecoderConfig`].
const OUTCALL_SKIPPED_MAX: usize = 1_000;
/// The decoder looks at the addresses of its stack, which is not that of the thread in a message: it has one of its
/// own, on which types that nest as deep as the description is long leave most of it free.
const DECODER_STACK_BYTES: usize = 4 << 20;

/// The answers of the costs of keys.
const UNKNOWN_CURVE_OR_ALGORITHM: i32 = 1;
const UNKNOWN_KEY: i32 = 2;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import!(imports, cost_call in ANY_AND_START, (caller, method_name_size: i64, payload_size: i64, dst: P) {
        let host = caller.data();
        let (prices, memory64) = (host.given.prices, host.module.memory64());
        let bytes = method_name_size.widen().saturating_add(payload_size.widen());
        let cost = prices.request(bytes).saturating_add(prices.response_prepayment(memory64));
        write(caller, NAME, dst, &cost.to_le_bytes())
    });
    import!(imports, cost_create_canister in ANY_AND_START, (caller, dst: P) {
        let cost = caller.data().given.prices.create_canister();
        write(caller, NAME, dst, &cost.to_le_bytes())
    });
    import!(imports, cost_http_request in ANY_AND_START, (caller, request_size: i64, max_res_bytes: i64, dst: P) {
        let prices = caller.data().given.prices;
        let cost = prices.http_request(request_size.widen(), max_res_bytes.widen());
        write(caller, NAME, dst, &cost.to_le_bytes())
    });
    import!(imports, cost_http_request_v2 in ANY_AND_START, (caller, params_src: P, params_size: P, dst: P) {
        let outcall = outcall(caller, NAME, (params_src, params_size))?;
        let cost = caller.data().given.prices.http_outcall(&outcall);
        write(caller, NAME, dst, &cost.to_le_bytes())
    });
    import!(imports, cost_sign_with_ecdsa in ANY_AND_START, bytes(size), (caller, src: P, size: P, curve: i32, dst: P) -> i32 {
        no_key(caller, NAME, (src, size), dst, curve == 0)
    });
    import!(imports, cost_sign_with_schnorr in ANY_AND_START, bytes(size), (caller, src: P, size: P, algorithm: i32, dst: P) -> i32 {
        no_key(caller, NAME, (src, size), dst, algorithm == 0 || algorithm == 1)
    });
    import!(imports, cost_vetkd_derive_key in ANY_AND_START, bytes(size), (caller, src: P, size: P, curve: i32, dst: P) -> i32 {
        no_key(caller, NAME, (src, size), dst, curve == 0)
    });
}

/// A description of an outcall, in Candid.
fn outcall<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    (src, size): (P, P),
) -> wasmtime::Result<Outcall> {
    let bytes = size.widen();
    if bytes > OUTCALL_BYTES_MAX {
        return violated(format!(
            "ic0.{name}: the description of an outcall has more than {OUTCALL_BYTES_MAX} bytes: {bytes}"
        ));
    }
    let encoded = read(caller, name, src, size)?;
    let mut config = DecoderConfig::new();
    config.set_skipping_quota(OUTCALL_SKIPPED_MAX);
    config.set_full_error_message(false);
    let decode = || candid::decode_one_with_config(&encoded, &config);
    // The decoder's own text is no contract.
    stacker::grow(DECODER_STACK_BYTES, decode).or_else(|_| {
        violated(format!(
            "ic0.{name}: the description of an outcall is not what the interface says, in Candid"
        ))
    })
}

/// What using a key costs: there are none.
fn no_key<P: Pointer>(
    caller: &mut Caller<'_, Host>,
    name: &str,
    (src, size): (P, P),
    dst: P,
    is_known: bool,
) -> wasmtime::Result<i32> {
    let key = read(caller, name, src, size)?;
    // The target must be there whatever the answer.
    read(caller, name, dst, P::narrow(16))?;
    if str::from_utf8(&key).is_err() {
        let key = String::from_utf8_lossy(&key);
        return violated(format!("Failed to decode key name {key}"));
    }
    Ok(if is_known {
        UNKNOWN_KEY
    } else {
        UNKNOWN_CURVE_OR_ALGORITHM
    })
}
