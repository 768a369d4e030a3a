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

use axum::{extract::FromRequestParts, http::request::Parts};
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
    /// The source of a connection; `None` if it has no bounds of its own.
    pub(crate) fn of(address: IpAddr, limit_loopback: bool) -> Option<Self> {
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

/// Who sent a request, as far as bounds count it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client(pub(crate) Option<Source>);

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().copied()))
    }
}

#[cfg(test)]
mod tests;
