//! The CBOR form of an envelope.
//!
//! # Design
//! `ic_transport_types` tells kinds of requests apart with an internally tagged enum, through which
//! principals survive only in decoders that borrow. Here the fields are read as they stand and the
//! request is put together from those that its kind has. Fields that none has are refused: they are under no
//! signature, and whoever passes a request on could pad it with them.
use ic_principal::Principal;
use ic_transport_types::{Envelope, EnvelopeContent, SenderInfo, SignedDelegation};
use serde::Deserialize;
use serde_bytes::ByteBuf;
use std::borrow::Cow;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    content: Content,
    sender_pubkey: Option<ByteBuf>,
    sender_sig: Option<ByteBuf>,
    sender_delegation: Option<Vec<SignedDelegation>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    request_type: String,
    sender: Principal,
    ingress_expiry: u64,
    nonce: Option<ByteBuf>,
    canister_id: Option<Principal>,
    method_name: Option<String>,
    arg: Option<ByteBuf>,
    paths: Option<Vec<Vec<ByteBuf>>>,
    sender_info: Option<SenderInfo>,
}

/// Decodes an envelope that nothing follows; the error says what is wrong with it.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Envelope<'static>, String> {
    let fields: Fields = ciborium::from_reader(&mut bytes).map_err(|error| error.to_string())?;
    if !bytes.is_empty() {
        return Err(format!("bytes after the end: {}", bytes.len()));
    }
    Ok(Envelope {
        content: Cow::Owned(content(fields.content)?),
        sender_pubkey: fields.sender_pubkey.map(ByteBuf::into_vec),
        sender_sig: fields.sender_sig.map(ByteBuf::into_vec),
        sender_delegation: fields.sender_delegation,
    })
}

fn content(content: Content) -> Result<EnvelopeContent, String> {
    let missing = |field: &str| format!("missing field {field}");
    let Content {
        sender,
        ingress_expiry,
        sender_info,
        ..
    } = content;
    let nonce = content.nonce.map(ByteBuf::into_vec);
    if content.request_type == "read_state" {
        let paths = content.paths.ok_or_else(|| missing("paths"))?;
        let paths = paths.into_iter().map(|path| {
            path.into_iter()
                .map(|label| label.into_vec().into())
                .collect()
        });
        return Ok(EnvelopeContent::ReadState {
            ingress_expiry,
            sender,
            paths: paths.collect(),
        });
    }
    let canister_id = content.canister_id.ok_or_else(|| missing("canister_id"))?;
    let method_name = content.method_name.ok_or_else(|| missing("method_name"))?;
    let arg = content.arg.ok_or_else(|| missing("arg"))?.into_vec();
    match content.request_type.as_str() {
        "call" => Ok(EnvelopeContent::Call {
            nonce,
            ingress_expiry,
            sender,
            canister_id,
            method_name,
            arg,
            sender_info,
        }),
        "query" => Ok(EnvelopeContent::Query {
            ingress_expiry,
            sender,
            canister_id,
            method_name,
            arg,
            nonce,
            sender_info,
        }),
        other => Err(format!("unknown request_type: {other}")),
    }
}
