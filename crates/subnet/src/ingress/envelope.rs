//! The CBOR form of an envelope.
//!
//! # Design
//! `ic_transport_types` tells kinds of requests apart with an internally tagged enum, through which
//! principals survive only in decoders that borrow. Here the fields are read as they stand and the
//! request is put together from those that its kind has. Fields that none has are refused: they are under no
//! signature, and whoever passes a request on could pad it with them. CBOR has other padding (tags, empty segments,
//! long forms of short numbers): an envelope is at most [`PADDING_BYTES_MAX`] longer than the shortest that says the
//! same.
//!
//! # Units and bounds
//! Lists have as many elements as a request may have, so that what is decoded takes little more memory than its bytes:
//! [`DELEGATIONS_MAX`], [`TARGETS_MAX`], [`PATHS_MAX`] paths of [`LABELS_MAX`] labels. Nothing is allocated for a length
//! that is only declared. A reason is at most [`REASON_BYTES_MAX`] long, whatever it quotes.
use super::{
    LABELS_MAX, PATHS_MAX,
    delegation::{DELEGATIONS_MAX, TARGETS_MAX},
};
use ic_principal::Principal;
use ic_transport_types::{
    Delegation, DelegationPermissions, Envelope, EnvelopeContent, SenderInfo, SignedDelegation,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};
use serde_bytes::ByteBuf;
use std::{borrow::Cow, fmt, io, marker::PhantomData};

/// Bytes by which an envelope may be longer than the shortest that says the same.
const PADDING_BYTES_MAX: usize = 1024;
/// Bytes of the longest reason.
const REASON_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    content: Content,
    sender_pubkey: Option<ByteBuf>,
    sender_sig: Option<ByteBuf>,
    sender_delegation: Option<AtMost<SignedLink, DELEGATIONS_MAX>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignedLink {
    delegation: Link,
    signature: ByteBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    pubkey: ByteBuf,
    expiration: u64,
    targets: Option<AtMost<Principal, TARGETS_MAX>>,
    permissions: Option<DelegationPermissions>,
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
    paths: Option<AtMost<AtMost<ByteBuf, LABELS_MAX>, PATHS_MAX>>,
    sender_info: Option<Info>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    info: ByteBuf,
    signer: ByteBuf,
    sig: ByteBuf,
}

impl From<Info> for SenderInfo {
    fn from(info: Info) -> Self {
        Self {
            info: info.info.into_vec(),
            signer: info.signer.into_vec(),
            sig: info.sig.into_vec(),
        }
    }
}

/// A list that ends decoding when it is too long.
struct AtMost<T, const MAX: usize>(Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
            type Value = AtMost<T, MAX>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "a list of at most {MAX}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                // The length that is declared is not believed.
                let mut elements = Vec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MAX {
                        return Err(A::Error::custom(format!("a list of more than {MAX}")));
                    }
                    elements.push(element);
                }
                Ok(AtMost(elements))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

impl From<SignedLink> for SignedDelegation {
    fn from(link: SignedLink) -> Self {
        let Link {
            pubkey,
            expiration,
            targets,
            permissions,
        } = link.delegation;
        Self {
            delegation: Delegation {
                pubkey: pubkey.into_vec(),
                expiration,
                targets: targets.map(|targets| targets.0),
                permissions,
            },
            signature: link.signature.into_vec(),
        }
    }
}

/// Decodes an envelope that nothing follows; the error says what is wrong with it.
pub(super) fn decode(bytes: &[u8]) -> Result<Envelope<'static>, String> {
    decode_whole(bytes).map_err(|mut reason| {
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        reason
    })
}

fn decode_whole(bytes: &[u8]) -> Result<Envelope<'static>, String> {
    let mut rest = bytes;
    let fields: Fields = ciborium::from_reader(&mut rest).map_err(|error| error.to_string())?;
    if !rest.is_empty() {
        return Err(format!("bytes after the end: {}", rest.len()));
    }
    let delegations = fields.sender_delegation;
    let envelope = Envelope {
        content: Cow::Owned(content(fields.content)?),
        sender_pubkey: fields.sender_pubkey.map(ByteBuf::into_vec),
        sender_sig: fields.sender_sig.map(ByteBuf::into_vec),
        sender_delegation: delegations.map(|list| list.0.into_iter().map(Into::into).collect()),
    };
    let mut shortest = Length(0);
    ciborium::into_writer(&envelope, &mut shortest).map_err(|error| error.to_string())?;
    let padding = bytes.len().saturating_sub(shortest.0);
    if padding > PADDING_BYTES_MAX {
        return Err(format!(
            "padding: {padding} bytes, the limit is {PADDING_BYTES_MAX}"
        ));
    }
    Ok(envelope)
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn content(content: Content) -> Result<EnvelopeContent, String> {
    let missing = |field: &str| format!("missing field {field}");
    let Content {
        sender,
        ingress_expiry,
        sender_info,
        ..
    } = content;
    let sender_info = sender_info.map(Into::into);
    let nonce = content.nonce.map(ByteBuf::into_vec);
    if content.request_type == "read_state" {
        let paths = content.paths.ok_or_else(|| missing("paths"))?;
        let paths = paths.0.into_iter().map(|path| {
            path.0
                .into_iter()
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
