//! What is bounded per address and in all.
mod answers;
mod bodies;
mod rates;
mod shares;
mod work;

pub(crate) use answers::hold;
pub(crate) use bodies::gather;
pub(crate) use rates::{Rates, limit};
pub(crate) use shares::{Full, Share, Shares};
pub(crate) use work::Work;

use axum::{
    extract::FromRequestParts,
    http::{Request, request::Parts},
};
use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
};

/// An address, or all addresses that begin like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    first: IpAddr,
    prefix_bits: u8,
}

impl Network {
    fn v6(address: Ipv6Addr, prefix_bits: u8) -> Self {
        let mask = !(u128::MAX >> prefix_bits);
        Self {
            first: Ipv6Addr::from_bits(address.to_bits() & mask).into(),
            prefix_bits,
        }
    }
}

/// Whom a bound per address counts.
///
/// # Units and bounds
/// An IPv4 address, or the /64 network of an IPv6 address, of which a single client has all addresses. Of such networks
/// in turn a client has many for the asking, so that the /48 network around them is counted too, with a wider bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    own: Network,
    around: Option<Network>,
}

impl Source {
    fn of(address: IpAddr, limit_loopback: bool) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() && !limit_loopback {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => Self {
                own: Network {
                    first: address,
                    prefix_bits: 32,
                },
                around: None,
            },
            IpAddr::V6(address) => Self {
                own: Network::v6(address, 64),
                around: Some(Network::v6(address, 48)),
            },
        })
    }

    /// The widest network that is counted for it.
    pub(crate) fn widest(&self) -> Network {
        self.around.unwrap_or(self.own)
    }
}

/// Who sent a request, as far as that is known. Every request of a connection carries it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Client {
    /// Whom bounds per address count; `None` if it has none of its own.
    pub(crate) source: Option<Source>,
    /// Whether it is on this machine, or behind a proxy there.
    pub(crate) is_local: bool,
}

impl Client {
    pub(crate) fn of(address: IpAddr, limit_loopback: bool) -> Self {
        Self {
            source: Source::of(address, limit_loopback),
            is_local: address.to_canonical().is_loopback(),
        }
    }

    /// The one that sent a request; nobody in particular if it came over no connection.
    pub(crate) fn who_sent<B>(request: &Request<B>) -> Self {
        request.extensions().get().copied().unwrap_or_default()
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
